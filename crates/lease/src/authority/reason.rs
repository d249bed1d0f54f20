//! Reasons as data: why a tenant is awake and why it was suspended. The caller turns them into sentences.

use protocol::orchestrator::Phase;

use crate::time::{Millis, Moment};

/// The result of a busy query: whether work inside the tenant keeps it awake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum BusyReport {
    NotBusy,
    Busy {
        /// The latest end of the work that the tenant declared.
        until: Moment,
    },
    /// The tenant did not answer in time. No answer keeps no tenant awake.
    NoReply,
    /// The tenant was busy for longer than its policy allows.
    BusyTooLong {
        since: Moment,
    },
    /// The tenant was not queried yet, because it is frozen.
    NotQueried,
}

/// Why a tenant is awake, besides its idle time not being over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum AwakeReason {
    /// Clients use it through routers. `requests` and `streams` are the last reported numbers.
    Leased { holders: usize, requests: u32, streams: u32, until: Moment },
    /// Work inside the tenant declared itself busy.
    Busy { since: Moment, until: Moment },
    /// The orchestrator started recently: leases that it granted before the restart may be live.
    OrchestratorStarted { until: Moment },
    /// The engine refused the last suspend; the next try follows at `until`.
    EngineRefused { until: Moment },
    /// The policy never suspends the tenant.
    NeverSleeps,
}

/// The last time a tenant was suspended for lack of use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SleepRecord {
    pub at: Moment,
    /// [`Phase::Frozen`] or [`Phase::Sleeping`].
    pub phase: Phase,
    pub idle: Millis,
    pub busy_report: BusyReport,
}
