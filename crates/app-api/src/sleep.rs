//! Why tenants are awake or asleep, asked of the orchestrator when somebody looks. Never stored: it changes with
//! every request. While there is no answer, whoever looks sees everything else.

use std::collections::HashMap;
use std::time::Duration;

use protocol::TenantId;
use protocol::sleep::SleepStatus;
use service::client::CallError;
use tokio::time::timeout;

use crate::app::App;
use crate::db::tenant::Tenant;

/// Somebody waits for a page meanwhile.
const PATIENCE: Duration = Duration::from_millis(300);

pub async fn of(app: &App, tenant: &Tenant) -> Option<SleepStatus> {
    tenant.container_id.as_ref()?;
    soon(app, app.orchestrator.sleep(tenant.tenant_id())).await
}

/// Of those among `tenants` that it is known of.
pub async fn of_all(app: &App, tenants: &[Tenant]) -> HashMap<TenantId, SleepStatus> {
    if tenants.iter().all(|tenant| tenant.container_id.is_none()) {
        return HashMap::new();
    }
    let list = soon(app, app.orchestrator.sleeps()).await;
    list.into_iter().flat_map(|list| list.tenants).map(|sleep| (sleep.tenant, sleep)).collect()
}

async fn soon<T>(app: &App, asked: impl Future<Output = Result<T, CallError>>) -> Option<T> {
    if !app.sight.is_clear() {
        return None;
    }
    match timeout(PATIENCE, asked).await {
        Ok(Ok(answer)) => Some(answer),
        Ok(Err(error)) => {
            tracing::debug!("why tenants are awake cannot be told: {error}");
            None
        }
        Err(_) => None,
    }
}
