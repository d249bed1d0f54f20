//! Reads from the orchestrator, when an owner looks, why tenants are awake or asleep and how full their disks are. Never
//! stored: the status changes with every request. A missing response leaves the other facts visible.

use std::collections::HashMap;
use std::time::Duration;

use protocol::orchestrator::DiskUse;
use protocol::sleep::SleepStatus;
use protocol::spec::Desired;
use protocol::{TenantId, Timestamp};
use service::client::CallError;
use tokio::time::timeout;

use crate::app::App;
use crate::tenant::Tenant;
use crate::tenant::status::state_at_phase;

/// Short, because a page waits for the response.
const RESPONSE_TIMEOUT: Duration = Duration::from_millis(300);

pub async fn fetch(app: &App, tenant: &Tenant) -> Option<SleepStatus> {
    tenant.container_id.as_ref()?;
    call(app, app.orchestrator.sleep_status(tenant.tenant_id())).await
}

/// Returns the status of those `tenants` that the orchestrator knows.
pub async fn fetch_all(app: &App, tenants: &[Tenant]) -> HashMap<TenantId, SleepStatus> {
    if tenants.iter().all(|tenant| tenant.container_id.is_none()) {
        return HashMap::new();
    }
    let list = call(app, app.orchestrator.all_sleep_status()).await;
    list.into_iter().flat_map(|list| list.tenants).map(|status| (status.tenant, status)).collect()
}

/// Returns what the tenant's volumes hold, and what holds them to the limit.
pub async fn fetch_disk_use(app: &App, tenant: &Tenant) -> Option<DiskUse> {
    tenant.container_id.as_ref()?;
    call(app, app.orchestrator.disk_use(tenant.tenant_id())).await
}

/// Returns the disk use of those `tenants` that the orchestrator knows.
pub async fn fetch_all_disk_use(app: &App, tenants: &[Tenant]) -> HashMap<TenantId, DiskUse> {
    if tenants.iter().all(|tenant| tenant.container_id.is_none()) {
        return HashMap::new();
    }
    let list = call(app, app.orchestrator.all_disk_use()).await;
    list.into_iter().flat_map(|list| list.tenants).map(|disk| (disk.tenant, disk)).collect()
}

/// Brings the tenant's state to the moment at which `status` was read, so that the state agrees with the last wake.
pub fn update_state(tenant: &mut Tenant, status: Option<&SleepStatus>, now: Timestamp) {
    let phase = status.and_then(|status| status.phase);
    let Some(phase) = phase.filter(|_| tenant.desired == Desired::Running) else { return };
    let state = state_at_phase(tenant.state, phase);
    if state != tenant.state {
        (tenant.state, tenant.state_since) = (state, now);
    }
}

async fn call<T>(app: &App, call: impl Future<Output = Result<T, CallError>>) -> Option<T> {
    if !app.observed.is_connected() {
        return None;
    }
    match timeout(RESPONSE_TIMEOUT, call).await {
        Ok(Ok(response)) => Some(response),
        Ok(Err(error)) => {
            tracing::debug!(%error, "reading sleep status failed");
            None
        }
        Err(_) => None,
    }
}
