//! The sender of an invitation, with their rights of this moment: an invitation is worth no more than they are.

use protocol::Timestamp;
use protocol::api_keys::Role;
use protocol::people::PlatformRole;
use service::api_error::ApiError;

use super::invitations::invitation_ended;
use crate::access::authority::membership_role;
use crate::access::principal::CallerScope;
use crate::db::api_key::ApiKey;
use crate::db::invitation::Invitation;
use crate::db::user::User;
use crate::db::{Conn, api_key, membership, user};

enum Inviter {
    User(User),
    Key(ApiKey),
}

/// Returns the widest platform role that the inviter can give. Locks what the rights follow from until the transaction
/// ends. Belongs behind [`user::lock_owners`], which orders this lock among those of other changes of people.
///
/// # Errors
/// `invitation_ended` when the inviter could not make this invitation any more.
pub(super) async fn check(
    conn: &mut Conn,
    invitation: &Invitation,
    now: Timestamp,
) -> Result<PlatformRole, ApiError> {
    // In the order of the deletion of a person and of a membership: the account, the membership, the key.
    let user = match invitation.inviter_user {
        Some(id) => Some(user::lock(conn, id).await?.ok_or_else(invitation_ended)?),
        None => None,
    };
    let membership = match (invitation.tenant(), &user) {
        (Some(tenant), Some(user)) => membership::lock_role(conn, tenant, user.id).await?,
        (Some(_), None) | (None, _) => None,
    };
    let inviter = match (invitation.inviter_key, user) {
        (Some(id), _) => api_key::lock_live(conn, id, now).await?.map(Inviter::Key),
        (None, Some(user)) => Some(Inviter::User(user)),
        (None, None) => None,
    };
    let inviter = inviter.ok_or_else(invitation_ended)?;
    let may_invite = match invitation.tenant() {
        None => {
            let role = PlatformRole::from_stored(&invitation.role);
            inviter.scope() == CallerScope::Platform && role <= inviter.widest_grant()
        }
        Some(tenant) => {
            let is_excluded = inviter.tenant().is_some_and(|own| own != tenant);
            let role = inviter.role_on_tenant(membership.map(membership_role));
            !is_excluded && role == Some(Role::Admin)
        }
    };
    if may_invite { Ok(inviter.widest_grant()) } else { Err(invitation_ended()) }
}

impl Inviter {
    fn scope(&self) -> CallerScope<'_> {
        match self {
            Self::User(user) => CallerScope::of_user(user),
            Self::Key(key) => CallerScope::of_key(key),
        }
    }

    fn role_on_tenant(&self, membership: Option<Role>) -> Option<Role> {
        match self {
            Self::User(user) => CallerScope::of_user(user).role_on_tenant(membership),
            Self::Key(key) => key.role_on_tenant(membership),
        }
    }

    /// The only tenant of a key.
    fn tenant(&self) -> Option<protocol::TenantId> {
        match self {
            Self::User(_) => None,
            Self::Key(key) => key.tenant.as_ref().map(|tenant| tenant.id),
        }
    }

    fn widest_grant(&self) -> PlatformRole {
        match self {
            Self::User(user) => PlatformRole::from_stored(&user.role),
            Self::Key(key) => super::widest_grant_of_key(key),
        }
    }
}
