//! Creates and removes tenants' databases: a schema and a role each, for the reconciler.

use protocol::Timestamp;
use protocol::control::TenantDatabase;
use serde_json::json;
use service::{Secret, keys};
use tokio::sync::Semaphore;

use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::{Database, tenant_database};
use crate::tenant::Tenant;
use crate::tenant::database::{ProvisionedDatabase, RolePrefix, schema_name};

/// Connections of the provisioner at once, beside those of the pool.
const MAX_CONNECTIONS: usize = 4;

pub struct TenantDatabases {
    database: Database,
    /// The secret from which the roles' passwords are derived. The orchestrator derives the same.
    master: Secret,
    prefix: RolePrefix,
    connections: Semaphore,
}

impl TenantDatabases {
    pub fn new(database: Database, master: Secret, prefix: RolePrefix) -> Self {
        Self { database, master, prefix, connections: Semaphore::new(MAX_CONNECTIONS) }
    }

    /// Creates the schema and the role of `tenant`, unless they exist.
    ///
    /// # Errors
    /// When the server refuses; then nothing was made.
    pub async fn create(&self, tenant: &Tenant, now: Timestamp) -> anyhow::Result<()> {
        let _slot = self.connections.acquire().await?;
        let conn = self.database.connect_provisioner().await?;
        let (id, names) = (tenant.tenant_id(), self.prefix.names(&tenant.slug));
        let password = keys::tenant_database_password(&self.master, id);
        let entry = entry(Action::TenantDatabaseCreate, tenant).after(described(&names));
        if tenant_database::create(conn, id, &names, &password, &entry, now).await? {
            let TenantDatabase { schema, user } = names;
            tracing::info!(tenant = %id, slug = %tenant.slug, %schema, %user, "tenant database created");
        }
        Ok(())
    }

    /// Ends the connections of a deleted tenant, then drops its schema and its role.
    pub async fn remove(&self, tenant: &Tenant, now: Timestamp) -> anyhow::Result<()> {
        let Some(ProvisionedDatabase { user, .. }) = tenant.database.clone() else {
            return Ok(());
        };
        let _slot = self.connections.acquire().await?;
        let mut conn = self.database.connect_provisioner().await?;
        let names = TenantDatabase { schema: schema_name(&tenant.slug), user };
        tenant_database::end_connections(&mut conn, &names.user).await?;
        let entry = entry(Action::TenantDatabaseDrop, tenant).before(described(&names));
        tenant_database::drop(&mut conn, tenant.tenant_id(), &names, &entry, now).await?;
        tracing::info!(tenant = %tenant.id, slug = %tenant.slug, user = names.user, "tenant database dropped");
        Ok(())
    }
}

fn entry(action: Action, tenant: &Tenant) -> Entry {
    Entry::new(Actor::command("reconcile"), action, Resource::tenant(&tenant.slug))
}

fn described(names: &TenantDatabase) -> serde_json::Value {
    json!({ "schema": names.schema, "user": names.user })
}
