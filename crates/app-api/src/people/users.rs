//! Accounts as operators manage them: list, change the platform role, delete.

use protocol::people::PlatformRole;
use protocol::problem::Code;
use serde_json::json;
use service::api_error::ApiError;
use uuid::Uuid;

use super::{check_grant, check_vouched};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::user::{self, User};
use crate::db::{Conn, Transaction as _, audit_log, sso_grant};
use crate::http::paging::Window;
use crate::sessions;

pub async fn list(app: &App, window: Window) -> Result<Vec<User>, ApiError> {
    Ok(user::list(&mut *app.conn().await?, window).await?)
}

/// Changes the platform role. The person's sessions get a new token, and their tenant sessions end.
///
/// # Errors
/// `insufficient_role`; `address_unconfirmed`; `last_owner`; `not_found`.
pub async fn set_role(
    app: &App,
    caller: &Principal,
    id: Uuid,
    role: PlatformRole,
) -> Result<User, ApiError> {
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    let (changed, tenants) = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            let before = manageable(conn, caller, id, role != PlatformRole::Owner).await?;
            check_grant(caller, role)?;
            let held = PlatformRole::from_stored(&before.role);
            if held == role {
                return Ok((before, Vec::new()));
            }
            if role > held {
                check_vouched(conn, id, role).await?;
            }
            let tenants = sso_grant::revoke_user(conn, id).await?;
            let changed = user::set_role(conn, id, role).await?;
            let resource = Resource::user(&changed.email);
            let entry = Entry::new(Actor::from(caller), Action::UserRole, resource)
                .changed(json!({ "role": before.role }), json!({ "role": changed.role }));
            audit_log::append(conn, &entry, now).await?;
            Ok((changed, tenants))
        })
        .await?;
    sessions::notify(app, tenants);
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
