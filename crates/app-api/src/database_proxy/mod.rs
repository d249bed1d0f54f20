//! The `database-proxy` subcommand: the way of programs inside tenants to their own schemas on Postgres.
//!
//! Tenants' networks do not lead to Postgres. The proxy listens in a directory of each tenant, checks that a client wants
//! the tenant's own role, and passes bytes on. It knows no password and no SQL, and reads the first messages of a
//! connection only. It runs as a service of its own: what tenants send never reaches a process with secrets.

mod server_scan;
mod session;
mod startup;
mod tenants;
mod upstream;

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::routing::{delete, get, put};
use protocol::TenantId;
use protocol::database_proxy::CONTROL_SOCKET;
use service::descriptors::{connection_limit, raise_open_file_limit};
use service::logs::LogFilter;
use service::settings::{SettingsErrors, shared};
use service::{Env, ServiceError, Setting, SettingsReader};
use tokio_util::sync::CancellationToken;

pub(crate) use self::tenants::MAX_SESSIONS;
pub use self::tenants::Tenants;
pub use self::upstream::Upstream;
use crate::http::listen::bind_unix;
use crate::settings::DATABASE_URL;

const TENANT_DATABASES_DIR: Setting = Setting::with_default(
    "CIAL_TENANT_DATABASES_DIR",
    "/run/cial/tenant-databases",
    "the directories of the tenants whose apps want a database",
);
const SESSIONS: Setting = Setting::with_default(
    "CIAL_TENANT_DATABASE_CONNECTIONS",
    "60",
    "connections of all tenants together; with 40 for everything else they stay below `max_connections` of Postgres",
)
.for_operators();

/// Every variable that the proxy reads.
pub const SETTINGS: &[Setting] = &[shared::LOG, DATABASE_URL, TENANT_DATABASES_DIR, SESSIONS];

/// Standard streams, epoll, calls of the orchestrator, handshakes. The rest is for sessions and the sockets of tenants.
const FIXED_DESCRIPTORS: usize = 512;
/// A client and the server.
const PER_SESSION: usize = 2;
/// Only the orchestrator, which runs as the same user.
const CONTROL_MODE: u32 = 0o600;
const CHECK_TIMEOUT: Duration = Duration::from_secs(3);

struct Settings {
    log: LogFilter,
    upstream: Upstream,
    root: PathBuf,
    max_sessions: usize,
}

impl Settings {
    fn read(env: &Env) -> Result<Self, SettingsErrors> {
        let mut vars = SettingsReader::new(env);
        let log = vars.value(&shared::LOG);
        let upstream = vars.value(&DATABASE_URL);
        let root = vars.value(&TENANT_DATABASES_DIR);
        let max_sessions = vars.value(&SESSIONS);
        if max_sessions == Some(0) {
            vars.reject::<()>(&SESSIONS, "must be at least 1");
        }
        vars.finish(|| {
            let (log, root, max_sessions) = (log?, root?, max_sessions?);
            Some(Self { log, upstream: upstream?, root, max_sessions })
        })
    }
}

/// Serves until the process receives a stop signal.
///
/// # Errors
/// Invalid settings, too few descriptors, and a directory that cannot be used.
pub fn serve(env: &Env) -> Result<(), ServiceError> {
    let settings = Settings::read(env)?;
    service::logs::init(&settings.log);
    let reserved = FIXED_DESCRIPTORS + PER_SESSION * settings.max_sessions;
    connection_limit(raise_open_file_limit(), reserved, 1)?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let tenants = Tenants::new(settings.root.clone(), settings.upstream, settings.max_sessions);
        run(Arc::new(tenants), settings.root, service::shutdown_token()?).await
    })?)
}

/// Listens for all tenants and for the orchestrator, until `stop`. `root`: the directory of `tenants`.
///
/// # Errors
/// The directory cannot be used.
pub async fn run(
    tenants: Arc<Tenants>,
    root: PathBuf,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let control = root.join(CONTROL_SOCKET);
    let describe = || format!("CIAL_TENANT_DATABASES_DIR: {}", root.display());
    let listener = bind_unix(&control, CONTROL_MODE).with_context(describe)?;
    tenants.follow_all().with_context(describe)?;
    let router = Router::new()
        .route("/healthz", get(async || StatusCode::NO_CONTENT))
        .route("/tenants/{id}", put(follow))
        .route("/tenants/{id}/connections", delete(end_connections))
        .with_state(tenants);
    Ok(axum::serve(listener, router).with_graceful_shutdown(stop.cancelled_owned()).await?)
}

async fn follow(State(tenants): State<Arc<Tenants>>, Path(id): Path<TenantId>) -> StatusCode {
    match tenants.follow(id) {
        Ok(()) => StatusCode::NO_CONTENT,
        Err(error) => {
            tracing::error!(tenant = %id, %error, "database socket failed");
            StatusCode::INTERNAL_SERVER_ERROR
        }
    }
}

async fn end_connections(
    State(tenants): State<Arc<Tenants>>,
    Path(id): Path<TenantId>,
) -> StatusCode {
    tenants.end_connections(id).await;
    StatusCode::NO_CONTENT
}

/// The health check of the service: succeeds when the control socket answers.
///
/// # Errors
/// Invalid settings, and a control socket that does not answer.
pub fn check(env: &Env) -> Result<(), ServiceError> {
    let mut vars = SettingsReader::new(env);
    let root = vars.value::<PathBuf>(&TENANT_DATABASES_DIR);
    let root = vars.finish(|| root)?;
    let mut stream = UnixStream::connect(root.join(CONTROL_SOCKET))?;
    stream.set_read_timeout(Some(CHECK_TIMEOUT))?;
    stream.set_write_timeout(Some(CHECK_TIMEOUT))?;
    stream.write_all(b"GET /healthz HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")?;
    let mut status = [0; 12];
    stream.read_exact(&mut status)?;
    if status == *b"HTTP/1.1 204" { Ok(()) } else { Err(anyhow::anyhow!("not ready").into()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_names_every_variable_that_is_read() {
        let read = service::settings::variables_read(|env| drop(Settings::read(env)));
        assert_eq!(read, SETTINGS.iter().map(|setting| setting.name.to_owned()).collect());
        let table = service::settings::reference_table(SETTINGS);
        testkit::reference::check_table("docs/reference/settings.md", "### database-proxy", &table);
    }
}
