//! Accounts as operators manage them: list, show, change, delete.

use protocol::people::{ChangeUser, PlatformRole};
use protocol::problem::Code;
use protocol::{TenantId, Timestamp};
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use super::{check_confirmed, check_grant};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::user::{self, User};
use crate::db::{Conn, Transaction as _, audit_log, sso_grant};
use crate::http::paging::Window;
use crate::sessions;
use crate::validation::{self, invalid_fields};

pub async fn list(app: &App, window: Window) -> Result<Vec<User>, ApiError> {
    Ok(user::list(&mut *app.conn().await?, window).await?)
}

/// # Errors
/// `resource_not_found`.
pub async fn find(app: &App, id: Uuid) -> Result<User, ApiError> {
    user::by_id(&mut *app.conn().await?, id).await?.ok_or_else(no_such_user)
}

/// Changes the platform role, the name, or both. With another role the person's sessions get a new token, and their tenant
/// sessions end; tenants learn a new name at the next sign-in.
///
/// # Errors
/// `invalid_fields`; `insufficient_role`; `address_unconfirmed`; `last_owner`; `resource_not_found`.
pub async fn change(
    app: &App,
    caller: &Principal,
    id: Uuid,
    change: &ChangeUser,
) -> Result<User, ApiError> {
    let name = change.name.as_deref().map(validation::name).transpose();
    let name = name.map_err(|error| invalid_fields(&[("name", Some(error))]))?;
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let (changed, tenants) = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let ends_ownership = change.role.is_some_and(|role| role != PlatformRole::Owner);
            let found = manageable(conn, caller, id, ends_ownership).await?;
            let (found, tenants) = match change.role {
                Some(role) => set_role(conn, caller, found, role, now).await?,
                None => (found, Vec::new()),
            };
            let changed = match &name {
                Some(name) => set_name(conn, caller, found, name, now).await?,
                None => found,
            };
            Ok((changed, tenants))
        })
        .await?;
    sessions::notify(app, tenants);
    Ok(changed)
}

/// Also returns the tenants at which sessions of the person end.
async fn set_role(
    conn: &mut Conn,
    caller: &Principal,
    found: User,
    role: PlatformRole,
    now: Timestamp,
) -> Result<(User, Vec<TenantId>), ApiError> {
    check_grant(caller, role)?;
    let held = PlatformRole::from_stored(&found.role);
    if held == role {
        return Ok((found, Vec::new()));
    }
    if role > held {
        check_confirmed(conn, found.id, role).await?;
    }
    let tenants = sso_grant::revoke_user(conn, found.id).await?;
    let changed = user::set_role(conn, found.id, role).await?;
    let entry = Entry::new(Actor::from(caller), Action::UserRole, Resource::user(&changed.email))
        .changed(json!({ "role": found.role }), json!({ "role": changed.role }));
    audit_log::append(conn, &entry, now).await?;
    Ok((changed, tenants))
}

async fn set_name(
    conn: &mut Conn,
    caller: &Principal,
    found: User,
    name: &str,
    now: Timestamp,
) -> Result<User, ApiError> {
    if found.name == name {
        return Ok(found);
    }
    let changed = user::set_name(conn, found.id, name).await?;
    let entry = Entry::new(Actor::from(caller), Action::UserName, Resource::user(&changed.email))
        .changed(json!({ "name": found.name }), json!({ "name": changed.name }));
    audit_log::append(conn, &entry, now).await?;
    Ok(changed)
}

/// Deletes an account with its sessions and memberships; the tenants that the person created stay.
///
/// # Errors
/// `insufficient_role`; `last_owner`; `not_found`.
pub async fn delete(app: &App, caller: &Principal, id: Uuid) -> Result<(), ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let tenants = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let before = manageable(conn, caller, id, true).await?;
            let tenants = sso_grant::revoke_user(conn, id).await?;
            user::delete(conn, id).await?;
            let resource = Resource::user(&before.email);
            let entry = Entry::new(Actor::from(caller), Action::UserDelete, resource)
                .before(json!({ "name": before.name, "role": before.role }));
            audit_log::append(conn, &entry, now).await?;
            Ok(tenants)
        })
        .await?;
    sessions::notify(app, tenants);
    Ok(())
}

/// Returns the account when the caller may change it, and locks it with the set of owners. `ends_ownership`: refuse this for
/// the last owner.
async fn manageable(
    conn: &mut Conn,
    caller: &Principal,
    id: Uuid,
    ends_ownership: bool,
) -> Result<User, ApiError> {
    let owners = user::lock_owners(conn).await?;
    let found = user::lock(conn, id).await?.ok_or_else(no_such_user)?;
    check_grant(caller, PlatformRole::from_stored(&found.role))?;
    if ends_ownership && owners == [id] {
        let detail = "This is the last owner. Make somebody else an owner first.";
        return Err(ApiError::new(Code::LastOwner, detail));
    }
    Ok(found)
}

pub fn no_such_user() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "There is no such person.")
}
