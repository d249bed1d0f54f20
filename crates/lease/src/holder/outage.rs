//! Whether the orchestrator is reachable, by the knowledge of one router process.

use crate::time::{Millis, Moment};

/// A lease request may stay without any sign of the orchestrator for this long; then a probe
/// distinguishes a long wake from an outage.
pub(crate) const SILENCE_TIMEOUT: Millis = 1_000;
/// Minimum time between two requests that only find out whether the orchestrator is back.
const PROBE_INTERVAL: Millis = 1_000;

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum OrchestratorStatus {
    #[default]
    Reachable,
    /// The last call got no response. Running tenants are served without a lease.
    Unreachable,
    /// The orchestrator responds and rejects our calls. It goes on suspending tenants, so nothing is sent without a lease.
    RejectsCalls,
}

/// The health of the orchestrator, by the outcome of one call.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CallHealth {
    Responded,
    /// The orchestrator was not reached, did not respond in time, is shutting down, or does not know its tenants yet.
    NoResponse,
    /// The orchestrator responded and did not process the call.
    Failed {
        /// Our token or our build is wrong: every call fails until an operator acts.
        rejects_calls: bool,
    },
    /// The call failed on this side: no descriptors, memory or ports. The failure shows nothing
    /// about the orchestrator.
    OutOfResources,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(crate) struct Outage {
    pub(crate) status: OrchestratorStatus,
    pub(crate) unreachable_since: Moment,
    /// Until this moment a refused request does not cause another call.
    pub(crate) next_retry_at: Moment,
    pub(crate) last_response_at: Moment,
    pub(crate) last_probe_at: Moment,
    pub(crate) is_probing: bool,
}

impl Outage {
    pub(crate) fn is_unreachable(&self) -> bool {
        self.status == OrchestratorStatus::Unreachable
    }

    /// Whether the orchestrator is unreachable for longer than a restart takes.
    pub(crate) fn is_longer_than(&self, now: Moment, grace: Millis) -> bool {
        self.is_unreachable() && self.unreachable_since.plus(grace) <= now
    }

    /// Returns whether the status changed.
    pub(crate) fn set_reachable(&mut self, now: Moment) -> bool {
        self.last_response_at = now;
        std::mem::take(&mut self.status) != OrchestratorStatus::Reachable
    }

    /// Returns whether the status changed.
    pub(crate) fn set_unreachable(&mut self, now: Moment) -> bool {
        self.next_retry_at = now.plus(PROBE_INTERVAL);
        if self.is_unreachable() {
            return false;
        }
        (self.status, self.unreachable_since) = (OrchestratorStatus::Unreachable, now);
        true
    }

    /// Returns whether the status changed.
    pub(crate) fn set_faulty(&mut self, now: Moment, rejects_calls: bool) -> bool {
        self.last_response_at = now;
        let before = self.status;
        if rejects_calls {
            self.status = OrchestratorStatus::RejectsCalls;
        } else if self.is_unreachable() {
            self.status = OrchestratorStatus::Reachable;
        }
        before != self.status
    }

    /// Returns `true` once per [`PROBE_INTERVAL`].
    pub(crate) fn take_retry(&mut self, now: Moment) -> bool {
        let is_due = self.next_retry_at <= now;
        if is_due {
            self.next_retry_at = now.plus(PROBE_INTERVAL);
        }
        is_due
    }

    /// Returns when to probe, given when the oldest pending lease request was sent.
    pub(crate) fn probe_at(&self, oldest_request: Option<Moment>) -> Option<Moment> {
        if self.is_probing {
            return None;
        }
        let last_sign = oldest_request?.max(self.last_response_at).max(self.last_probe_at);
        Some(last_sign.plus(SILENCE_TIMEOUT))
    }
}
