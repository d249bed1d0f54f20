//! Why a tenant is awake, why it slept, and how it woke: orchestrator → app-api → its owner.
//!
//! `GET /v1/tenants/{id}/sleep` → 200 [`SleepStatus`]; `GET /v1/sleep` → 200 [`SleepStatusList`]. Asked for when somebody looks: it changes
//! with every request, so it is not part of what is watched.

use serde::{Deserialize, Serialize};

use crate::orchestrator::Phase;
use crate::{TenantId, Timestamp};

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SleepStatus {
    pub tenant: TenantId,
    /// The observed phase, of the same moment as `last_wake`; `None` from an orchestrator of an earlier build.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub phase: Option<Phase>,
    /// Sentences for a person; empty while nothing but its idle time keeps it awake.
    pub awake_because: Vec<String>,
    /// A sentence: why it last froze or stopped for want of use.
    pub asleep_because: Option<String>,
    /// When it will, if nothing happens until then; `None`: never, or something keeps it awake.
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

/// The two ways in which a tenant rests for want of use: the part of [`Phase`] from which a visit wakes it.
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

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WakePhases {
    /// Behind other wakes.
    pub queue: u32,
    /// The engine's own call; of a thaw, as much as passed before the tenant answered.
    pub engine: u32,
    /// From there to readiness.
    pub boot: u32,
    /// From readiness to the first byte of an answer; unknown until the router tells.
    pub first_byte: Option<u32>,
}
