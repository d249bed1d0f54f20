//! A lease of this process itself, for work that it does in a tenant.

use std::sync::Arc;
use std::time::Duration;

use lease::HolderUsage;
use protocol::TenantId;
use protocol::leases::{LeaseRequest, RequestIntent};
use tokio_util::task::AbortOnDropHandle;
use uuid::Uuid;

use super::{LeaseError, SleepController};

/// Keeps a tenant awake until it is dropped. Counts as one open stream.
pub struct AwakeHold {
    controller: Arc<SleepController>,
    tenant: TenantId,
    holder: Uuid,
    _renewal: AbortOnDropHandle<()>,
}

/// Bounds a wake.
const WAKE_TIMEOUT_MS: u32 = 60_000;
/// Each holder has an id of its own, so its first request is its last.
const NUMBER: u64 = 1;
const USAGE: HolderUsage = HolderUsage { number: NUMBER, idle: 0, requests: 0, streams: 1 };

impl SleepController {
    /// Wakes a tenant that rests, and keeps it awake.
    ///
    /// # Errors
    /// As for [`request_lease`](Self::request_lease).
    pub async fn hold_awake(self: &Arc<Self>, tenant: TenantId) -> Result<AwakeHold, LeaseError> {
        let (holder, intent) = (Uuid::new_v4(), RequestIntent::Visit);
        let request =
            LeaseRequest { tenant, holder, number: NUMBER, intent, wait_ms: WAKE_TIMEOUT_MS };
        let grant = self.request_lease(request).await?;
        let interval = Duration::from_millis(grant.expires_in_ms.into()) / 3;
        let leases = self.leases.clone();
        let renewal = async move {
            // A tenant that was stopped has no lease any more, and its work ends with it.
            while leases.renew(tenant, holder, USAGE).is_some() {
                tokio::time::sleep(interval).await;
            }
        };
        let _renewal = AbortOnDropHandle::new(tokio::spawn(renewal));
        Ok(AwakeHold { controller: self.clone(), tenant, holder, _renewal })
    }
}

impl Drop for AwakeHold {
    fn drop(&mut self) {
        let usage = HolderUsage { streams: 0, ..USAGE };
        self.controller.leases.release(self.tenant, self.holder, usage);
    }
}
