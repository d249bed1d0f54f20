//! The members of a tenant: list, set a role, remove. Leaving ends the person's sessions at the tenant.

use protocol::people::{MemberRole, PlatformRole};
use protocol::problem::Code;
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use super::check_confirmed;
use super::users::no_such_user;
use crate::access::Principal;
use crate::access::principal::CallerScope;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::membership::{self, Member};
use crate::db::user::{self, User};
use crate::db::{Transaction as _, audit_log};
use crate::http::paging::Window;
use crate::tenant::Tenant;

pub async fn list(app: &App, tenant: &Tenant, window: Window) -> Result<Vec<Member>, ApiError> {
    Ok(membership::of_tenant(&mut *app.conn().await?, tenant.tenant_id(), window).await?)
}

/// Sets the role of a member. Only who may do everything can make somebody a member who was not invited.
///
/// # Errors
/// `not_found`; `address_unconfirmed`.
pub async fn set(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    user: Uuid,
    role: MemberRole,
) -> Result<Member, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let found = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let before = membership::lock_role(conn, tenant.tenant_id(), user).await?;
            if before.is_none() && caller.scope() != CallerScope::Platform {
                return Err(no_such_member());
            }
            let found = user::by_id(conn, user).await?.ok_or_else(no_such_user)?;
            if before.is_none() {
                check_confirmed(conn, user, PlatformRole::Viewer).await?;
            }
            if before != Some(role) {
                membership::set(conn, tenant.tenant_id(), user, role, now).await?;
                let entry = Entry::new(
                    Actor::from(caller),
                    Action::MembershipSet,
                    resource(tenant, &found),
                );
                let entry = entry.changed(described(before), described(Some(role)));
                audit_log::append(conn, &entry, now).await?;
            }
            membership::of_person(conn, tenant.tenant_id(), user).await?.ok_or_else(no_such_member)
        })
        .await?;
    app.reconcile.notify(tenant.tenant_id());
    Ok(found)
}

/// Ends a membership.
///
/// # Errors
/// `not_found`.
pub async fn remove(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    user: Uuid,
) -> Result<(), ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        let before = membership::lock_role(conn, tenant.tenant_id(), user).await?;
        let before = before.ok_or_else(no_such_member)?;
        let found = user::by_id(conn, user).await?.ok_or_else(no_such_user)?;
        membership::remove(conn, tenant.tenant_id(), user).await?;
        let entry =
            Entry::new(Actor::from(caller), Action::MembershipRemove, resource(tenant, &found));
        audit_log::append(conn, &entry.before(described(Some(before))), now).await?;
        Ok(())
    })
    .await?;
    app.reconcile.notify(tenant.tenant_id());
    Ok(())
}

/// The resource of a membership: the tenant's slug and the person's address.
pub(super) fn resource(tenant: &Tenant, user: &User) -> Resource {
    Resource::new("membership", format!("{}/{}", tenant.slug, user.email))
}

pub(super) fn described(role: Option<MemberRole>) -> serde_json::Value {
    json!({ "role": role })
}

/// The same for a tenant that does not exist.
pub fn no_such_member() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "This person is no member of the tenant.")
}
