//! Performs one step. Makes no decision.

use protocol::TenantId;
use protocol::orchestrator::ApplyRequest;
use service::client::CallError;
use uuid::Uuid;

use super::observed_cache::ObservedCache;
use super::plan::Step;
use crate::orchestrator::Orchestrator;
use crate::tenant::Tenant;

/// Performs `step` and stores the observation that the response carries.
pub(super) async fn execute(
    orchestrator: &dyn Orchestrator,
    observed: &ObservedCache,
    tenant: &Tenant,
    revoked_sessions: Vec<Uuid>,
    step: Step,
) -> Result<(), CallError> {
    let id = tenant.tenant_id();
    match step {
        Step::Noop => Ok(()),
        Step::Run | Step::Update => {
            apply(orchestrator, observed, tenant, revoked_sessions, false).await
        }
        Step::Restart => apply(orchestrator, observed, tenant, revoked_sessions, true).await,
        Step::Wake => orchestrator.wake(id).await,
        Step::Stop => orchestrator.stop(id).await,
        Step::Remove => remove(orchestrator, observed, id).await,
    }
}

async fn apply(
    orchestrator: &dyn Orchestrator,
    observed: &ObservedCache,
    tenant: &Tenant,
    revoked_sessions: Vec<Uuid>,
    restart: bool,
) -> Result<(), CallError> {
    let request = ApplyRequest { spec: tenant.spec(), run: true, restart, revoked_sessions };
    observed.insert(orchestrator.apply(tenant.tenant_id(), &request).await?);
    Ok(())
}

pub(super) async fn remove(
    orchestrator: &dyn Orchestrator,
    observed: &ObservedCache,
    id: TenantId,
) -> Result<(), CallError> {
    orchestrator.remove(id).await?;
    observed.remove(id);
    Ok(())
}
