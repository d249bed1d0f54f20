//! The lease protocol as routers use it, and the owner's wake.

use std::sync::Arc;
use std::time::Duration;

use lease::{Grant, HolderUsage, LeaseResponse, WakeError};
use protocol::TenantId;
use protocol::leases::{
    LeaseGrant, LeaseRequest, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse,
    RenewedLease, RequestIntent,
};
use protocol::orchestrator::ObservedTenant;
use tokio::sync::oneshot;
use uuid::Uuid;

use super::lease_service::{LeaseOutcome, LeaseQuery, WaiterId, to_u32};
use super::{LeaseError, SleepController};
use crate::driver::DriverError;
use crate::metrics::sleep::WakePart;

/// An owner's wake holds no lease: it requests one and releases it at once.
const OWNER: Uuid = Uuid::nil();
/// How long an owner's wake may take. Only this process waits for it.
const OWNER_WAKE_TIMEOUT: Duration = Duration::from_secs(60);

impl SleepController {
    /// Grants a lease, after a wake where the tenant rests. A caller that drops the future does not wait any more; the wake
    /// continues.
    ///
    /// # Errors
    /// Every reason is a [`LeaseError`] with its HTTP status.
    pub async fn request_lease(&self, request: LeaseRequest) -> Result<LeaseGrant, LeaseError> {
        let LeaseRequest { tenant, holder, number, intent, wait_ms } = request;
        let wait = Duration::from_millis(wait_ms.into());
        let requested_at = self.leases.now();
        self.wait_until_listed(wait).await?;
        let waited = Duration::from_millis(self.leases.now().since(requested_at));
        self.store.load(tenant);
        let (waiter, outcome) = self.leases.request(LeaseQuery {
            tenant,
            is_visit: intent == RequestIntent::Visit,
            holder,
            number,
            wait: wait.saturating_sub(waited),
        });
        let guard = WaiterGuard { controller: self, tenant, waiter };
        let outcome = outcome.await.unwrap_or(LeaseOutcome::ShuttingDown);
        drop(guard);
        let grant = self.to_grant(tenant, outcome)?;
        let Some((generation, upstream)) = self.store.upstream(tenant) else {
            return Err(self.lease_error(tenant, LeaseResponse::NotRunning));
        };
        Ok(LeaseGrant {
            tenant,
            generation,
            upstream,
            expires_in_ms: to_u32(grant.expires_in),
            linger_ms: to_u32(grant.linger),
            woke: grant.woke,
        })
    }

    /// # Errors
    /// Refuses before the first listing: "no lease" would end leases that an earlier process granted.
    pub fn renew_leases(&self, request: &RenewRequest) -> Result<RenewResponse, LeaseError> {
        self.check_listed()?;
        let renew = |usage: &LeaseUsage| {
            self.record_first_byte(usage);
            let left = self.leases.renew(usage.tenant, request.holder, to_holder_usage(usage));
            RenewedLease { tenant: usage.tenant, expires_in_ms: left.map(to_u32) }
        };
        Ok(RenewResponse { leases: request.leases.iter().map(renew).collect() })
    }

    pub fn release_leases(&self, request: &ReleaseRequest) {
        for usage in &request.leases {
            self.record_first_byte(usage);
            self.leases.release(usage.tenant, request.holder, to_holder_usage(usage));
        }
    }

    /// The owner's wake. Returns at once; the watch reports the result of a wake. Counts as use of a tenant that is awake.
    ///
    /// # Errors
    /// As for [`Self::request_lease`], as far as they are known at once.
    pub async fn wake(self: &Arc<Self>, id: TenantId) -> Result<ObservedTenant, LeaseError> {
        self.wait_until_listed(Duration::ZERO).await?;
        self.store.load(id);
        let number = self.leases.next_owner_number();
        let (_, mut outcome) = self.leases.request(LeaseQuery {
            tenant: id,
            is_visit: true,
            holder: OWNER,
            number,
            wait: OWNER_WAKE_TIMEOUT,
        });
        if let Ok(outcome) = outcome.try_recv() {
            self.to_grant(id, outcome)?;
            self.release_owner_lease(id, number);
        } else {
            let controller = self.clone();
            tokio::spawn(async move {
                controller.release_owner_lease_later(id, number, outcome).await;
            });
        }
        let observed = self.store.observed(id);
        observed.ok_or_else(|| self.lease_error(id, LeaseResponse::Unknown))
    }

    async fn release_owner_lease_later(
        &self,
        id: TenantId,
        number: u64,
        outcome: oneshot::Receiver<LeaseOutcome>,
    ) {
        if let Ok(LeaseOutcome::Response(LeaseResponse::Granted(_))) = outcome.await {
            self.release_owner_lease(id, number);
        }
    }

    fn release_owner_lease(&self, id: TenantId, number: u64) {
        self.leases.release_unused(id, OWNER, number);
    }

    /// Before the first listing no tenant can be called unknown.
    async fn wait_until_listed(&self, wait: Duration) -> Result<(), LeaseError> {
        let listed = async {
            let mut changes = self.leases.changes();
            while self.store.feed().is_err() && changes.changed().await.is_ok() {}
        };
        let _ = tokio::time::timeout(wait, listed).await;
        self.check_listed()
    }

    fn check_listed(&self) -> Result<(), LeaseError> {
        self.store.feed().map(drop).map_err(LeaseError::not_listed)
    }

    /// A router reports once per wake how long the first byte of a response took.
    fn record_first_byte(&self, usage: &LeaseUsage) {
        if let Some((from, millis)) = self.store.set_first_byte(usage) {
            let duration = Duration::from_millis(millis.into());
            self.metrics.sleep.record_wake_time(from, WakePart::FirstByte, duration);
        }
    }

    fn to_grant(&self, id: TenantId, outcome: LeaseOutcome) -> Result<Grant, LeaseError> {
        match outcome {
            LeaseOutcome::Response(LeaseResponse::Granted(grant)) => Ok(grant),
            LeaseOutcome::Response(response) => Err(self.lease_error(id, response)),
            LeaseOutcome::ShuttingDown => Err(LeaseError::shutting_down()),
        }
    }

    fn lease_error(&self, id: TenantId, response: LeaseResponse) -> LeaseError {
        match response {
            LeaseResponse::Unknown => LeaseError::unknown_tenant(DriverError::no_such_tenant(id)),
            LeaseResponse::Stopped => LeaseError::stopped(),
            // A lease on an unreachable tenant cannot be granted.
            LeaseResponse::NotRunning | LeaseResponse::Granted(_) => {
                LeaseError::not_running(self.store.reason(id))
            }
            LeaseResponse::WakeRequired => LeaseError::wake_required(),
            LeaseResponse::Waking { queue_position } => LeaseError::waking(queue_position),
            LeaseResponse::QueueFull { seed } => {
                self.metrics.sleep.count_wake_queue_full();
                LeaseError::wake_queue_full(self.leases.waiter_count(), seed)
            }
            LeaseResponse::Failed(WakeError::ReadinessTimeout) => {
                LeaseError::readiness_timeout(self.settings().readiness_timeout)
            }
            LeaseResponse::Failed(WakeError::EngineRefused) => {
                let error = self.store.wake_error(id);
                LeaseError::wake_failed(error.unwrap_or_else(|| self.store.reason(id)))
            }
            LeaseResponse::Failed(WakeError::Exited) => {
                LeaseError::wake_failed(self.store.reason(id))
            }
        }
    }
}

fn to_holder_usage(usage: &LeaseUsage) -> HolderUsage {
    HolderUsage {
        number: usage.number,
        idle: usage.idle_ms.into(),
        requests: usage.requests,
        streams: usage.streams,
    }
}

/// Removes a waiter whose caller left.
struct WaiterGuard<'a> {
    controller: &'a SleepController,
    tenant: TenantId,
    waiter: WaiterId,
}

impl Drop for WaiterGuard<'_> {
    fn drop(&mut self) {
        self.controller.leases.remove_waiter(self.tenant, self.waiter);
    }
}
