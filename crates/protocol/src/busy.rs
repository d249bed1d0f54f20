//! Work inside a tenant that keeps the tenant awake: a job, a cron run, an agent's session.
//!
//! Core-back holds the busy leases. The core half declares over
//! [`CORE_BUSY_SOCKET`](crate::inside::CORE_BUSY_SOCKET). Processes of `agent` declare over
//! [`AGENT_BUSY_SOCKET`](crate::inside::AGENT_BUSY_SOCKET), which has a separate quota. The socket
//! identifies the caller. The socket that the edge uses serves none of these calls.
//!
//! | call | body → response |
//! |---|---|
//! | `POST /busy` | [`DeclareBusy`] → 201 [`BusyLease`]; 429 `busy_quota` with too many alive |
//! | `PUT /busy/{id}` | [`RenewBusy`] → 200 [`BusyLease`]; 404 `busy_ended` after expiry |
//! | `DELETE /busy/{id}` | → 204, also after expiry |
//! | `GET /busy` | → 200 [`BusyList`]; the only one of these calls on [`ORCHESTRATOR_SOCKET`](crate::inside::ORCHESTRATOR_SOCKET) |
//!
//! Each half changes its own declarations only. `agent` lists its own declarations, the other
//! callers list all. Too many requests of `agent` receive 429 `busy_rate` with `Retry-After`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;
pub use crate::text::{is_direction_mark, is_printable};

/// The longest duration of one declaration. Longer work renews its declaration.
pub const MAX_TTL_SECONDS: u32 = 900;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclareBusy {
    /// A reason for people: 1 to 200 characters by the rule of
    /// [`check_line`](crate::text::check_line).
    pub reason: String,
    /// 1 to [`MAX_TTL_SECONDS`].
    pub ttl_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RenewBusy {
    pub ttl_seconds: u32,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyLease {
    pub id: Uuid,
    #[serde(flatten)]
    pub busy: Busy,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Busy {
    pub reason: String,
    pub owner: BusyOwner,
    pub until: Timestamp,
}

/// The half that declared the work.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BusyOwner {
    Core,
    Agent,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct BusyList {
    pub busy: Vec<Busy>,
}
