//! People: the operators of the platform, the members of each tenant, and how both are invited.

pub mod invitations;
mod inviter;
pub mod members;
pub mod users;

use protocol::api_keys::Role;
use protocol::people::PlatformRole;
use protocol::problem::Code;
use service::api_error::ApiError;
use uuid::Uuid;

use crate::access::Principal;
use crate::db::api_key::ApiKey;
use crate::db::{Conn, user};

/// The widest platform role that a caller may give or take.
pub(crate) fn widest_grant(caller: &Principal) -> PlatformRole {
    match caller {
        Principal::Session(person) => PlatformRole::from_stored(&person.user.role),
        Principal::Key(key) => widest_grant_of_key(key),
        Principal::Service => PlatformRole::None,
    }
}

fn widest_grant_of_key(key: &ApiKey) -> PlatformRole {
    match &key.person {
        Some(user) if key.tenant.is_none() && key.role == Role::Admin => {
            PlatformRole::from_stored(&user.role)
        }
        None if key.is_admin => PlatformRole::Owner,
        Some(_) | None => PlatformRole::None,
    }
}

/// Refuses a role for an account whose address nobody with at least that role has confirmed: an inviter could have
/// kept the link and made the account.
///
/// # Errors
/// `address_unconfirmed`.
async fn check_confirmed(conn: &mut Conn, user: Uuid, role: PlatformRole) -> Result<(), ApiError> {
    if user::confirmed_role(conn, user).await? >= role {
        return Ok(());
    }
    let detail = "The account was made by the invitation of somebody who could not give this role. Invite its e-mail address instead.";
    Err(ApiError::new(Code::AddressUnconfirmed, detail))
}

/// # Errors
/// `insufficient_role` when the caller may not give or take `role`.
fn check_grant(caller: &Principal, role: PlatformRole) -> Result<(), ApiError> {
    if role <= widest_grant(caller) {
        return Ok(());
    }
    let detail = format!("Only who has the role {role} can give or take it.");
    Err(ApiError::new(Code::InsufficientRole, detail))
}
