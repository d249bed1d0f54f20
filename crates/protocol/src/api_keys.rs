//! API keys and the question who a caller is: what programs and the CLI send and receive.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Slug;
use crate::control::User;

/// A role on a tenant. Each role includes the ones before it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Reads.
    Read,
    /// Reads, and starts, stops and restarts.
    Write,
    /// Also manages the keys and members of the tenant.
    Admin,
}

impl Role {
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Admin];

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// The text is no role.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct UnknownRole;

impl fmt::Display for UnknownRole {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("must be read, write or admin")
    }
}

impl std::error::Error for UnknownRole {}

impl FromStr for Role {
    type Err = UnknownRole;

    fn from_str(text: &str) -> Result<Self, UnknownRole> {
        Self::ALL.into_iter().find(|role| role.as_str() == text).ok_or(UnknownRole)
    }
}

/// A request to create a key, of one tenant or, at `/v1/auth/keys`, of all tenants.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewKey {
    /// 1 to 100 characters, for people.
    pub name: String,
    pub role: Role,
    /// The key may do everything. Only a caller that may do everything can ask for it, for a key of all tenants.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub is_admin: bool,
    /// At most 3650; 0: the key never expires. Absent: 30.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_in_days: Option<u32>,
}

/// A key as lists show it. Times are RFC 3339, UTC, with milliseconds.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Key {
    pub id: Uuid,
    pub name: String,
    pub role: Role,
    /// The only tenant of the key; null for a key of all tenants.
    pub tenant: Option<Slug>,
    /// The e-mail address of the person who got the key by `cial login`; null for a key of a program. The key has the
    /// rights of the person, up to its role.
    #[serde(default)]
    pub person: Option<String>,
    pub is_admin: bool,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub created_at: String,
    /// Null: never.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub expires_at: Option<String>,
    /// To the minute; null before the first use.
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub last_used_at: Option<String>,
    pub revoked: bool,
}

/// The response to a created key: the only one that shows the key itself.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Serialize, Deserialize)]
pub struct CreatedKey {
    pub id: Uuid,
    /// The text to send as `Authorization: Bearer`.
    pub key: String,
    pub name: String,
    pub role: Role,
    pub tenant: Option<Slug>,
    pub is_admin: bool,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub expires_at: Option<String>,
}

/// Without the key: the text must not reach a log.
impl fmt::Debug for CreatedKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CreatedKey").field("id", &self.id).finish_non_exhaustive()
    }
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct KeyList {
    /// The newest first.
    pub keys: Vec<Key>,
    /// The `?cursor=` value for the next page; null on the last page.
    pub next: Option<Uuid>,
}

/// The kind of a caller.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PrincipalKind {
    Session,
    Key,
}

/// The caller of `GET /v1/auth/whoami`.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WhoAmI {
    pub kind: PrincipalKind,
    /// The person of a session, or of a key that `cial login` made.
    pub user: Option<User>,
    pub key: Option<Key>,
    /// The only tenant of a key.
    pub tenant: Option<Slug>,
    /// A key's role (`read`, `write`, `admin`), or the platform role of a person (`owner`, `admin`, `viewer`, `none`).
    pub role: String,
    /// Whether the caller may do everything.
    pub is_admin: bool,
}
