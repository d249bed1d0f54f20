//! Creates, migrates, opens, bounds and removes tenants' databases: a schema and a role each.

mod sizes;

use std::ops::{Deref, DerefMut};
use std::sync::Arc;
use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::{Secret, keys};
use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore};
use tokio::time::MissedTickBehavior;

use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::tenant_restore::{RestoreError, SchemaWriter};
use crate::db::tenant_sessions::{EndedSession, SessionBounds};
use crate::db::{Conn, Database, tenant, tenant_database, tenant_sessions};
use crate::tenant::Tenant;
use crate::tenant::database::{DatabaseNames, ProvisionedDatabase, RolePrefix, bounded_error};
use crate::tenant_places::TenantPlaces;

pub use self::sizes::{SIZE_CHECK_INTERVAL, last_sizes};

/// Connections of the provisioner at once, beside those of the pool.
const MAX_CONNECTIONS: usize = 4;

/// Connections as tenants' roles for the work of app-api, such as listing packages, at once.
const MAX_WORK_CONNECTIONS: usize = 8;
/// One tenant can make its own queries slow, and leaves most connections to the others.
const MAX_WORK_CONNECTIONS_OF_TENANT: usize = 3;
/// How long work waits for one of them.
const WORK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long a session can hold too much before it is found.
const SESSION_CHECK_INTERVAL: Duration = Duration::from_secs(15);
/// Schemas that are migrated at once, each over a connection of its tenant's role.
const MAX_MIGRATIONS: usize = 4;
/// A schema that could not be migrated is tried again after this time.
const MIGRATION_INTERVAL: Duration = Duration::from_secs(60);

const NOT_CONNECTED: &str =
    "The database does not accept the tenant's role yet; it is tried again.";

pub struct TenantDatabases {
    database: Database,
    /// The secret from which the roles' passwords are derived. The orchestrator derives the same.
    master: Secret,
    prefix: RolePrefix,
    connections: Semaphore,
    work_connections: Arc<Semaphore>,
    places: TenantPlaces,
}

/// A connection to the schema of a tenant, as its role.
pub struct WorkConnection {
    conn: Conn,
    _slots: [OwnedSemaphorePermit; 2],
}

impl Deref for WorkConnection {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        &self.conn
    }
}

impl DerefMut for WorkConnection {
    fn deref_mut(&mut self) -> &mut Conn {
        &mut self.conn
    }
}

/// The tables, views and sequences of a schema that a dump reads. It locks each of them in one transaction, and
/// [`SessionBounds`] ends sessions of a role with more than 1,000 locks.
const MAX_DUMPED_RELATIONS: i64 = 900;

/// How a program connects as the role of a tenant.
pub struct DumpSource {
    pub arguments: Vec<String>,
    pub schema: String,
    pub password: Secret,
}

/// Why there is no dump of a tenant's schema.
#[derive(Debug)]
pub enum DumpRefused {
    Unreachable(anyhow::Error),
    TooManyRelations(i64),
}

/// Why there is no connection to a tenant's schema.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    #[error("the schema is not there, or has not all tenant migrations")]
    NotReady,
    /// The schema is larger than its limit. For the owner.
    #[error("{0}")]
    Closed(String),
    #[error("too many connections to tenants' schemas")]
    Busy,
    #[error("{0:#}")]
    Refused(anyhow::Error),
}

impl TenantDatabases {
    pub fn new(database: Database, master: Secret, prefix: RolePrefix) -> Self {
        Self {
            database,
            master,
            prefix,
            connections: Semaphore::new(MAX_CONNECTIONS),
            work_connections: Arc::new(Semaphore::new(MAX_WORK_CONNECTIONS)),
            places: TenantPlaces::new(MAX_WORK_CONNECTIONS_OF_TENANT),
        }
    }

    /// Opens a connection to the schema of `tenant`, as its role. What the tenant changed about its role, such as the password,
    /// is undone if it prevents the connection.
    ///
    /// # Errors
    /// [`OpenError`].
    pub async fn open(&self, tenant: &Tenant) -> Result<WorkConnection, OpenError> {
        let Some(database) = &tenant.database else { return Err(OpenError::NotReady) };
        // A closed schema is not migrated before it is open again.
        if let Some(excess) = database.excess {
            return Err(OpenError::Closed(excess.describe()));
        }
        let latest = tenant_database::latest_version().map_err(OpenError::Refused)?;
        if database.version < latest {
            return Err(OpenError::NotReady);
        }
        let (own, all) = (self.places.of(tenant.tenant_id()), self.work_connections.clone());
        // In this order: who waits for a place of its own tenant keeps none from the others.
        let slots = async {
            Ok::<_, AcquireError>([own.acquire_owned().await?, all.acquire_owned().await?])
        };
        let slots = tokio::time::timeout(WORK_TIMEOUT, slots).await;
        let slots = slots.map_err(|_| OpenError::Busy)?.map_err(|_| OpenError::Busy)?;
        let names = database.names(&tenant.slug);
        let id = tenant.tenant_id();
        let conn = self.connect_for_work(id, &names).await.map_err(OpenError::Refused)?;
        Ok(WorkConnection { conn, _slots: slots })
    }

    async fn connect_for_work(
        &self,
        tenant: TenantId,
        names: &DatabaseNames,
    ) -> anyhow::Result<Conn> {
        let password = keys::tenant_database_password(&self.master, tenant);
        match self.database.connect_for_work(names, &password).await {
            Ok(conn) => Ok(conn),
            Err(first) => {
                tracing::debug!(user = names.user, error = %first, "role of a tenant refused");
                self.restore_role(tenant, names).await?;
                Ok(self.database.connect_for_work(names, &password).await?)
            }
        }
    }

    async fn restore_role(&self, tenant: TenantId, names: &DatabaseNames) -> anyhow::Result<()> {
        let _slot = self.connections.acquire().await?;
        let mut conn = self.database.connect_provisioner().await?;
        let password = keys::tenant_database_password(&self.master, tenant);
        tenant_database::restore_role(&mut conn, tenant, names, &password).await
    }

    /// The names that the schema and the role of `tenant` have, or will have.
    pub fn names(&self, tenant: &Tenant) -> DatabaseNames {
        let names = |database: &ProvisionedDatabase| database.names(&tenant.slug);
        tenant.database.as_ref().map_or_else(|| self.prefix.names(&tenant.slug), names)
    }

    /// Prepares a dump of a tenant's schema. What the tenant changed about its role is undone only if it prevents the connection: a dump
    /// reads.
    ///
    /// # Errors
    /// [`DumpRefused`].
    pub async fn dump_source(
        &self,
        tenant: TenantId,
        names: DatabaseNames,
    ) -> Result<DumpSource, DumpRefused> {
        let password = keys::tenant_database_password(&self.master, tenant);
        let counted = async {
            let mut conn = self.connect_for_work(tenant, &names).await?;
            anyhow::Ok(tenant_database::count_relations(&mut conn, &names.schema).await?)
        };
        let relations = counted.await.map_err(DumpRefused::Unreachable)?;
        if relations > MAX_DUMPED_RELATIONS {
            return Err(DumpRefused::TooManyRelations(relations));
        }
        let arguments = self.database.program_arguments(&names.user);
        Ok(DumpSource { arguments, schema: names.schema, password })
    }

    /// Opens the empty schema of a tenant whose import is under way.
    pub async fn begin_restore(&self, tenant: &Tenant) -> Result<SchemaWriter, RestoreError> {
        let Some(database) = &tenant.database else {
            return Err(RestoreError::Unavailable(anyhow::anyhow!("the tenant has no schema")));
        };
        let names = database.names(&tenant.slug);
        let password = keys::tenant_database_password(&self.master, tenant.tenant_id());
        let id = tenant.tenant_id();
        self.restore_role(id, &names).await.map_err(RestoreError::Unavailable)?;
        let writer = self.database.connect_for_restore(&names, &password).await;
        let writer = writer.map_err(|error| RestoreError::Unavailable(error.into()))?;
        writer.clear().await?;
        Ok(writer)
    }

    /// Runs the migrations that a restored schema lacks.
    ///
    /// # Errors
    /// The text that the owner reads.
    pub async fn end_restore(self: &Arc<Self>, tenant: &Tenant) -> Result<(), String> {
        let Some(database) = tenant.database.clone() else { return Ok(()) };
        let (databases, tenant) = (self.clone(), tenant.clone());
        // A task of its own, because a migration blocks in place.
        let migrated = tokio::spawn(async move { databases.migrate(&tenant, &database).await });
        match migrated.await {
            Ok(migrated) => migrated.map_err(|error| error.failure()),
            Err(error) => Err(bounded_error(&error.into())),
        }
    }

    /// Creates the schema and the role of `tenant`, unless they exist.
    ///
    /// # Errors
    /// When the server refuses; then nothing was made.
    pub async fn create(&self, tenant: &Tenant, now: Timestamp) -> anyhow::Result<()> {
        let _slot = self.connections.acquire().await?;
        let conn = self.database.connect_provisioner().await?;
        let (id, names) = (tenant.tenant_id(), self.names(tenant));
        let password = keys::tenant_database_password(&self.master, id);
        let entry = entry(Action::TenantDatabaseCreate, tenant).after(described(&names));
        if tenant_database::create(conn, id, &names, &password, &entry, now).await? {
            let DatabaseNames { schema, user } = names;
            tracing::info!(tenant = %id, slug = %tenant.slug, %schema, %user, "tenant database created");
        }
        Ok(())
    }

    /// Ends the connections of a deleted tenant, then drops its schema and its role.
    pub async fn drop_database(&self, tenant: &Tenant, now: Timestamp) -> anyhow::Result<()> {
        let Some(database) = &tenant.database else { return Ok(()) };
        let _slot = self.connections.acquire().await?;
        let mut conn = self.database.connect_provisioner().await?;
        let names = database.names(&tenant.slug);
        tenant_database::end_connections(&mut conn, &names.user).await?;
        let entry = entry(Action::TenantDatabaseDrop, tenant).before(described(&names));
        tenant_database::drop(&mut conn, tenant.tenant_id(), &names, &entry, now).await?;
        tracing::info!(tenant = %tenant.id, slug = %tenant.slug, user = names.user, "tenant database dropped");
        Ok(())
    }

    /// Ends sessions of tenants that hold too much of what all share. Never returns.
    pub async fn watch_sessions(&self) {
        let mut interval = tokio::time::interval(SESSION_CHECK_INTERVAL);
        interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            interval.tick().await;
            match self.end_harmful_sessions().await {
                Ok(ended) => {
                    for EndedSession { user, reason } in ended {
                        tracing::warn!(user, reason, "database session of a tenant ended");
                    }
                }
                // The next round follows; while the server is unreachable there are no sessions.
                Err(error) => {
                    tracing::debug!(
                        error = format!("{error:#}"),
                        "reading database sessions failed"
                    );
                }
            }
        }
    }

    async fn end_harmful_sessions(&self) -> anyhow::Result<Vec<EndedSession>> {
        let _slot = self.connections.acquire().await?;
        let mut conn = self.database.connect_provisioner().await?;
        Ok(tenant_sessions::end_harmful(&mut conn, SessionBounds::DEFAULT).await?)
    }

    /// Brings every schema to the version of this release, and tries again what failed. Never returns.
    pub async fn keep_migrated(self: Arc<Self>) {
        loop {
            if let Err(error) = self.migrate_outdated().await {
                tracing::warn!(error = format!("{error:#}"), "reading tenant databases failed");
            }
            tokio::time::sleep(MIGRATION_INTERVAL).await;
        }
    }

    /// Some schemas at a time: one that fails or takes long holds up no other.
    async fn migrate_outdated(self: &Arc<Self>) -> anyhow::Result<()> {
        let latest = tenant_database::latest_version()?;
        let outdated = {
            let mut conn = self.database.conn().await?;
            tenant::with_older_database(&mut conn, &latest).await?
        };
        let migrations = stream::iter(outdated).map(|tenant| {
            let (databases, latest) = (self.clone(), latest.clone());
            // A task of its own, because a migration blocks in place.
            tokio::spawn(async move { databases.migrate_and_record(&tenant, latest).await })
        });
        migrations.buffer_unordered(MAX_MIGRATIONS).for_each(async |_| ()).await;
        Ok(())
    }

    async fn migrate_and_record(&self, tenant: &Tenant, latest: String) {
        let Some(database) = &tenant.database else { return };
        let (id, slug) = (tenant.id, &tenant.slug);
        let next = match self.migrate(tenant, database).await {
            Ok(()) => {
                tracing::info!(tenant = %id, %slug, version = latest, "tenant database migrated");
                ProvisionedDatabase { version: latest, failure: None, ..database.clone() }
            }
            Err(error) => {
                let (failure, error) = (error.failure(), error.detail());
                tracing::warn!(tenant = %id, %slug, error, "migration of a tenant database failed");
                ProvisionedDatabase { failure: Some(failure), ..database.clone() }
            }
        };
        let recorded = async {
            let mut conn = self.database.conn().await?;
            tenant_database::record(&mut conn, tenant.tenant_id(), database, &next).await?;
            anyhow::Ok(())
        };
        // Found again by the next round.
        if let Err(error) = recorded.await {
            tracing::warn!(tenant = %id, error = format!("{error:#}"), "recording a migration failed");
        }
    }

    /// Migrates as the tenant's role: what the tenant put into its schema runs with no other rights.
    async fn migrate(
        &self,
        tenant: &Tenant,
        database: &ProvisionedDatabase,
    ) -> Result<(), MigrationError> {
        let names = database.names(&tenant.slug);
        let connected = self.connect_as_restored(tenant.tenant_id(), &names).await;
        let conn = connected.map_err(MigrationError::Connection)?;
        tenant_database::migrate(conn).map_err(MigrationError::Migration)?;
        Ok(())
    }

    /// Connects as a tenant's role, after what the tenant changed about the role is undone.
    async fn connect_as_restored(
        &self,
        tenant: TenantId,
        names: &DatabaseNames,
    ) -> anyhow::Result<Conn> {
        self.restore_role(tenant, names).await?;
        let password = keys::tenant_database_password(&self.master, tenant);
        Ok(self.database.connect_as(&names.user, &password).await?)
    }
}

/// Why a schema was not migrated.
#[derive(Debug)]
enum MigrationError {
    /// There is no connection as the tenant's role.
    Connection(anyhow::Error),
    /// A statement failed. Its text may be the tenant's: a trigger or a name of its schema.
    Migration(anyhow::Error),
}

impl MigrationError {
    /// The text that the owner reads.
    fn failure(&self) -> String {
        match self {
            // The detail is about the installation.
            Self::Connection(_) => NOT_CONNECTED.to_owned(),
            Self::Migration(error) => bounded_error(error),
        }
    }

    /// The text for the log.
    fn detail(&self) -> String {
        match self {
            Self::Connection(error) | Self::Migration(error) => bounded_error(error),
        }
    }
}

fn entry(action: Action, tenant: &Tenant) -> Entry {
    Entry::new(Actor::command("reconcile"), action, Resource::tenant(&tenant.slug))
}

fn described(names: &DatabaseNames) -> serde_json::Value {
    json!({ "schema": names.schema, "user": names.user })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_shows_a_bounded_text_of_the_tenant_and_nothing_of_the_installation() {
        let error = || anyhow::anyhow!("{}", "x\n".repeat(1_000));
        let migration = MigrationError::Migration(error());
        assert_eq!(migration.failure().chars().count(), 500);
        assert!(!migration.failure().contains('\n'));
        assert_eq!(migration.detail(), migration.failure());
        let connection = MigrationError::Connection(error());
        assert_eq!(connection.failure(), NOT_CONNECTED);
        assert_eq!(connection.detail().chars().count(), 500);
    }
}
