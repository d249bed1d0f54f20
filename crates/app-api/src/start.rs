//! From settings to a running service, and the commands beside it.

use std::io::Write as _;
use std::net::{Ipv4Addr, SocketAddr};
use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::Context as _;
use argon2::Params;
use service::client::Client;
use service::{Env, Failed, Vars, stop_requested};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio_util::sync::CancellationToken;

use crate::accounts::{self, Passwords};
use crate::app::{App, Parts};
use crate::clock::Clock;
use crate::db::Database;
use crate::feed::Routes;
use crate::listen::listen;
use crate::orchestrator::{Orchestrator, Remote};
use crate::reconcile::sight::Sight;
use crate::reconcile::{self, Reconciler};
use crate::settings::{Settings, read_addresses};
use crate::throttle::Throttle;
use crate::{internal, opening, routes};

/// The service itself, until it is asked to stop.
pub fn serve(env: &Env) -> Result<(), Failed> {
    let settings = Settings::read(env)?;
    service::logs::start(&settings.log);
    runtime()?.block_on(async {
        let public = TcpListener::bind(settings.listen).await.context("CIAL_LISTEN")?;
        let inside =
            TcpListener::bind(settings.internal_listen).await.context("CIAL_INTERNAL_LISTEN")?;
        let to = Client::new(&settings.orchestrator_url, settings.orchestrator_token.clone());
        let world = World {
            orchestrator: Arc::new(Remote::new(to)),
            clock: Clock::system(),
            password_cost: Params::default(),
        };
        run(settings, world, public, inside, stop_requested()?).await
    })
}

/// What lies outside and tests replace.
pub struct World {
    pub orchestrator: Arc<dyn Orchestrator>,
    pub clock: Clock,
    pub password_cost: Params,
}

/// Serves on these listeners until `stop`; an error is one that waiting does not cure.
pub async fn run(
    settings: Settings,
    world: World,
    public: TcpListener,
    inside: TcpListener,
    stop: CancellationToken,
) -> Result<(), Failed> {
    let (bell, wishes) = reconcile::bell();
    let database = Database::new(&settings.database_url, Some(&settings.database_password))?;
    let epoch = u64::try_from(world.clock.now().timestamp_millis()).unwrap_or_default();
    let app = App::new(Parts {
        addresses: settings.addresses,
        trusted: settings.trusted,
        policy: settings.policy,
        database: database.clone(),
        opened: AtomicBool::new(false),
        orchestrator: world.orchestrator.clone(),
        sight: Arc::new(Sight::default()),
        bell,
        routes: Routes::new(epoch),
        clock: world.clock.clone(),
        passwords: Passwords::new(world.password_cost)?,
        throttle: Throttle::default(),
        signer: settings.signer,
    });
    let ending = stop.child_token();
    let front = listen(public, routes::service(app.clone()), ending.clone());
    let back =
        listen(inside, internal::service(app.clone(), settings.routes_token), ending.clone());
    let servers = (tokio::spawn(front), tokio::spawn(back));
    tracing::info!(listen = %settings.listen, "serving");

    let reconciler = Arc::new(Reconciler {
        database: database.clone(),
        orchestrator: world.orchestrator,
        sight: app.sight.clone(),
        clock: world.clock,
    });
    let work = async {
        opening::open(&database, &settings.install, &settings.sso_secret).await?;
        app.opened.store(true, Ordering::Release);
        tracing::info!(install = %settings.install, "the database is open");
        tokio::select! {
            ended = reconcile::run(reconciler, wishes, ending.clone()) => ended.map_err(Failed::from),
            () = app.routes.keep(&database) => Ok(()),
        }
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Ok(()),
    };
    ending.cancel();
    let _ = tokio::join!(servers.0, servers.1);
    ended
}

/// Whether the service beside this process is ready.
pub fn healthcheck(env: &Env) -> Result<(), Failed> {
    let mut vars = Vars::new(env);
    let listen = vars.or("CIAL_LISTEN", SocketAddr::from((Ipv4Addr::UNSPECIFIED, 3100)));
    let listen = vars.finish(|| listen)?;
    let healthy = service::probe::healthcheck(listen, "/readyz") == ExitCode::SUCCESS;
    if healthy { Ok(()) } else { Err(anyhow::anyhow!("not ready").into()) }
}

/// Prints a one-time link with which a locked-out owner chooses a new password.
pub fn reset_password(env: &Env, email: &str) -> Result<(), Failed> {
    let mut vars = Vars::new(env);
    let (database, addresses) = (Settings::read_database(&mut vars), read_addresses(&mut vars));
    let ((url, password), addresses) = vars.finish(|| Some((database?, addresses?)))?;
    runtime()?.block_on(async {
        let mut conn = Database::new(&url, Some(&password))?.dial().await?;
        let token = accounts::reset_token(&mut conn, email, Clock::system().now()).await?;
        let token = token.with_context(|| format!("nobody signed up as {email}"))?;
        let link = format!("{}/admin/reset?token={}", addresses.admin_origin(), token.reveal());
        writeln!(std::io::stdout(), "{link}\nIt works once, for 30 minutes.")?;
        Ok(())
    })
}

/// Several threads: migrations block in place.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}
