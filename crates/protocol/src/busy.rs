//! Work inside a tenant that must not be put to sleep: a job, a cron run, an agent's session.
//!
//! BusyLease at core-back: by the core half over [`CORE_BUSY_SOCKET`](crate::inside::CORE_BUSY_SOCKET), by processes of
//! `agent` over [`AGENT_BUSY_SOCKET`](crate::inside::AGENT_BUSY_SOCKET), which has a quota of its own. The socket says
//! who asks; over the one that the edge uses none of this is served.
//!
//! | call | body → answer |
//! |---|---|
//! | `POST /busy` | [`DeclareBusy`] → 201 [`BusyLease`]; 429 `busy_quota` with too many alive |
//! | `PUT /busy/{id}` | [`RenewBusy`] → 200 [`BusyLease`]; 404 `busy_ended` once it ran out |
//! | `DELETE /busy/{id}` | → 204, also when it ran out |
//! | `GET /busy` | → 200 [`BusyList`]; all that the orchestrator's socket answers |
//!
//! Each half touches its own declarations only. `agent` is shown its own, the others are shown all. `agent` asks too
//! often: 429 `busy_rate` with `Retry-After`.

use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::Timestamp;
pub use crate::text::{is_direction_mark, is_printable};

/// The longest that one declaration holds; whoever works longer renews it.
pub const MAX_TTL_SECONDS: u32 = 900;

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DeclareBusy {
    /// For people: 1 to 200 characters by the rule of [`check_line`](crate::text::check_line).
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

/// Which half declared it.
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
