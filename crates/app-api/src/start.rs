//! Builds the service from its settings and runs it; the commands beside the service.

use std::io::Write as _;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context as _;
use argon2::Params;
use protocol::InstallName;
use service::api_error::ApiError;
use service::client::Client;
use service::connections::Connections;
use service::sealing_keys::SealingKeys;
use service::{Env, ServiceError, SettingsReader, shutdown_token};
use tokio::net::TcpListener;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, Semaphore};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::AbortOnDropHandle;

use crate::accounts;
use crate::app::{App, Parts};
use crate::audit::Actor;
use crate::auth::passwords::Passwords;
use crate::auth::throttle::{MAX_CHANGES, Throttle};
use crate::backups::{self, Backups};
use crate::clock::Clock;
use crate::command_line::RotationStep;
use crate::db::connect::Limits;
use crate::db::{self, Database};
use crate::descriptors::ConnectionLimits;
use crate::events::Events;
use crate::http::listen::{bind_unix, listen};
use crate::image_uploads::store::Store;
use crate::mail::smtp::Mailer;
use crate::model::gateway::Gateway;
use crate::model::upstream::{ModelClient, SILENCE_TIMEOUT};
use crate::orchestrator::{Orchestrator, OrchestratorClient};
use crate::reconcile::observed_cache::ObservedCache;
use crate::reconcile::{self, NotificationReceiver, Reconciler};
use crate::route_feed::RouteFeed;
use crate::sealing_rotation::key_files::KeyFiles;
use crate::sealing_rotation::{self, Rotation};
use crate::settings::{self, Settings, read_addresses};
use crate::summaries::COLLECTION_INTERVAL;
use crate::tenant_databases::{SIZE_CHECK_INTERVAL, TenantDatabases};
use crate::transfer::{ExportTimes, Exports};
use crate::webhooks::client::{ATTEMPT_TIMEOUT, WebhookClient};
use crate::{
    audit, bootstrap_key, database_setup, image_uploads, mail, pulled_images, rollout, routes,
    second_factor, summaries, transfer, webhooks, work,
};

/// Packages that are sent into tenants at once. Each takes some MiB, and at most as long as the orchestrator waits.
const MAX_TASK_STARTS: usize = 16;
/// Streams of events take at most a fourth of the connections, so that others find one.
const PUBLIC_CONNECTIONS_PER_STREAM: usize = 4;
/// The core half of a tenant runs as the same user; no other user inside may connect.
const MODELS_SOCKET_MODE: u32 = 0o600;
/// The folder of tarballs under way, in the directory of this process.
const IMAGE_UPLOADS: &str = "image-uploads";
/// Large packages that lie in memory at once.
const MAX_LARGE_UPLOADS: usize = 4;

/// Serves until a stop is requested.
pub fn serve(env: &Env) -> Result<(), ServiceError> {
    let settings = Settings::read(env)?;
    service::logs::init(&settings.log);
    let connections = ConnectionLimits::from_process()?;
    runtime()?.block_on(async {
        let public = TcpListener::bind(settings.listen).await.context("CIAL_LISTEN")?;
        let internal =
            TcpListener::bind(settings.internal_listen).await.context("CIAL_INTERNAL_LISTEN")?;
        let client = Client::new(&settings.orchestrator_url, settings.orchestrator_token.clone());
        let dependencies = Dependencies {
            orchestrator: Arc::new(OrchestratorClient::new(client)),
            clock: Clock::system(),
            password_cost: Params::default(),
            database_limits: Limits::default(),
            connections,
            webhook_timeout: ATTEMPT_TIMEOUT,
            model_timeout: SILENCE_TIMEOUT,
            max_changes: MAX_CHANGES,
            summary_interval: COLLECTION_INTERVAL,
            size_interval: SIZE_CHECK_INTERVAL,
            export_times: ExportTimes::default(),
        };
        run(settings, dependencies, public, internal, shutdown_token()?).await
    })
}

/// Parts outside this process, which tests replace.
pub struct Dependencies {
    pub orchestrator: Arc<dyn Orchestrator>,
    pub clock: Clock,
    pub password_cost: Params,
    pub database_limits: Limits,
    pub connections: ConnectionLimits,
    pub webhook_timeout: Duration,
    /// The time that the endpoint of the model may be silent.
    pub model_timeout: Duration,
    /// The most changing requests of one person or one key within five minutes.
    pub max_changes: u32,
    /// The time between two collections of summaries.
    pub summary_interval: Duration,
    /// The time between two measurements of tenants' schemas.
    pub size_interval: Duration,
    pub export_times: ExportTimes,
}

/// Serves on these listeners until `stop`.
///
/// # Errors
/// When the settings are wrong or the database cannot be used; a retry cannot succeed.
pub async fn run(
    settings: Settings,
    dependencies: Dependencies,
    public_listener: TcpListener,
    internal_listener: TcpListener,
    stop: CancellationToken,
) -> Result<(), ServiceError> {
    let (notifier, notifications) = reconcile::notify_channel();
    let database = Database::with_limits(
        &settings.database_url,
        Some(&settings.database_password),
        dependencies.database_limits,
    )?;
    let tenant_databases = Arc::new(TenantDatabases::new(
        database.clone(),
        settings.sso_secret.clone(),
        settings.role_prefix.clone(),
    ));
    let ending = stop.child_token();
    let epoch = u64::try_from(dependencies.clock.now().timestamp_millis()).unwrap_or_default();
    let app = App::new(Parts {
        addresses: settings.addresses.clone(),
        trusted: settings.trusted,
        policy: settings.policy,
        database: database.clone(),
        database_ready: AtomicBool::new(false),
        orchestrator: dependencies.orchestrator.clone(),
        observed: Arc::new(ObservedCache::default()),
        reconcile: notifier,
        routes: RouteFeed::new(epoch, settings.addresses),
        events: Events::new(dependencies.connections.public / PUBLIC_CONNECTIONS_PER_STREAM),
        webhook_targets: settings.webhook_targets,
        model: Gateway::new(ModelClient::new(settings.model_targets, dependencies.model_timeout)?),
        package_signatures: settings.package_signatures,
        dev_login: settings.dev_login,
        sends_mail: settings.mail.is_some(),
        stop: ending.clone(),
        clock: dependencies.clock.clone(),
        public_connections: Connections::new(dependencies.connections.public),
        internal_connections: Connections::new(dependencies.connections.internal),
        passwords: Passwords::new(dependencies.password_cost)?,
        throttle: Throttle::new(dependencies.max_changes),
        signer: settings.signer,
        routes_token: settings.routes_token,
        description: OnceLock::new(),
        audit_check: Semaphore::new(1),
        role_prefix: settings.role_prefix,
        tenant_databases: tenant_databases.clone(),
        image_uploads: Arc::new(Store::new(settings.dumps.directory.join(IMAGE_UPLOADS))),
        exports: Exports::new(settings.dumps, dependencies.export_times),
        releases_deleted: Notify::new(),
        work: Notify::new(),
        task_starts: Arc::new(Semaphore::new(MAX_TASK_STARTS)),
        uploads: Arc::new(Semaphore::new(MAX_LARGE_UPLOADS)),
        backups: settings.backups.map(Backups::open).transpose()?,
        device_key: settings.sso_secret.clone(),
        sealing: SealingKeys::new(settings.sso_secret.clone(), settings.sealing_keys),
    });
    let public = listen(
        public_listener,
        app.public_connections.clone(),
        routes::public_service(app.clone()),
        ending.clone(),
    );
    let internal = listen(
        internal_listener,
        app.internal_connections.clone(),
        routes::internal_service(app.clone()),
        ending.clone(),
    );
    let model = match settings.models_socket {
        Some(path) => Some(serve_model(&app, &path, dependencies.connections.model)?),
        None => None,
    };
    let webhook_client =
        WebhookClient::new(settings.webhook_targets, dependencies.webhook_timeout)?;
    let host = app.addresses.admin.host_str().unwrap_or_default();
    let mailer = settings.mail.map(|mail| Mailer::new(mail, host)).transpose()?;
    let servers = (tokio::spawn(public), tokio::spawn(internal));
    let deliveries = tokio::spawn(webhooks::deliver::run(app.clone(), webhook_client));
    // Ends with this function, however that ends: the claims of a process that is gone must not live on.
    let executions = AbortOnDropHandle::new(tokio::spawn(work::run::run(app.clone())));
    let triggers = work::triggers::scheduler::run(app.clone());
    let triggers = AbortOnDropHandle::new(tokio::spawn(triggers));
    let copies = AbortOnDropHandle::new(tokio::spawn(backups::run(app.clone())));
    let mails = mailer.map(|mailer| tokio::spawn(mail::outbox::run(app.clone(), mailer)));
    tracing::info!(listen = %settings.listen, "server started");

    let reconciler = Arc::new(Reconciler {
        database,
        orchestrator: dependencies.orchestrator,
        observed: app.observed.clone(),
        tenant_databases,
        clock: dependencies.clock,
    });
    let key = settings.bootstrap_key.as_ref();
    let (summaries, sizes) = (dependencies.summary_interval, dependencies.size_interval);
    let work = async {
        prepare(&app, &settings.install, key).await?;
        keep_working(&app, reconciler, notifications, (summaries, sizes)).await
    };
    let ended = tokio::select! {
        ended = work => ended,
        () = stop.cancelled() => Ok(()),
    };
    ending.cancel();
    let _ = tokio::join!(servers.0, servers.1, deliveries, executions, triggers, copies);
    for task in [mails, model].into_iter().flatten() {
        let _ = task.await;
    }
    ended
}

/// Serves tenants' cores on the socket of the model.
///
/// # Errors
/// The socket cannot be made.
fn serve_model(
    app: &App,
    path: &Path,
    max_connections: usize,
) -> Result<JoinHandle<()>, ServiceError> {
    let listener = bind_unix(path, MODELS_SOCKET_MODE);
    let listener = listener.with_context(|| format!("CIAL_MODELS_SOCKET: {}", path.display()))?;
    let service = routes::model_service(app.clone());
    let connections = Connections::new(max_connections);
    Ok(tokio::spawn(listen(listener, connections, service, app.stop.clone())))
}

/// Prepares the database.
///
/// # Errors
/// When it cannot be used; a retry cannot succeed.
async fn prepare(
    app: &App,
    install: &InstallName,
    bootstrap_key: Option<&bootstrap_key::Source>,
) -> Result<(), ServiceError> {
    let (database, master) = (&app.database, &app.device_key);
    database_setup::prepare_database(database, install, master, bootstrap_key, app.clock.now())
        .await?;
    app.database_ready.store(true, Ordering::Release);
    tracing::info!(install = %install, "database ready");
    match database.conn().await {
        Ok(mut conn) => sealing_rotation::report_missing_file(&mut conn, &app.sealing).await,
        Err(error) => tracing::warn!(%error, "sealing keys not checked"),
    }
    Ok(())
}

/// Works until the service stops or one of its tasks ends.
///
/// # Errors
/// When the reconciler fails; a retry cannot succeed.
async fn keep_working(
    app: &App,
    reconciler: Arc<Reconciler>,
    notifications: NotificationReceiver,
    (summary_interval, size_interval): (Duration, Duration),
) -> Result<(), ServiceError> {
    let database = &app.database;
    let tenant_databases = reconciler.tenant_databases.clone();
    tokio::select! {
        ended = reconcile::run(reconciler, notifications, app.stop.clone()) => ended.map_err(ServiceError::from),
        () = app.routes.run(database) => Ok(()),
        () = app.events.run(database) => Ok(()),
        () = tenant_databases.clone().keep_migrated() => Ok(()),
        () = tenant_databases.watch_sessions() => Ok(()),
        () = tenant_databases.watch_sizes(size_interval, &app.clock) => Ok(()),
        () = rollout::drive::run(app) => Ok(()),
        () = summaries::run(app, summary_interval) => Ok(()),
        () = transfer::run(app) => Ok(()),
        () = pulled_images::run(app) => Ok(()),
        () = image_uploads::run(app) => Ok(()),
    }
}

/// Probes the service of this container.
///
/// # Errors
/// When the service is not ready.
pub fn healthcheck(env: &Env) -> Result<(), ServiceError> {
    let mut vars = SettingsReader::new(env);
    let listen = vars.value::<SocketAddr>(&settings::LISTEN);
    let listen = vars.finish(|| listen)?;
    let healthy = service::healthcheck::healthcheck(listen, "/readyz") == ExitCode::SUCCESS;
    if healthy { Ok(()) } else { Err(anyhow::anyhow!("not ready").into()) }
}

/// Prints a one-time link with which a locked-out owner sets a new password.
pub fn reset_password(env: &Env, email: &str) -> Result<(), ServiceError> {
    let mut vars = SettingsReader::new(env);
    let (database, addresses) = (Settings::read_database(&mut vars), read_addresses(&mut vars));
    let ((url, password), addresses) = vars.finish(|| Some((database?, addresses?)))?;
    runtime()?.block_on(async {
        let mut conn = Database::new(&url, Some(&password))?.connect().await?;
        let actor = Actor::command("app-api reset-password");
        let token = accounts::reset_token(&mut conn, actor, email, Clock::system().now()).await?;
        let token = token.with_context(|| format!("nobody signed up as {email}"))?;
        let link = accounts::reset_url(&addresses, &token);
        writeln!(std::io::stdout(), "{link}\nIt works once, for 30 minutes.")?;
        Ok(())
    })
}

/// Ends the second factor of a person who lost the app and the recovery codes.
///
/// # Errors
/// When nobody has this address, or the person has no second factor.
pub fn reset_second_factor(env: &Env, email: &str) -> Result<(), ServiceError> {
    let mut vars = SettingsReader::new(env);
    let database = Settings::read_database(&mut vars);
    let (url, password) = vars.finish(|| database)?;
    runtime()?.block_on(async {
        let mut conn = Database::new(&url, Some(&password))?.connect().await?;
        let user = db::user::by_email(&mut conn, &email.trim().to_lowercase()).await?;
        let user = user.with_context(|| format!("nobody signed up as {email}"))?;
        let (actor, now) = (Actor::command("app-api reset-second-factor"), Clock::system().now());
        let reset = second_factor::reset_by(&mut conn, actor, &user, now).await;
        reset.map_err(ApiError::into_error)?;
        writeln!(std::io::stdout(), "{email} signs in by password alone.")?;
        Ok(())
    })
}

/// Prints the number of audit entries and the hash of the last one.
///
/// # Errors
/// When the chain has a break, or the log cannot be read.
pub fn verify_audit(env: &Env) -> Result<(), ServiceError> {
    let mut vars = SettingsReader::new(env);
    let database = Settings::read_database(&mut vars);
    let (url, password) = vars.finish(|| database)?;
    runtime()?.block_on(async {
        let mut conn = Database::new(&url, Some(&password))?.connect().await?;
        let verified = audit::verify::verify(&mut conn).await?.map_err(anyhow::Error::from)?;
        let hash = audit::chain::hex(&verified.hash);
        writeln!(std::io::stdout(), "audit log: {} entries, head {hash}", verified.entries)?;
        Ok(())
    })
}

/// Takes a step of the rotation of the key that encrypts secrets at rest.
///
/// # Errors
/// The step's own; after `start`, a text that no key opens.
pub fn rotate_secrets(
    env: &Env,
    orchestrator: PathBuf,
    step: RotationStep,
) -> Result<(), ServiceError> {
    let mut vars = SettingsReader::new(env);
    let (database, keys) =
        (Settings::read_database(&mut vars), Settings::read_sealing_keys(&mut vars));
    let ((url, password), (sso_secret, app_api)) = vars.finish(|| Some((database?, keys?)))?;
    let rotation = Rotation { files: KeyFiles { app_api, orchestrator }, sso_secret };
    runtime()?.block_on(async {
        let mut conn = Database::new(&url, Some(&password))?.connect().await?;
        let now = Clock::system().now();
        let mut out = std::io::stdout();
        match step {
            RotationStep::Start => {
                let resealed = rotation.start(&mut conn, now).await?;
                write!(out, "{resealed}")?;
                if !resealed.unopened.is_empty() {
                    let list = resealed.unopened.join("\n");
                    return Err(anyhow::anyhow!("these cannot be decrypted:\n{list}").into());
                }
            }
            RotationStep::Status => write!(out, "{}", rotation.status(&mut conn).await?)?,
            RotationStep::Finish => {
                let removed = rotation.finish(&mut conn, now).await?;
                if removed.is_empty() {
                    writeln!(out, "No key was removed: the file has no older one.")?;
                }
                for id in removed {
                    writeln!(out, "removed {id}")?;
                }
            }
        }
        Ok(())
    })
}

/// Multi-threaded, because migrations block in place.
fn runtime() -> std::io::Result<Runtime> {
    Builder::new_multi_thread().enable_all().build()
}
