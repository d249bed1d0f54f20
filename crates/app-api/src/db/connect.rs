//! Connections to Postgres: a pool, single connections, migrations. Every wait is bounded.

use std::time::Duration;

use anyhow::Context as _;
use diesel::{ConnectionError, ConnectionResult, sql_query};
use diesel_async::pooled_connection::deadpool::{Object, Pool};
use diesel_async::pooled_connection::{
    AsyncDieselConnectionManager, ManagerConfig, RecyclingMethod,
};
use diesel_async::{AsyncMigrationHarness, AsyncPgConnection, RunQueryDsl as _};
use diesel_migrations::{EmbeddedMigrations, MigrationHarness as _, embed_migrations};
use futures_util::FutureExt as _;
use service::Secret;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Config, NoTls};

const MIGRATIONS: EmbeddedMigrations = embed_migrations!();
/// Key of the advisory lock; no other program on this database may use it.
const MIGRATION_LOCK: i64 = 0x6369_616c;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
pub const MAX_POOL_CONNECTIONS: usize = 12;

pub type Pooled = Object<AsyncPgConnection>;

#[derive(Clone)]
pub struct Database {
    config: Config,
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
}

impl Database {
    /// `url` must hold no password; `password` carries it.
    pub fn new(url: &str, password: Option<&Secret>) -> anyhow::Result<Self> {
        let mut config: Config = url.parse().context("the database's URL")?;
        if let Some(password) = password {
            config.password(password.reveal());
        }
        config
            .application_name("cial app-api")
            .connect_timeout(CONNECT_TIMEOUT)
            .options("-c statement_timeout=15s -c lock_timeout=10s -c timezone=UTC");
        let pool_config = config.clone();
        let mut how = ManagerConfig::default();
        // Verified before each use: no request receives a connection that died in the pool.
        how.recycling_method = RecyclingMethod::Verified;
        how.custom_setup = Box::new(move |_| {
            let config = pool_config.clone();
            async move {
                let refused = |e: ConnectError| ConnectionError::BadConnection(e.to_string());
                connect_once(&config).await.map_err(refused)
            }
            .boxed()
        });
        let manager = AsyncDieselConnectionManager::new_with_config(String::new(), how);
        let pool = Pool::builder(manager).max_size(MAX_POOL_CONNECTIONS).build()?;
        Ok(Self { config, pool })
    }

    pub async fn conn(&self) -> Result<Pooled, ConnectError> {
        let late = || anyhow::anyhow!("no connection within {CONNECT_TIMEOUT:?}");
        match timeout(CONNECT_TIMEOUT, self.pool.get()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(ConnectError::Unreachable(error.into())),
            Err(_) => Err(ConnectError::Unreachable(late())),
        }
    }

    /// Opens a connection outside the pool, for one long use.
    pub async fn connect(&self) -> Result<AsyncPgConnection, ConnectError> {
        connect_once(&self.config).await
    }

    /// Applies pending migrations. Of several processes that start at once, one migrates.
    ///
    /// # Panics
    /// Outside a multi-thread runtime: the migration harness blocks in place.
    pub async fn migrate(&self) -> Result<(), ConnectError> {
        let mut conn = self.connect().await?;
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
        Ok(())
    }
}

/// A database that is reachable and refuses a statement for no transient reason refuses it again.
async fn migration_error(conn: &mut AsyncPgConnection, error: String) -> ConnectError {
    let is_reachable = sql_query("SELECT 1").execute(conn).await.is_ok();
    if is_reachable && !TRANSIENT_MIGRATION_ERRORS.iter().any(|text| error.contains(text)) {
        ConnectError::Unmigratable(error)
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

async fn connect_once(config: &Config) -> Result<AsyncPgConnection, ConnectError> {
    let connected = timeout(CONNECT_TIMEOUT, config.connect(NoTls)).await.map_err(unreachable)?;
    let (client, connection) = connected.map_err(|error| match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => ConnectError::PasswordRefused,
        Some(_) | None => unreachable(error),
    })?;
    let ready: ConnectionResult<_> =
        AsyncPgConnection::try_from_client_and_connection(client, connection).await;
    ready.map_err(unreachable)
}
