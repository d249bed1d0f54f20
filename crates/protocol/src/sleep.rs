//! Why a tenant is awake, why it slept, and how it woke: orchestrator → app-api → its owner.
//!
//! `GET /v1/tenants/{id}/sleep` → 200 [`SleepStatus`]; `GET /v1/sleep` → 200 [`SleepStatusList`].
//! The status changes with every request, so app-api requests it on demand and the watch does not
//! carry it.

use serde::{Deserialize, Serialize};

use crate::orchestrator::Phase;
use crate::{TenantId, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepStatus {
    pub tenant: TenantId,
    /// The observed phase, read at the same moment as `last_wake`; `None` from an orchestrator of
    /// an earlier build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Sentences for a person; empty while only the idle time keeps the tenant awake.
    pub awake_because: Vec<String>,
    /// A sentence: why the tenant last froze or stopped for lack of use.
    pub asleep_because: Option<String>,
    /// The freeze time if the tenant stays idle. `None`: the tenant never freezes, or something
    /// keeps it awake.
    pub freezes_at: Option<Timestamp>,
    pub sleeps_at: Option<Timestamp>,
    pub last_wake: Option<LastWake>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepStatusList {
    pub tenants: Vec<SleepStatus>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastWake {
    pub at: Timestamp,
    pub from: IdleState,
    pub total_ms: u32,
    pub phases_ms: WakePhases,
}

/// The two ways in which an idle tenant rests: the phases of [`Phase`] from which a visit wakes it.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum IdleState {
    Frozen,
    Sleeping,
}

impl IdleState {
    /// Returns the idle state of a tenant in this phase; `None` when the tenant does not rest.
    pub const fn from_phase(phase: Phase) -> Option<Self> {
        match phase {
            Phase::Frozen => Some(Self::Frozen),
            Phase::Sleeping => Some(Self::Sleeping),
            Phase::Created | Phase::Starting | Phase::Ready | Phase::Stopped | Phase::Exited => {
                None
            }
        }
    }
}

#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakePhases {
    /// The time spent behind other wakes.
    pub queue: u32,
    /// The time of the engine's call; for a thaw, only the part before the tenant responded.
    pub engine: u32,
    /// The time from the engine's call to readiness.
    pub boot: u32,
    /// The time from readiness to the first byte of a response; unknown until the router reports
    /// it.
    pub first_byte: Option<u32>,
}
