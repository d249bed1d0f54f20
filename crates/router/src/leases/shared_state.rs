//! The state that serving threads share with the manager loop: queue places, the orchestrator's status, queue positions.

use std::collections::HashMap;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicU8, AtomicU64};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease::{LeaseError, Millis, OrchestratorStatus};
use protocol::TenantId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use crate::clock;
use crate::routes::cached_lease::CachedLease;

/// Bounds of the waiters in this process. They are no settings of an installation, because they
/// bound memory, not service.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Requests that wait for a tenant, all together.
    pub max_waiters: usize,
    /// Requests that wait for one tenant.
    pub max_waiters_per_tenant: usize,
    /// Waiting pages that watch a wake, all together.
    pub watchers: usize,
    /// Waiting pages that watch the wake of one tenant.
    pub watchers_per_tenant: usize,
    /// Pairs of tenant and client for which the rate limit keeps a count.
    pub clients: usize,
    /// How long a restart of the orchestrator takes. While it is unreachable for longer, requests for a tenant that does not
    /// run are refused at once.
    pub outage_grace: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_waiters: 16_384,
            // A sixteenth: the visitors of one tenant must not take the places of the others.
            max_waiters_per_tenant: 1_024,
            watchers: 1_024,
            watchers_per_tenant: 64,
            clients: 65_536,
            outage_grace: Duration::from_secs(10),
        }
    }
}

/// The state that all threads share with the manager loop. Touched only by requests without a
/// lease.
pub(crate) struct SharedState {
    /// One permit per queued request. The permit travels with the request's message.
    permits: Arc<Semaphore>,
    pub(crate) limits: Limits,
    /// An [`OrchestratorStatus`].
    status: AtomicU8,
    /// From this moment on a request without a lease may be the reason for another lease request.
    next_report_at: AtomicU64,
    last_waiter: AtomicU64,
    /// Streams that wait for their tenant, one wait for each thread and tenant.
    thaws: Mutex<Thaws>,
    /// Wakes before that of a tenant, as last reported by the orchestrator.
    queue_positions: Mutex<HashMap<TenantId, u32>>,
}

/// `None` until the wait has ended.
pub(super) type ThawResult = Option<Result<Arc<CachedLease>, LeaseError>>;
pub(super) type Thaws = HashMap<(usize, TenantId), watch::Receiver<ThawResult>>;

/// Minimum time between two reports of use without a lease.
pub(super) const REPORT_INTERVAL: Millis = 1_000;

impl SharedState {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            permits: Arc::new(Semaphore::new(limits.max_waiters)),
            limits,
            status: AtomicU8::new(OrchestratorStatus::Reachable as u8),
            next_report_at: AtomicU64::new(0),
            last_waiter: AtomicU64::new(0),
            thaws: Mutex::default(),
            queue_positions: Mutex::default(),
        }
    }

    pub(super) fn next_waiter(&self) -> u64 {
        self.last_waiter.fetch_add(1, Relaxed) + 1
    }

    pub(super) fn take_permit(&self) -> Option<OwnedSemaphorePermit> {
        self.permits.clone().try_acquire_owned().ok()
    }

    pub(crate) fn is_orchestrator_unreachable(&self) -> bool {
        self.status.load(Relaxed) == OrchestratorStatus::Unreachable as u8
    }

    pub(crate) fn is_rejected_by_orchestrator(&self) -> bool {
        self.status.load(Relaxed) == OrchestratorStatus::RejectsCalls as u8
    }

    /// Shows the status to the serving threads, and logs the change.
    pub(super) fn set_status(&self, status: OrchestratorStatus) {
        match status {
            OrchestratorStatus::Reachable => tracing::info!("orchestrator reachable"),
            OrchestratorStatus::Unreachable => {
                tracing::warn!(
                    "orchestrator unreachable; running tenants are served without leases"
                );
            }
            OrchestratorStatus::RejectsCalls => {
                tracing::error!(
                    "orchestrator rejects lease calls; compare the leases token and the builds"
                );
            }
        }
        if status == OrchestratorStatus::Unreachable {
            self.next_report_at.store(clock::now().plus(REPORT_INTERVAL).0, Relaxed);
        }
        self.status.store(status as u8, Relaxed);
    }

    /// Returns `true` once per [`REPORT_INTERVAL`].
    pub(super) fn take_report(&self) -> bool {
        let (now, at) = (clock::now(), self.next_report_at.load(Relaxed));
        let next = now.plus(REPORT_INTERVAL).0;
        at <= now.0 && self.next_report_at.compare_exchange(at, next, Relaxed, Relaxed).is_ok()
    }

    /// Returns how many wakes are before that of the tenant, as last reported by the orchestrator.
    pub(super) fn queue_position(&self, tenant: TenantId) -> Option<u32> {
        self.queue_positions().get(&tenant).copied()
    }

    fn queue_positions(&self) -> MutexGuard<'_, HashMap<TenantId, u32>> {
        self.queue_positions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn set_queue_position(&self, tenant: TenantId, queue_position: Option<u32>) {
        match queue_position {
            Some(position) => self.queue_positions().insert(tenant, position),
            None => self.queue_positions().remove(&tenant),
        };
    }

    pub(super) fn thaws(&self) -> MutexGuard<'_, Thaws> {
        self.thaws.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the number of requests that wait.
    pub(crate) fn held_requests(&self) -> usize {
        self.limits.max_waiters.saturating_sub(self.permits.available_permits())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_tenant_gets_at_most_a_sixteenth_of_the_queue() {
        let limits = Limits::default();
        // A thousand requests at once for one sleeping tenant are all served.
        assert!(
            limits.max_waiters_per_tenant >= 1_024
                && limits.max_waiters_per_tenant <= limits.max_waiters / 16
        );
        assert!(limits.watchers_per_tenant <= limits.watchers / 16);
    }
}
