//! People: the operators of the platform, the members of each tenant, and how both are invited.

pub mod invitations;
pub mod members;
pub mod users;

use protocol::people::PlatformRole;
use protocol::problem::Code;
use service::api_error::ApiError;

use crate::access::Principal;

/// The widest platform role that a caller may give or take.
pub(crate) fn widest_grant(caller: &Principal) -> PlatformRole {
    match caller {
        Principal::Session(person) => PlatformRole::from_stored(&person.user.role),
        Principal::Key(key) if key.is_admin => PlatformRole::Owner,
        Principal::Key(_) | Principal::Service => PlatformRole::None,
    }
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
