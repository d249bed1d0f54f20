//! Inputs and outputs of [`Authority`](crate::Authority).

use protocol::orchestrator::Phase;

use crate::authority::wake_queue::{Waiter, WakeLimits, WakeTimings};
use crate::time::Millis;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct AuthoritySettings {
    /// How long a lease lasts after its grant or renewal.
    pub lease_duration: Millis,
    /// How long to wait after the engine refused a call before the next try.
    pub retry_delay: Millis,
    pub limits: WakeLimits,
}

/// A holder's request for a lease on one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LeaseRequest<T, H, W> {
    pub tenant: T,
    /// The request wakes a sleeping tenant: `RequestIntent::Visit`.
    pub is_visit: bool,
    pub waiter: Waiter<H, W>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Grant {
    pub expires_in: Millis,
    /// How long the holder may keep the lease without use.
    pub linger: Millis,
    /// The tenant was woken for this lease.
    pub woke: bool,
}

/// The result of a lease request. Each request gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LeaseResponse {
    Granted(Grant),
    /// The authority does not know the tenant.
    Unknown,
    /// The tenant's owner stopped it.
    Stopped,
    NotRunning,
    /// The tenant sleeps, and the request does not wake a sleeping tenant.
    WakeRequired,
    /// The waiter's deadline came before the tenant was ready.
    Waking {
        /// The number of wakes before this wake.
        queue_position: usize,
    },
    QueueFull {
        /// Differs from response to response: the jitter of `Retry-After`.
        seed: u64,
    },
    Failed(WakeError),
}

/// Why a wake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WakeError {
    /// The engine refused the call.
    EngineRefused,
    /// The container started and exited.
    Exited,
    /// The container runs and did not become ready in time.
    ReadinessTimeout,
}

/// A call to the container engine. Every kind takes the same steps:
///
/// 1. acquire the tenant's exclusive lock; while it is taken, [defer](crate::Authority::defer_call) a wake;
/// 2. [`begin_call`](crate::Authority::begin_call) with the call's id; on `false` release the lock and do nothing;
/// 3. persist what must survive a crash, then call the engine. For [`EngineCall::ThawThenStop`]: thaw, query the tenant as for
///    [`Command::QueryBusy`], pass the report to [`continue_after_thaw`](crate::Authority::continue_after_thaw), stop on `true`;
/// 4. [`on_call_finished`](crate::Authority::on_call_finished), then release the lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum EngineCall {
    Freeze,
    Stop,
    ThawThenStop,
    Thaw,
    Start,
}

/// Identifies one [`EngineCall`] for one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CallId(pub(crate) u64);

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Command<T, W> {
    /// Query the tenant whether it is busy, then call [`on_busy_report`](crate::Authority::on_busy_report).
    QueryBusy {
        tenant: T,
        generation: u64,
    },
    CallEngine {
        tenant: T,
        call: EngineCall,
        call_id: CallId,
    },
    Respond {
        waiter: W,
        response: LeaseResponse,
    },
    /// The tenant is ready after a wake: for metrics and status pages.
    RecordWake {
        tenant: T,
        timings: WakeTimings,
    },
}

/// How an [`EngineCall`] ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallOutcome {
    Done,
    Refused,
}

/// How far the wake of a tenant is: `leases::WakeStep` on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum WakeProgress {
    /// No wake is pending.
    NotWaking(Phase),
    Queued {
        queue_position: usize,
        elapsed: Millis,
    },
    /// The engine is being called.
    Starting {
        elapsed: Millis,
    },
    /// The container runs; its services do not all answer yet.
    Booting {
        elapsed: Millis,
    },
}
