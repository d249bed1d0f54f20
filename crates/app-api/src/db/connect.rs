//! Connections to Postgres: a pool, single connections, migrations. Every wait is bounded.
//!
//! Migrations and the setup at the start connect as the owner of the database, the work on tenants' schemas as the
//! provisioner, all else as the service role.

use std::time::Duration;

use anyhow::Context as _;
use diesel::{ConnectionError, sql_query};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use futures_util::FutureExt as _;
use service::Secret;

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::error::SqlState;
use tokio_postgres::tls::NoTlsStream;
use tokio_postgres::{Client, Config, Connection, NoTls, Socket};

use super::query_deadline::{DeadlineStream, ReplyBounds};
use super::roles::Roles;
use super::tenant_restore::SchemaWriter;
use crate::tenant::database::DatabaseNames;

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// Key of the advisory lock under which one replica runs the migrations; no other program on this database may use it.
const MIGRATION_LOCK: i64 = 0x6369_616c;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// These TCP settings let a listening connection without a query detect a server that is gone.
const TCP_USER_TIMEOUT: Duration = Duration::from_secs(10);
const KEEPALIVE_IDLE: Duration = Duration::from_secs(5);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(2);
const KEEPALIVE_RETRIES: u32 = 3;
pub const MAX_POOL_CONNECTIONS: usize = 12;

pub type Pooled = Object<AsyncPgConnection>;

/// Bounds of a statement. The server enforces them; `REPLY_GRACE` later the client fails the connection.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    pub statement: Duration,
    /// One statement of a migration, which may rewrite a table.
    pub migration: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self { statement: Duration::from_secs(15), migration: Duration::from_secs(600) }
    }
}

/// The longest reply to a tenant's role: above everything that is asked of a tenant's schema, whose rows the tenant can write.
const MAX_TENANT_REPLY_BYTES: usize = 32 << 20;

/// The time that the server has to report a statement timeout.
const REPLY_GRACE: Duration = Duration::from_secs(5);

/// The settings that pg_dump writes at the beginning of a script.
const RESTORE_OPTIONS: &str = "-c search_path= -c check_function_bodies=off -c row_security=off -c xmloption=content \
     -c standard_conforming_strings=on -c client_min_messages=warning";

fn session_options(statement_timeout: Duration) -> String {
    let millis = statement_timeout.as_millis();
    format!("-c statement_timeout={millis}ms -c lock_timeout=10s -c timezone=UTC")
}

/// The connections of the pool.
#[derive(Clone, Copy, Debug)]
pub struct PoolLoad {
    /// Connections in use.
    pub current: usize,
    pub limit: usize,
}

#[derive(Clone)]
pub struct Database {
    owner: Config,
    /// The configuration of the connections as the service role: the pool, and the listener.
    service: Config,
    /// The configuration of the connections that create and drop tenants' schemas. Those as a tenant's role derive from it.
    provisioner: Config,
    /// `None`: everything runs as the owner.
    roles: Option<Roles>,
    limits: Limits,
    pool: Pool<AsyncPgConnection>,
}

/// The reason for which a connection or a migration failed.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// A retry cannot succeed: the database was created with other secrets.
    #[error("the database refuses the password")]
    PasswordRefused,
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// A retry cannot succeed: the schema refuses a migration of this version.
    #[error("the database cannot be migrated: {0}")]
    Unmigratable(String),
    /// A retry may succeed: the migration took too long, or another session or a full disk stopped it.
    #[error("the migration failed: {0}")]
    MigrationFailed(String),
}

impl Database {
    /// With the default limits. Without a password there is no service role.
    pub fn new(url: &str, password: Option<&Secret>) -> anyhow::Result<Self> {
        Self::with_limits(url, password, Limits::default())
    }

    /// `url` must hold no password; `password` carries it.
    pub fn with_limits(
        url: &str,
        password: Option<&Secret>,
        limits: Limits,
    ) -> anyhow::Result<Self> {
        let mut owner: Config = url.parse().context("the database's URL")?;
        owner
            .application_name("cial app-api")
            .connect_timeout(CONNECT_TIMEOUT)
            .tcp_user_timeout(TCP_USER_TIMEOUT)
            .keepalives_idle(KEEPALIVE_IDLE)
            .keepalives_interval(KEEPALIVE_INTERVAL)
            .keepalives_retries(KEEPALIVE_RETRIES)
            .options(session_options(limits.statement));
        let mut service = owner.clone();
        let mut provisioner = owner.clone();
        provisioner.options(session_options(limits.migration));
        let roles = password.map(|password| {
            owner.password(password.reveal());
            let database = owner.get_dbname().or(owner.get_user()).unwrap_or_default();
            Roles::new(database, password)
        });
        if let Some(roles) = &roles {
            service.user(&roles.service.name).password(roles.service.password.reveal());
            provisioner.user(&roles.provisioner.name).password(roles.provisioner.password.reveal());
        }
        let pool_config = service.clone();
        let mut manager_config = ManagerConfig::default();
        // Verified before each use: no request receives a connection that died in the pool.
        manager_config.recycling_method = RecyclingMethod::Verified;
        manager_config.custom_setup = Box::new(move |_| {
            let config = pool_config.clone();
            async move {
                let refused = |e: ConnectError| ConnectionError::BadConnection(e.to_string());
                connect_once(&config, limits.statement).await.map_err(refused)
            }
            .boxed()
        });
        let manager = AsyncDieselConnectionManager::new_with_config(String::new(), manager_config);
        let pool = Pool::builder(manager).max_size(MAX_POOL_CONNECTIONS).build()?;
        Ok(Self { owner, service, provisioner, roles, limits, pool })
    }

    pub async fn conn(&self) -> Result<Pooled, ConnectError> {
        let timeout_error = || anyhow::anyhow!("no connection within {CONNECT_TIMEOUT:?}");
        match timeout(CONNECT_TIMEOUT, self.pool.get()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(ConnectError::Unreachable(error.into())),
            Err(_) => Err(ConnectError::Unreachable(timeout_error())),
        }
    }

    pub fn pool_load(&self) -> PoolLoad {
        let status = self.pool.status();
        let current = status.size.saturating_sub(status.available);
        PoolLoad { current, limit: status.max_size }
    }

    /// Opens a connection outside the pool, for one long use.
    pub async fn connect(&self) -> Result<AsyncPgConnection, ConnectError> {
        connect_once(&self.service, self.limits.statement).await
    }

    /// Opens a connection as the owner, for the setup of the database.
    pub async fn connect_owner(&self) -> Result<AsyncPgConnection, ConnectError> {
        connect_once(&self.owner, self.limits.statement).await
    }

    /// Opens a connection that creates and drops tenants' schemas and roles.
    pub async fn connect_provisioner(&self) -> Result<AsyncPgConnection, ConnectError> {
        connect_once(&self.provisioner, self.limits.migration).await
    }

    /// Opens a connection as the role of a tenant, to migrate its schema.
    pub async fn connect_as(
        &self,
        user: &str,
        password: &Secret,
    ) -> Result<AsyncPgConnection, ConnectError> {
        let mut config = self.provisioner.clone();
        config.user(user).password(password.reveal());
        connect_as_tenant(&config, self.limits.migration).await
    }

    /// Opens a connection as the role of a tenant, for short statements in its schema. The search path is set by the connection:
    /// a setting that the tenant gave its role does not count.
    pub async fn connect_for_work(
        &self,
        names: &DatabaseNames,
        password: &Secret,
    ) -> Result<AsyncPgConnection, ConnectError> {
        let mut config = self.service.clone();
        let options = session_options(self.limits.statement);
        config
            .user(&names.user)
            .password(password.reveal())
            .options(format!("{options} -c search_path={}", names.schema));
        connect_as_tenant(&config, self.limits.statement).await
    }

    /// Opens a connection as the role of a tenant, for the statements of an imported schema: with the settings with which pg_dump
    /// expects them to run, and no search path.
    pub async fn connect_for_restore(
        &self,
        names: &DatabaseNames,
        password: &Secret,
    ) -> Result<SchemaWriter, ConnectError> {
        let mut config = self.service.clone();
        let options = session_options(self.limits.migration);
        config
            .user(&names.user)
            .password(password.reveal())
            .options(format!("{options} {RESTORE_OPTIONS}"));
        let deadline = self.limits.migration + REPLY_GRACE;
        let bounds = ReplyBounds { deadline, max_bytes: MAX_TENANT_REPLY_BYTES };
        Ok(SchemaWriter::new(connect_client(&config, bounds).await?, &names.schema))
    }

    /// Says how a program of Postgres reaches the server.
    pub fn program_arguments(&self, user: &str) -> Vec<String> {
        let hosts = self.service.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(directory) => directory.display().to_string(),
        });
        let hosts: Vec<_> = hosts.collect();
        let ports: Vec<_> = self.service.get_ports().iter().map(u16::to_string).collect();
        let mut arguments =
            vec![format!("--host={}", hosts.join(",")), format!("--username={user}")];
        if !ports.is_empty() {
            arguments.push(format!("--port={}", ports.join(",")));
        }
        let database = self.service.get_dbname().or(self.owner.get_user()).unwrap_or_default();
        arguments.push(format!("--dbname={database}"));
        arguments
    }

    /// Opens a connection that receives notifications, to be driven by the caller. It must run no query that could hang.
    pub(super) async fn connect_listener(
        &self,
    ) -> Result<(Client, Connection<Socket, NoTlsStream>), ConnectError> {
        let connected = timeout(CONNECT_TIMEOUT, self.service.connect(NoTls)).await;
        connected.map_err(unreachable)?.map_err(connect_error)
    }

    /// Applies pending migrations, and gives the roles of app-api their rights. Of several processes that start at once, one migrates.
    ///
    /// # Panics
    /// Outside a multi-thread runtime: the migration harness blocks in place.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let mut config = self.owner.clone();
        config.options(session_options(self.limits.migration));
        let mut conn = connect_once(&config, self.limits.migration).await?;
        let lock = sql_query("SELECT pg_advisory_lock($1)")
            .bind::<diesel::sql_types::BigInt, _>(MIGRATION_LOCK);
        lock.execute(&mut conn).await.map_err(unreachable)?;
        let mut harness = AsyncMigrationHarness::new(conn);
        // The lock ends with the connection, at the end of this function.
        let done = harness.run_pending_migrations(MIGRATIONS).map(|done| done.len());
        let done = match done.map_err(|error| error.to_string()) {
            Ok(done) => done,
            Err(error) => return Err(migration_error(&mut harness.into_inner(), error).await),
        };
        if done > 0 {
            tracing::info!(done, "migrations applied");
        }
        let Some(roles) = &self.roles else { return Ok(()) };
        let mut conn = harness.into_inner();
        match roles.ensure(&mut conn).await {
            Ok(()) => Ok(()),
            Err(error) => {
                let error = format!("the roles of app-api: {error}");
                Err(migration_error(&mut conn, error).await)
            }
        }
    }
}

/// A database that is reachable and refuses a statement for no transient reason refuses it again.
async fn migration_error(conn: &mut AsyncPgConnection, error: String) -> ConnectError {
    let is_reachable = sql_query("SELECT 1").execute(conn).await.is_ok();
    if is_reachable && !TRANSIENT_MIGRATION_ERRORS.iter().any(|text| error.contains(text)) {
        ConnectError::Unmigratable(error)
    } else if is_reachable {
        ConnectError::MigrationFailed(error)
    } else {
        ConnectError::Unreachable(anyhow::anyhow!("migrations: {error}"))
    }
}

/// Messages of Postgres for a wait that was too long, a conflict, and a full disk. Diesel passes no error code on.
/// In another language such an error counts as permanent: the process ends, and its restart tries again.
const TRANSIENT_MIGRATION_ERRORS: [&str; 6] = [
    "canceling statement",
    "deadlock detected",
    "could not serialize",
    "could not extend file",
    "out of memory",
    "read-only transaction",
];

fn unreachable(error: impl Into<anyhow::Error>) -> ConnectError {
    ConnectError::Unreachable(error.into())
}

/// Connects to the first host that accepts. `statement_timeout` bounds each query, see [`Limits`].
async fn connect_once(
    config: &Config,
    statement_timeout: Duration,
) -> Result<AsyncPgConnection, ConnectError> {
    let deadline = statement_timeout + REPLY_GRACE;
    connect_bounded(config, ReplyBounds { deadline, max_bytes: usize::MAX }).await
}

/// The same as the role of a tenant.
async fn connect_as_tenant(
    config: &Config,
    statement_timeout: Duration,
) -> Result<AsyncPgConnection, ConnectError> {
    let deadline = statement_timeout + REPLY_GRACE;
    let bounds = ReplyBounds { deadline, max_bytes: MAX_TENANT_REPLY_BYTES };
    connect_bounded(config, bounds).await
}

async fn connect_bounded(
    config: &Config,
    bounds: ReplyBounds,
) -> Result<AsyncPgConnection, ConnectError> {
    let client = connect_client(config, bounds).await?;
    AsyncPgConnection::try_from(client).await.map_err(unreachable)
}

async fn connect_client(config: &Config, bounds: ReplyBounds) -> Result<Client, ConnectError> {
    let connected = timeout(CONNECT_TIMEOUT, async {
        let mut error = unreachable(anyhow::anyhow!("the database's URL names no host"));
        for (index, host) in config.get_hosts().iter().enumerate() {
            let ports = config.get_ports();
            let port = ports.get(index).or(ports.first()).copied().unwrap_or(5432);
            let opened = match host {
                Host::Tcp(name) => match TcpStream::connect((name.as_str(), port)).await {
                    Ok(stream) => {
                        let _ = stream.set_nodelay(true);
                        handshake(config, stream, bounds).await
                    }
                    Err(error) => Err(unreachable(error)),
                },
                Host::Unix(directory) => {
                    let path = directory.join(format!(".s.PGSQL.{port}"));
                    match UnixStream::connect(path).await {
                        Ok(stream) => handshake(config, stream, bounds).await,
                        Err(error) => Err(unreachable(error)),
                    }
                }
            };
            match opened {
                Ok(client) => return Ok(client),
                Err(refused) => error = refused,
            }
        }
        Err(error)
    });
    connected.await.map_err(unreachable)?
}

async fn handshake<S>(
    config: &Config,
    stream: S,
    bounds: ReplyBounds,
) -> Result<Client, ConnectError>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let stream = DeadlineStream::new(stream, bounds);
    let connected = config.connect_raw(stream, NoTls).await;
    let (client, connection) = connected.map_err(connect_error)?;
    // Ends with the client, or with the first query that gets no reply.
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::warn!(%error, "database connection failed");
        }
    });
    Ok(client)
}

fn connect_error(error: tokio_postgres::Error) -> ConnectError {
    match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => ConnectError::PasswordRefused,
        Some(_) | None => unreachable(error),
    }
}
