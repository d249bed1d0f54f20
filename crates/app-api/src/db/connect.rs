//! The way to Postgres: a pool, single connections, migrations. Every wait has an end.

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
/// Any number will do, as long as nobody else on this database takes it.
const MIGRATION_LOCK: i64 = 0x6369_616c;
const PATIENCE: Duration = Duration::from_secs(3);
const CONNECTIONS: usize = 12;

pub type Pooled = Object<AsyncPgConnection>;

#[derive(Clone)]
pub struct Database {
    config: Config,
    pool: Pool<AsyncPgConnection>,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum NoConnection {
    /// Waiting will not help: the database belongs to other secrets.
    #[error("the database refuses the password")]
    PasswordRefused,
    #[error("{0:#}")]
    Unreachable(anyhow::Error),
    /// Waiting will not help: the schema cannot be brought to what this version needs.
    #[error("the database cannot be migrated: {0}")]
    Unmigratable(String),
}

impl Database {
    /// `url` without a password, which travels on its own.
    pub fn new(url: &str, password: Option<&Secret>) -> anyhow::Result<Self> {
        let mut config: Config = url.parse().context("the database's URL")?;
        if let Some(password) = password {
            config.password(password.reveal());
        }
        config
            .application_name("cial app-api")
            .connect_timeout(PATIENCE)
            .options("-c statement_timeout=15s -c lock_timeout=10s -c timezone=UTC");
        let dial = config.clone();
        let mut how = ManagerConfig::default();
        // Proven on every use: a request never meets a connection that died in the pool.
        how.recycling_method = RecyclingMethod::Verified;
        how.custom_setup = Box::new(move |_| {
            let config = dial.clone();
            async move {
                let refused = |e: NoConnection| ConnectionError::BadConnection(e.to_string());
                dial_once(&config).await.map_err(refused)
            }
            .boxed()
        });
        let manager = AsyncDieselConnectionManager::new_with_config(String::new(), how);
        let pool = Pool::builder(manager).max_size(CONNECTIONS).build()?;
        Ok(Self { config, pool })
    }

    pub async fn conn(&self) -> Result<Pooled, NoConnection> {
        let late = || anyhow::anyhow!("no connection within {PATIENCE:?}");
        match timeout(PATIENCE, self.pool.get()).await {
            Ok(Ok(conn)) => Ok(conn),
            Ok(Err(error)) => Err(NoConnection::Unreachable(error.into())),
            Err(_) => Err(NoConnection::Unreachable(late())),
        }
    }

    /// A connection outside the pool, for one long use.
    pub async fn dial(&self) -> Result<AsyncPgConnection, NoConnection> {
        dial_once(&self.config).await
    }

    /// Brings the schema up to date; of several that start at once, one does it.
    ///
    /// Needs a multi-thread runtime: the harness blocks in place.
    pub async fn migrate(&self) -> Result<(), NoConnection> {
        let mut conn = self.dial().await?;
        let lock = sql_query("SELECT pg_advisory_lock($1)")
            .bind::<diesel::sql_types::BigInt, _>(MIGRATION_LOCK);
        lock.execute(&mut conn).await.map_err(unreachable)?;
        let mut harness = AsyncMigrationHarness::new(conn);
        // The lock goes with the connection, at the end of this function.
        let done = harness.run_pending_migrations(MIGRATIONS).map(|done| done.len());
        let done = match done.map_err(|error| error.to_string()) {
            Ok(done) => done,
            Err(error) => return Err(unmigrated(&mut harness.into_inner(), error).await),
        };
        if done > 0 {
            tracing::info!(done, "migrations applied");
        }
        Ok(())
    }
}

/// One that is there, was not kept waiting, and yet refuses a statement will refuse it again.
async fn unmigrated(conn: &mut AsyncPgConnection, error: String) -> NoConnection {
    let there = sql_query("SELECT 1").execute(conn).await.is_ok();
    if there && !PASSING.iter().any(|way| error.contains(way)) {
        NoConnection::Unmigratable(error)
    } else {
        NoConnection::Unreachable(anyhow::anyhow!("migrations: {error}"))
    }
}

/// How Postgres tells of a wait that was too long, others in the way, and a full disk. Diesel passes on no code.
/// In another language these count as lasting: the process ends, and whoever starts it again tries again.
const PASSING: [&str; 6] = [
    "canceling statement",
    "deadlock detected",
    "could not serialize",
    "could not extend file",
    "out of memory",
    "read-only transaction",
];

fn unreachable(error: impl Into<anyhow::Error>) -> NoConnection {
    NoConnection::Unreachable(error.into())
}

async fn dial_once(config: &Config) -> Result<AsyncPgConnection, NoConnection> {
    let dialled = timeout(PATIENCE, config.connect(NoTls)).await.map_err(unreachable)?;
    let (client, connection) = dialled.map_err(|error| match error.code() {
        Some(code) if *code == SqlState::INVALID_PASSWORD => NoConnection::PasswordRefused,
        Some(_) | None => unreachable(error),
    })?;
    let ready: ConnectionResult<_> =
        AsyncPgConnection::try_from_client_and_connection(client, connection).await;
    ready.map_err(unreachable)
}
