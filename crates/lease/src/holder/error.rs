use std::sync::Arc;

use protocol::problem::Code;

/// Why a request gets no lease.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum LeaseError {
    /// The tenant's owner stopped it.
    Stopped,
    NotRunning,
    /// The tenant sleeps, and the request does not wake a sleeping tenant.
    WakeRequired,
    /// The tenant is waking, and the request waited for as long as it may.
    Waking {
        /// The number of wakes before this wake, as last reported by the orchestrator.
        queue_position: Option<u32>,
    },
    /// The orchestrator's wake queue is full.
    WakeQueueFull {
        /// Requests that wait already.
        queue_position: Option<u32>,
    },
    /// The wake failed, for a reason that visitors may read.
    WakeFailed(Arc<str>),
    OrchestratorUnavailable,
    /// Too many requests wait in this router.
    RouterQueueFull,
    /// This router has no descriptors, memory or ports left.
    OutOfResources,
}

impl LeaseError {
    /// Returns the code in problems and metrics.
    pub const fn code(&self) -> Code {
        match self {
            Self::Stopped => Code::Stopped,
            Self::NotRunning => Code::NotRunning,
            Self::WakeRequired => Code::WakeRequired,
            Self::Waking { .. } => Code::Waking,
            Self::WakeQueueFull { .. } => Code::WakeQueueFull,
            Self::WakeFailed(_) => Code::WakeFailed,
            Self::OrchestratorUnavailable => Code::WakeUnavailable,
            Self::RouterQueueFull => Code::TooManyWaiting,
            Self::OutOfResources => Code::OutOfResources,
        }
    }
}
