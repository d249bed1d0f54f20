//! The work of tenants: packages with workflows. Everything about it lies in the schema of its tenant, and every query about it
//! runs as the tenant's role: one tenant's packages and executions cannot reach another's, or the control plane's tables.

pub mod packages;

use std::time::Duration;

use protocol::Timestamp;
use protocol::problem::Code;
use protocol::spec::Desired;
use service::api_error::ApiError;

use crate::app::{App, database_unavailable};
use crate::audit::Entry;
use crate::db::{Transaction as _, audit_log};
use crate::tenant::Tenant;
use crate::tenant::database::bounded_error;
use crate::tenant_actions::being_deleted;
use crate::tenant_databases::{OpenError, WorkConnection};

const RETRY_DELAY: Duration = Duration::from_secs(5);

/// A connection to the schema of a tenant, as the tenant's role.
///
/// # Errors
/// `tenant_deleting`; `database_unavailable`, also while the schema is made or migrated.
pub async fn open(app: &App, tenant: &Tenant) -> Result<WorkConnection, ApiError> {
    if tenant.desired == Desired::Deleted {
        return Err(being_deleted());
    }
    if !app.is_database_ready() {
        return Err(database_unavailable());
    }
    app.tenant_databases.open(tenant).await.map_err(|error| match error {
        OpenError::NotReady => {
            let detail = "The tenant's database is being made or migrated. Try again in a moment.";
            ApiError::new(Code::DatabaseUnavailable, detail).with_retry_after(RETRY_DELAY)
        }
        OpenError::Busy => {
            let detail = "The databases of tenants are in use. Try again in a moment.";
            ApiError::new(Code::DatabaseUnavailable, detail).with_retry_after(RETRY_DELAY)
        }
        OpenError::Refused(error) => database_unavailable().with_cause(error),
    })
}

/// The error of work in a tenant's schema. The tenant can change its tables and have triggers raise: no fault of the service.
pub struct SchemaError(ApiError);

impl From<ApiError> for SchemaError {
    fn from(error: ApiError) -> Self {
        Self(error)
    }
}

impl From<diesel::result::Error> for SchemaError {
    fn from(error: diesel::result::Error) -> Self {
        let detail = "The tenant's database refused a query. The tables whose names begin with cial_ must stay as they are.";
        let cause = anyhow::anyhow!("{}", bounded_error(&error.into()));
        Self(ApiError::new(Code::DatabaseUnavailable, detail).with_cause(cause))
    }
}

impl From<SchemaError> for ApiError {
    fn from(SchemaError(error): SchemaError) -> Self {
        error
    }
}

/// Adds an entry to the audit log, outside the transaction in the tenant's schema.
async fn audit(app: &App, entry: &Entry, now: Timestamp) -> Result<(), ApiError> {
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| {
        audit_log::append(conn, entry, now).await?;
        Ok(())
    })
    .await
}
