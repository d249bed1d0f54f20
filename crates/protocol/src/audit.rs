//! The audit log: who changed what, when, from where.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// One change; `J` is the program's type for any JSON. Times are RFC 3339, UTC, with microseconds, as the hash covers
/// them.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditEntry<J> {
    /// The place in the log, from 1 without a gap.
    pub id: i64,
    #[cfg_attr(feature = "openapi", schema(format = DateTime))]
    pub at: String,
    /// The e-mail address of a person, the name of a key, or the command.
    pub actor: String,
    /// `user`, `key` or `command`.
    pub actor_kind: String,
    pub actor_id: Option<Uuid>,
    /// The platform role of a person or the role of a key, at that time.
    pub role: String,
    pub session_id: Option<Uuid>,
    /// A name like `tenant.create`.
    pub action: String,
    /// Kind and name, like `tenant:acme`.
    pub resource: String,
    /// The changed fields before the change; secrets are masked.
    #[cfg_attr(feature = "openapi", schema(value_type = Value))]
    pub before: Option<J>,
    #[cfg_attr(feature = "openapi", schema(value_type = Value))]
    pub after: Option<J>,
    pub address: String,
    pub request_id: String,
    /// SHA-256, in hex, over the hash of the entry before and this entry as canonical JSON without `hash`.
    pub hash: String,
}

/// The outcome of a check of the whole log.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditChain {
    /// The number of entries; null when the chain is broken.
    pub entries: Option<i64>,
    /// The hash of the last entry, in hex; kept elsewhere, it shows later that the log was not rewritten as a whole.
    pub hash: Option<String>,
    /// The first break, for people; null when there is none.
    pub fault: Option<String>,
}

/// A page of the log, the latest entry first.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AuditPage<J> {
    pub entries: Vec<AuditEntry<J>>,
    /// The `?cursor=` value for the next page; null on the last page.
    pub next: Option<String>,
}
