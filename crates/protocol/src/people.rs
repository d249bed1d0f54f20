//! People and their sessions: what the CLI and scripts send and receive at `/v1`. Times are RFC 3339, UTC, with
//! milliseconds.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::control::User;
use crate::{Slug, TenantId};

/// A live session of the caller.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionInfo {
    pub id: Uuid,
    /// The device in a few words, like "Firefox on Linux".
    pub device: String,
    /// The address from which the session began.
    pub address: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub last_seen_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub expires_at: String,
    /// Whether this request belongs to the session.
    pub is_current: bool,
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SessionList {
    pub sessions: Vec<SessionInfo>,
}

macro_rules! roles {
    ($(#[$attribute:meta])* $kind:ident { $($name:ident = $text:literal,)+ } $rule:literal) => {
        $(#[$attribute])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        #[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
        #[serde(rename_all = "snake_case")]
        pub enum $kind {
            $($name,)+
        }

        impl $kind {
            pub const ALL: &'static [Self] = &[$(Self::$name,)+];

            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$name => $text,)+ }
            }
        }

        impl std::fmt::Display for $kind {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $kind {
            type Err = &'static str;

            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text { $($text => Ok(Self::$name),)+ _ => Err($rule) }
            }
        }
    };
}

roles! {
    /// The role of a person on the whole platform. Each role includes the ones before it.
    PlatformRole { None = "none", Viewer = "viewer", Admin = "admin", Owner = "owner", }
    "must be none, viewer, admin or owner"
}

impl PlatformRole {
    /// Reads a stored role. A role that this release does not know permits nothing.
    pub fn from_stored(text: &str) -> Self {
        text.parse().unwrap_or(Self::None)
    }
}

roles! {
    /// The role of a person on one tenant. Each role includes the ones before it.
    MemberRole { Viewer = "viewer", Member = "member", Admin = "admin", }
    "must be viewer, member or admin"
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct UserList {
    /// The newest account first.
    pub users: Vec<User>,
    /// The `?cursor=` value for the next page; null on the last page.
    pub next: Option<Uuid>,
}

/// The caller of `GET /v1/users/me`, read from the database.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Me {
    #[serde(flatten)]
    pub user: User,
    /// Whether the person may do everything on every tenant.
    pub platform_admin: bool,
    /// The memberships, by slug.
    pub tenants: Vec<OwnMembership>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct OwnMembership {
    pub id: TenantId,
    pub slug: Slug,
    pub role: MemberRole,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct ChangeUser {
    /// Absent: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub role: Option<PlatformRole>,
    /// Absent: unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// An invitation to the platform (`role`: viewer, admin, owner) or to a tenant (`role`: viewer, member, admin).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct NewInvitation {
    pub email: String,
    pub role: String,
}

/// The response to a created invitation: the only one that shows the link.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct CreatedInvitation {
    pub id: Uuid,
    pub url: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub expires_at: String,
    /// Whether the link is also mailed to the person: not without a mail server, and not when the address got three
    /// invitations within five minutes. `false` from an older server.
    #[serde(default)]
    pub mailed: bool,
}

/// An open invitation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Invitation {
    pub id: Uuid,
    pub email: String,
    pub role: String,
    pub invited_by: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub expires_at: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct InvitationList {
    /// The newest first.
    pub invitations: Vec<Invitation>,
    /// The `?cursor=` value for the next page; null on the last page.
    pub next: Option<Uuid>,
}

/// A person with a role on a tenant.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct Member {
    pub user_id: Uuid,
    pub email: String,
    pub name: String,
    pub role: MemberRole,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub since: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
pub struct MemberList {
    /// The newest account first.
    pub members: Vec<Member>,
    /// The `?cursor=` value for the next page; null on the last page.
    pub next: Option<Uuid>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(deny_unknown_fields)]
pub struct SetMember {
    pub role: MemberRole,
}
