//! The only part that holds the engine's socket: tenants as containers.

pub mod access;
pub mod allowed_images;
pub mod api;
pub mod commands;
pub mod controller;
pub mod core_back;
mod database_proxy;
mod descriptors;
pub mod driver;
pub mod firewall;
pub mod listener;
mod metrics;
pub mod operations;
mod plain_text;
mod privilege;
pub mod quota;
pub mod readiness;
pub mod report;
pub mod revocation;
pub mod settings;
pub mod sleep;
pub mod tenant_dirs;
pub mod tenants;

use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use service::{Env, ServiceError, SettingsReader};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::access::Tokens;
use crate::allowed_images::AllowedImages;
use crate::controller::Controller;
use crate::descriptors::DescriptorBudget;
use crate::driver::docker::{ContainerTemplate, DockerDriver, DockerSettings, EngineDirs};
use crate::listener::{EvictingListener, RequestConnection};
use crate::settings::{Egress, EnginePaths, Publish, Settings};
use crate::sleep::SleepSettings;
use crate::tenant_dirs::TenantDirs;
use crate::tenants::state_dir::StateDir;

/// Serves until the process receives a stop signal.
pub fn serve(env: &Env) -> Result<(), ServiceError> {
    // The user changes first: only the new user may read the secrets.
    privilege::drop_root(&settings::socket(env)?)?;
    let settings = Settings::read(env)?;
    service::logs::init(&settings.log);
    let sleep = sleep_settings(&settings);
    let budget = DescriptorBudget::from_process(&sleep)?;
    tracing::info!(limit = budget.limit, connections = budget.connections, "descriptor budget");
    let runtime = tokio::runtime::Runtime::new()?;
    Ok(runtime.block_on(async {
        let listener = TcpListener::bind(settings.listen).await.context(settings.listen)?;
        let listener = EvictingListener::new(listener, budget.connections);
        let stop = service::shutdown_token()?;
        let (tokens, images) = (settings.tokens.clone(), settings.images.clone());
        let controller = start_controller(settings, sleep)?;
        serve_api(listener, controller, images, tokens, stop).await
    })?)
}

/// The `healthcheck` subcommand.
pub fn healthcheck(env: &Env) -> Result<ExitCode, ServiceError> {
    let mut vars = SettingsReader::new(env);
    let listen = vars.value::<SocketAddr>(&settings::LISTEN);
    let listen = vars.finish(|| listen)?;
    let local = SocketAddr::from(([127, 0, 0, 1], listen.port()));
    Ok(service::healthcheck::healthcheck(local, "/healthz"))
}

/// Serves the API on `listener` and runs the controller, until `stop`.
///
/// # Errors
/// When the listener fails, or the controller's loop ends: nothing would fall asleep or wake any more.
pub async fn serve_api(
    listener: EvictingListener,
    controller: Arc<Controller>,
    images: AllowedImages,
    tokens: Tokens,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let mut running = tokio::spawn(controller.clone().run());
    let router = api::router(controller.clone(), images, tokens, listener.connections());
    tracing::info!(address = %axum::serve::Listener::local_addr(&listener)?, "serving");
    let service = router.into_make_service_with_connect_info::<RequestConnection>();
    let serving =
        axum::serve(listener, service).with_graceful_shutdown(stop.clone().cancelled_owned());
    // Watches and followed logs never end by themselves; their readers reconnect elsewhere.
    let deadline = async {
        stop.cancelled().await;
        controller.sleep.shut_down();
        controller.commands.shut_down();
        tokio::time::sleep(SHUTDOWN_TIMEOUT).await;
    };
    tokio::select! {
        ended = serving => ended?,
        () = deadline => {}
        ended = &mut running => {
            ended.context("the controller's loop panicked")?;
            anyhow::bail!("the controller's loop ended");
        }
    }
    running.abort();
    controller.commands.wait_for_ends().await;
    controller.sleep.wait_for_calls().await;
    controller.sleep.save_states();
    Ok(())
}

/// How long responses under way may take at the end.
const SHUTDOWN_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(2);

fn start_controller(settings: Settings, sleep: SleepSettings) -> anyhow::Result<Arc<Controller>> {
    let dirs = match settings.paths {
        EnginePaths::Volumes => EngineDirs::Volumes,
        EnginePaths::Host => EngineDirs::Host(settings.dirs.clone()),
    };
    let tenant_dirs = TenantDirs::new(settings.dirs, settings.master_keys);
    let template = ContainerTemplate {
        install: settings.install,
        image: settings.images.default_tag().to_owned(),
        publish: settings.publish == Publish::Loopback,
        egress: settings.egress == Egress::Open,
    };
    let engine = DockerSettings {
        socket: settings.socket,
        template,
        pool: settings.pool,
        dirs,
        state_dir: settings.state.clone(),
        disk_reserve_bytes: settings.disk_reserve_bytes,
        quota_socket: settings.quota_socket,
    };
    let driver = DockerDriver::new(engine, tenant_dirs).context("cannot watch directories")?;
    // Later than any revision of an earlier process, unless the clock was set back by more than that process ran.
    Ok(Controller::new(Arc::new(driver), StateDir::new(settings.state), unix_millis(), sleep))
}

fn sleep_settings(settings: &Settings) -> SleepSettings {
    SleepSettings {
        concurrent_starts: settings.starts,
        freeze_after: settings.freeze_after,
        sleep_after: settings.sleep_after,
        ..SleepSettings::default()
    }
}

fn unix_millis() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the process reads the wall clock once")]
    let now = std::time::SystemTime::now();
    let since = now.duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or_default()
}
