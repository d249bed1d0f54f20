//! The work of tenants: packages with workflows, their executions, and triggers. Packages and executions lie in the schema of their
//! tenant, and every query about them runs as the tenant's role: one tenant's packages and executions cannot reach another's, or
//! the control plane's tables. The control plane decides what fires next: [`triggers`].

mod attempt;
pub mod executions;
pub mod packages;
pub mod progress;
pub mod run;
pub mod signatures;
pub mod triggers;
pub mod workflows;

use std::time::Duration;

use protocol::Timestamp;
use protocol::problem::Code;
use protocol::spec::Desired;
use serde_json::Value;
use service::api_error::ApiError;

use crate::app::{App, database_unavailable};
use crate::audit::Entry;
use crate::db::{DatabaseError, QueryError, Transaction as _, audit_log, open_work};
use crate::tenant::Tenant;
use crate::tenant::database::bounded_error;
use crate::tenant_actions::being_deleted;
use crate::tenant_databases::{OpenError, WorkConnection};

const RETRY_DELAY: Duration = Duration::from_secs(5);

/// The reason why work in the schema of a tenant failed.
#[derive(Debug)]
pub enum WorkError {
    Refused(ApiError),
    /// A statement failed in the tenant's schema, whose tables the tenant can change.
    Schema(QueryError),
}

impl From<ApiError> for WorkError {
    fn from(error: ApiError) -> Self {
        Self::Refused(error)
    }
}

impl From<QueryError> for WorkError {
    fn from(error: QueryError) -> Self {
        Self::Schema(error)
    }
}

impl WorkError {
    /// Whether the schema is above its limit, so that nothing connects to it.
    fn is_of_closed_schema(&self) -> bool {
        matches!(self, Self::Refused(error) if error.has_code(Code::TenantDatabaseFull))
    }

    /// The error with its causes, for the log.
    fn into_text(self) -> String {
        format!("{:#}", ApiError::from(self).into_error())
    }
}

impl From<WorkError> for ApiError {
    fn from(error: WorkError) -> Self {
        match error {
            WorkError::Refused(error) => error,
            WorkError::Schema(error) => {
                let error = anyhow::Error::from(error);
                match DatabaseError::find(&error) {
                    Some(_) => Self::internal(error),
                    None => damaged(&bounded_error(&error)),
                }
            }
        }
    }
}

/// The tenant's own tables do not hold what the platform wrote.
pub fn damaged(what: &str) -> ApiError {
    let detail = format!("The tables cial_… of the tenant's schema are damaged: {what}");
    ApiError::new(Code::TenantSchemaDamaged, detail)
}

/// A connection to the schema of a tenant, as the tenant's role.
///
/// # Errors
/// `tenant_deleting`; `tenant_database_full`; `database_unavailable`, also while the schema is made or migrated.
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
        OpenError::Closed(reason) => ApiError::new(Code::TenantDatabaseFull, reason),
        OpenError::Busy => {
            let detail = "The databases of tenants are in use. Try again in a moment.";
            ApiError::new(Code::DatabaseUnavailable, detail).with_retry_after(RETRY_DELAY)
        }
        OpenError::Refused(error) => database_unavailable().with_cause(error),
    })
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

/// Notifies the runner that a tenant has work.
async fn touch(app: &App, tenant: &Tenant) -> Result<(), ApiError> {
    open_work::touch(&mut *app.conn().await?, tenant.id, app.clock.now()).await?;
    app.work.notify_one();
    Ok(())
}

/// Notifies the runner again after the work is recorded, because the runner may have read the records in between. A failure is
/// only logged: the first notification leads to the work later, and a caller who receives an error would repeat the call.
async fn touch_again(app: &App, tenant: &Tenant) {
    if let Err(error) = touch(app, tenant).await {
        let error = format!("{:#}", error.into_error());
        tracing::warn!(tenant = %tenant.id, error, "work of a tenant not noted again");
    }
}

/// The largest number that survives a round trip: Postgres prints all digits, and the parser may read those of a larger number as
/// infinity.
const MAX_NUMBER: f64 = 1e300;

/// Whether the value holds a number above [`MAX_NUMBER`].
fn has_huge_number(value: &Value) -> bool {
    match value {
        Value::Number(number) => number.as_f64().is_none_or(|number| number.abs() > MAX_NUMBER),
        Value::Array(values) => values.iter().any(has_huge_number),
        Value::Object(fields) => fields.values().any(has_huge_number),
        Value::Null | Value::Bool(_) | Value::String(_) => false,
    }
}

/// Whether a text of the value holds U+0000, which Postgres cannot store.
fn has_nul(value: &Value) -> bool {
    match value {
        Value::String(text) => text.contains('\0'),
        Value::Array(values) => values.iter().any(has_nul),
        Value::Object(fields) => {
            fields.iter().any(|(name, value)| name.contains('\0') || has_nul(value))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_number_that_is_not_read_again_is_found() {
        for huge in [json!(f64::MAX), json!({ "a": [1, -1.1e300] })] {
            assert!(has_huge_number(&huge), "{huge}");
        }
        for fit in [1e300, -1e300, 9.999_999_999_999_999e299, 5e-324, 0.0] {
            assert!(!has_huge_number(&json!([fit])), "{fit}");
            // Postgres prints no exponent.
            let read: Value = serde_json::from_str(&format!("{fit:.400}")).unwrap();
            assert!((read.as_f64().unwrap() - fit).abs() <= fit.abs() * 1e-10, "{fit}");
        }
        for fit in [json!(u64::MAX), json!(i64::MIN), json!("1e308"), json!(null)] {
            assert!(!has_huge_number(&fit), "{fit}");
        }
    }
}
