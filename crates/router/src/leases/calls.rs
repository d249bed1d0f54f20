//! Lease calls in flight. Renewals and releases that are due together share one call.

use lease::{CallHealth, LeaseCall};
use protocol::TenantId;
use protocol::leases::{
    LeaseGrant, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse, RequestIntent,
};
use service::client::CallError;
use tokio::task::JoinSet;

use super::client::{LeaseCallError, LeaseClient, classify_error};

/// Leases per call, as the orchestrator bounds them.
const MAX_LEASES_PER_CALL: usize = 1_000;

pub(super) struct LeaseCalls {
    client: LeaseClient,
    in_flight: JoinSet<FinishedCall>,
    renewals: Vec<((TenantId, LeaseCall), LeaseUsage)>,
    releases: Vec<LeaseUsage>,
}

pub(super) enum FinishedCall {
    Request { tenant: TenantId, call: LeaseCall, result: Result<LeaseGrant, LeaseCallError> },
    Renewal { calls: Vec<(TenantId, LeaseCall)>, result: Result<RenewResponse, CallHealth> },
    Probe(CallHealth),
    Release,
}

impl LeaseCalls {
    pub(super) fn new(client: LeaseClient) -> Self {
        let (renewals, releases) = (Vec::new(), Vec::new());
        Self { client, in_flight: JoinSet::new(), renewals, releases }
    }

    /// Returns the next call that ends; `None` while none is in flight.
    pub(super) async fn next_finished(&mut self) -> Option<FinishedCall> {
        // A call ends without a result only when its task panicked, which ends a release build.
        self.in_flight.join_next().await?.ok()
    }

    pub(super) fn send_request(
        &mut self,
        tenant: TenantId,
        call: LeaseCall,
        intent: RequestIntent,
    ) {
        let client = self.client.clone();
        self.in_flight.spawn(async move {
            let result = client.request_lease(tenant, call.number, intent).await;
            FinishedCall::Request { tenant, call, result: result.map_err(|error| failure(&error)) }
        });
    }

    pub(super) fn send_probe(&mut self) {
        let client = self.client.clone();
        self.in_flight.spawn(async move {
            let result = client.probe().await;
            let failed = |error| failure(&error).health();
            FinishedCall::Probe(result.map_or_else(failed, |_| CallHealth::Responded))
        });
    }

    /// Renews a lease with the next [`LeaseCalls::flush`].
    pub(super) fn add_renewal(&mut self, tenant: TenantId, call: LeaseCall, usage: LeaseUsage) {
        self.renewals.push(((tenant, call), usage));
    }

    /// Releases a lease with the next [`LeaseCalls::flush`].
    pub(super) fn add_release(&mut self, usage: LeaseUsage) {
        self.releases.push(usage);
    }

    pub(super) fn flush(&mut self) {
        while !self.renewals.is_empty() {
            let count = self.renewals.len().min(MAX_LEASES_PER_CALL);
            let (calls, leases) = self.renewals.drain(..count).unzip();
            let client = self.client.clone();
            self.in_flight.spawn(async move {
                let renew = RenewRequest { holder: client.holder, leases };
                let result = client.renew(&renew).await.map_err(|error| failure(&error).health());
                FinishedCall::Renewal { calls, result }
            });
        }
        while !self.releases.is_empty() {
            let count = self.releases.len().min(MAX_LEASES_PER_CALL);
            let leases = self.releases.drain(..count).collect();
            let client = self.client.clone();
            self.in_flight.spawn(async move {
                client.release(&ReleaseRequest { holder: client.holder, leases }).await;
                FinishedCall::Release
            });
        }
    }
}

/// Classifies a failed call, and logs every failure that is not a usual refusal of the
/// orchestrator.
fn failure(error: &CallError) -> LeaseCallError {
    let failure = classify_error(error);
    match &failure {
        LeaseCallError::Refused(_) => {}
        LeaseCallError::Health(CallHealth::OutOfResources) => {
            tracing::error!(%error, "lease call failed: this process is out of resources");
        }
        LeaseCallError::Health(CallHealth::Failed { rejects_calls: false }) => {
            tracing::error!(%error, "lease call failed at the orchestrator");
        }
        LeaseCallError::Health(_) => tracing::debug!(%error, "lease call failed"),
    }
    failure
}
