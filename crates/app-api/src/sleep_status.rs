//! Reads from the orchestrator why tenants are awake or asleep, when an owner looks. Never stored: the status changes
//! with every request. A missing response leaves the other facts visible.

use std::collections::HashMap;
use std::time::Duration;

use protocol::TenantId;
use protocol::sleep::SleepStatus;
use service::client::CallError;
use tokio::time::timeout;

use crate::app::App;
use crate::tenant::Tenant;

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
