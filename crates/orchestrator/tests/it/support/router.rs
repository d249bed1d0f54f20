//! A router, as the lease protocol sees it.

use std::sync::atomic::{AtomicU64, Ordering};

use orchestrator::controller::Controller;
use orchestrator::sleep::LeaseError;
use protocol::TenantId;
use protocol::leases::{
    LeaseGrant, LeaseRequest, LeaseUsage, ReleaseRequest, RenewRequest, RequestIntent,
};
use std::sync::Arc;
use uuid::Uuid;

pub(crate) struct Router {
    pub(crate) holder: Uuid,
    controller: Arc<Controller>,
    last_number: AtomicU64,
}

impl Router {
    pub(crate) fn new(controller: &Arc<Controller>) -> Self {
        Self {
            holder: Uuid::now_v7(),
            controller: controller.clone(),
            last_number: AtomicU64::new(0),
        }
    }

    /// Requests a lease for a visit, with the longest wait that is allowed.
    pub(crate) async fn visit(&self, tenant: TenantId) -> Result<LeaseGrant, LeaseError> {
        self.request(tenant, RequestIntent::Visit, 60_000).await
    }

    pub(crate) async fn request(
        &self,
        tenant: TenantId,
        intent: RequestIntent,
        wait_ms: u32,
    ) -> Result<LeaseGrant, LeaseError> {
        let number = self.last_number.fetch_add(1, Ordering::Relaxed) + 1;
        let request = LeaseRequest { tenant, holder: self.holder, number, intent, wait_ms };
        self.controller.sleep.request_lease(request).await
    }

    /// Returns how long the lease lasts, in milliseconds.
    pub(crate) fn renew(&self, tenant: TenantId, idle_ms: u32) -> Option<u32> {
        let renew = RenewRequest { holder: self.holder, leases: vec![self.used(tenant, idle_ms)] };
        self.controller.sleep.renew_leases(&renew).unwrap().leases.remove(0).expires_in_ms
    }

    pub(crate) fn release(&self, tenant: TenantId) {
        let leases = vec![self.used(tenant, 0)];
        self.controller.sleep.release_leases(&ReleaseRequest { holder: self.holder, leases });
    }

    /// Reports the time from the grant to the first byte of a response.
    pub(crate) fn answered(&self, tenant: TenantId, millis: u32) {
        let used = LeaseUsage { first_byte_ms: Some(millis), ..self.used(tenant, 0) };
        self.controller
            .sleep
            .renew_leases(&RenewRequest { holder: self.holder, leases: vec![used] })
            .unwrap();
    }

    fn used(&self, tenant: TenantId, idle_ms: u32) -> LeaseUsage {
        let number = self.last_number.load(Ordering::Relaxed);
        LeaseUsage { tenant, number, idle_ms, requests: 1, streams: 0, first_byte_ms: None }
    }
}

/// Status, code, whether there is a retry time, and detail of a refused request.
pub(crate) fn lease_error(
    response: Result<LeaseGrant, LeaseError>,
) -> (u16, &'static str, bool, String) {
    let error = response.unwrap_err();
    (error.code.status(), error.code.as_str(), error.retry_after.is_some(), error.detail)
}
