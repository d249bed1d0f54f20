//! The only part that holds the engine's socket: tenants as containers.

pub mod access;
pub mod allowed_images;
pub mod api;
pub mod busy;
pub mod driver;
pub mod keeper;
mod metrics;
mod plain_text;
mod privilege;
pub mod readiness;
pub mod settings;
pub mod state_dir;
pub mod tenant_dirs;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use service::{Env, ServiceError, SettingsReader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access::Tokens;
use crate::allowed_images::AllowedImages;
use crate::driver::docker::{ContainerTemplate, DockerDriver, DockerSettings, EngineDirs};
use crate::keeper::{Keeper, Rules};
use crate::settings::{Egress, EnginePaths, Publish, Settings};
use crate::state_dir::StateDir;
use crate::tenant_dirs::TenantDirs;

/// Serves until it is asked to stop.
pub fn serve(env: &Env) -> Result<(), ServiceError> {
    // First: our secrets can be read by the user that we become, and by no other.
    privilege::drop_root(&settings::socket(env)?)?;
    let settings = Settings::read(env)?;
    service::logs::init(&settings.log);
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(async {
        let listener = TcpListener::bind(settings.listen).await.context(settings.listen)?;
        let stop = service::shutdown_token()?;
        let (tokens, images) = (settings.tokens.clone(), settings.images.clone());
        let keeper = keeper(settings)?;
        answer(listener, keeper, images, tokens, stop).await
    })?)
}

/// The `healthcheck` subcommand.
pub fn healthcheck(env: &Env) -> Result<ExitCode, ServiceError> {
    let mut vars = SettingsReader::new(env);
    let listen = vars.or_default(settings::LISTEN, SocketAddr::from(([0, 0, 0, 0], 3200)));
    let listen = vars.finish(|| listen)?;
    let local = SocketAddr::from(([127, 0, 0, 1], listen.port()));
    Ok(service::healthcheck::healthcheck(local, "/healthz"))
}

/// Serves the API on `listener` and follows the engine, until `stop`.
pub async fn answer(
    listener: TcpListener,
    keeper: Arc<Keeper>,
    images: AllowedImages,
    tokens: Tokens,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut following = tokio::spawn(keeper.clone().follow());
    let router = api::router(keeper.clone(), images, tokens);
    tracing::info!(address = %listener.local_addr()?, "serving");
    let serving =
        axum::serve(listener, router).with_graceful_shutdown(stop.clone().cancelled_owned());
    // Watches and followed logs never end by themselves: whoever reads them takes up again elsewhere.
    let bounded = async {
        stop.cancelled().await;
        keeper.drain();
        tokio::time::sleep(GRACE).await;
    };
    tokio::select! {
        ended = serving => ended?,
        () = bounded => {}
        // Nothing would fall asleep or wake any more, and all calls would still be answered.
        ended = &mut following => {
            ended.context("the loop that follows the engine broke")?;
            anyhow::bail!("the loop that follows the engine ended");
        }
    }
    following.abort();
    keeper.acts_ended().await;
    keeper.note_uses();
    Ok(())
}

const GRACE: std::time::Duration = std::time::Duration::from_secs(2);

fn keeper(settings: Settings) -> anyhow::Result<Arc<Keeper>> {
    let dirs = match settings.paths {
        EnginePaths::Volumes => EngineDirs::Volumes,
        EnginePaths::Host => EngineDirs::Host {
            sockets: settings.sockets.clone(),
            secrets: settings.secrets.clone(),
        },
    };
    let tenant_dirs = TenantDirs::new(settings.sockets, settings.secrets, settings.master_keys);
    let template = ContainerTemplate {
        install: settings.install,
        image: settings.images.own().to_owned(),
        publish: settings.publish == Publish::Loopback,
        egress: settings.egress == Egress::Open,
    };
    let engine = DockerSettings { socket: settings.socket, template, pool: settings.pool, dirs };
    let driver = DockerDriver::new(engine, tenant_dirs).context("cannot watch directories")?;
    let rules = Rules {
        starts: settings.starts,
        freeze_after: settings.freeze_after,
        sleep_after: settings.sleep_after,
        ..Rules::default()
    };
    // Later than any revision of an earlier run, unless the clock was set back by more than that run took.
    Ok(Keeper::new(Arc::new(driver), StateDir::new(settings.state), unix_millis(), rules))
}

fn unix_millis() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the shell's one look at the clock")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
