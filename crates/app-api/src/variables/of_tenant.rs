//! Variables and secrets of one tenant: a record in the tenant's row.

use protocol::problem::{Code, FieldCode};
use protocol::spec::Desired;
use protocol::variables::Variables;
use service::api_error::ApiError;
use service::sealing_keys::Purpose;

use super::{Assignment, Kind, Owner};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Actor, Entry, Resource};
use crate::db::{QueryResult, Transaction as _, audit_log, tenant};
use crate::tenant::Tenant;
use crate::tenant_actions::{MAX_WRITE_ATTEMPTS, being_deleted, changes_too_fast, read_again};
use crate::validation::refused_field;

/// The variables of this kind.
///
/// # Errors
/// When the record was encrypted for another installation.
pub fn list(app: &App, tenant: &Tenant, kind: Kind) -> Result<Variables, ApiError> {
    Ok(kind.filter(open(app, tenant)?))
}

fn open(app: &App, tenant: &Tenant) -> Result<Variables, ApiError> {
    let sealed = tenant.app.as_ref().and_then(|app| app.sealed_env.as_deref());
    super::open(&app.sealing, &Purpose::TenantEnv(tenant.tenant_id()), sealed)
}

/// Sets a variable, or deletes it.
///
/// # Errors
/// `invalid_fields`; `variable_taken`; `resource_not_found` for a variable to delete that does not exist.
pub async fn set(
    app: &App,
    caller: &Principal,
    tenant: Tenant,
    assignment: Assignment<'_>,
) -> Result<(), ApiError> {
    if tenant.app.is_none() && assignment.value.is_some() {
        let detail = "The built-in app reads no variables. Create a tenant with an app.";
        return Err(refused_field(Code::InvalidFields, "name", FieldCode::BuiltInApp, detail));
    }
    assignment.check()?;
    let Assignment { kind, name, .. } = assignment;
    let mut read = tenant;
    for _ in 0..MAX_WRITE_ATTEMPTS {
        if read.desired == Desired::Deleted {
            return Err(being_deleted());
        }
        let mut variables = open(app, &read)?;
        let changed = assignment.apply(&mut variables, Owner::Tenant)?;
        let sealed = super::seal(&app.sealing, &Purpose::TenantEnv(read.tenant_id()), &variables)?;
        let resource = Resource::tenant(&read.slug);
        let mut entry = Entry::new(Actor::from(caller), Owner::Tenant.action(kind), resource);
        (entry.before, entry.after) = (changed.before, changed.after);
        let (mut conn, now) = (app.conn().await?, app.clock.now());
        let changed = conn
            .transaction(async |conn| {
                let changed = tenant::set_sealed_env(conn, &read, sealed, now).await?;
                if changed {
                    audit_log::append(conn, &entry, now).await?;
                }
                QueryResult::Ok(changed)
            })
            .await?;
        if changed {
            tracing::info!(tenant = %read.id, slug = %read.slug, ?kind, name, %caller, "tenant variable changed");
            app.reconcile.notify(read.tenant_id());
            return Ok(());
        }
        drop(conn);
        read = read_again(app, &read).await?;
    }
    Err(changes_too_fast())
}
