//! Variables and secrets of an app, which all its tenants receive: a record in the app's row, and a copy in the row of
//! each tenant. A tenant's own variable replaces one of the same name.

use protocol::TenantId;
use protocol::problem::Code;
use protocol::variables::{SealedAppEnv, Variables};
use service::api_error::ApiError;
use service::sealing_keys::Purpose;

use super::{Assignment, Kind, Owner};
use crate::access::Principal;
use crate::app::App as Service;
use crate::apps;
use crate::audit::{Actor, Entry, Resource};
use crate::db::app::{self, App};
use crate::db::{Transaction as _, audit_log, tenant};

/// The variables of this kind.
///
/// # Errors
/// `resource_not_found`; when the record was encrypted for another installation.
pub async fn list(service: &Service, slug: &str, kind: Kind) -> Result<Variables, ApiError> {
    Ok(kind.filter(open(service, &apps::find(service, slug).await?)?))
}

/// All variables of an app.
///
/// # Errors
/// When the record was encrypted for another installation.
pub fn open(service: &Service, app: &App) -> Result<Variables, ApiError> {
    super::open(&service.sealing, &Purpose::AppEnv(app.id), app.sealed_env.as_deref())
}

/// Sets a variable, or deletes it. Each tenant has the change from its next start on; one that sleeps is not woken.
///
/// # Errors
/// `invalid_fields`; `variable_taken`; `resource_not_found` for an app, or a variable to delete, that does not exist.
pub async fn set(
    service: &Service,
    caller: &Principal,
    slug: &str,
    assignment: Assignment<'_>,
) -> Result<(), ApiError> {
    assignment.check()?;
    let Assignment { kind, name, .. } = assignment;
    let (mut conn, now) = (service.conn().await?, service.clock.now());
    let followers = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let found = apps::find_in(conn, slug).await?;
            // Orders changes of the app's variables, and keeps tenants from following the app meanwhile.
            let found = app::lock(conn, found.id).await?.ok_or_else(|| {
                ApiError::new(Code::ResourceNotFound, "The app was deleted meanwhile.")
            })?;
            let mut variables = open(service, &found)?;
            let changed = assignment.apply(&mut variables, Owner::App)?;
            let sealed = super::seal(&service.sealing, &Purpose::AppEnv(found.id), &variables)?;
            app::set_sealed_env(conn, found.id, sealed.as_deref()).await?;
            let env = sealed.map(|sealed| SealedAppEnv { app: found.id, sealed });
            let followers = tenant::set_app_env(conn, found.id, env.as_ref()).await?;
            let resource = Resource::new("app", &found.slug);
            let mut entry = Entry::new(Actor::from(caller), Owner::App.action(kind), resource);
            (entry.before, entry.after) = (changed.before, changed.after);
            audit_log::append(conn, &entry, now).await?;
            Ok(followers)
        })
        .await?;
    tracing::info!(app = slug, ?kind, name, tenants = followers.len(), %caller, "app variable changed");
    for id in followers {
        service.reconcile.notify(TenantId::new(id));
    }
    Ok(())
}
