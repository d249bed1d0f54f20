//! Does one step. Decides nothing.

use protocol::TenantId;
use protocol::orchestrator::ApplyRequest;
use service::client::CallError;

use super::plan::Step;
use super::sight::Sight;
use crate::db::tenant::Tenant;
use crate::orchestrator::Orchestrator;

/// Performs `step` and takes in what the answer shows.
pub(super) async fn execute(
    orchestrator: &dyn Orchestrator,
    sight: &Sight,
    tenant: &Tenant,
    step: Step,
) -> Result<(), CallError> {
    let id = tenant.tenant_id();
    match step {
        Step::Rest => Ok(()),
        Step::Run | Step::Update => apply(orchestrator, sight, tenant, false).await,
        Step::Restart => apply(orchestrator, sight, tenant, true).await,
        Step::Wake => orchestrator.wake(id).await,
        Step::Stop => orchestrator.stop(id).await,
        Step::Remove => remove(orchestrator, sight, id).await,
    }
}

async fn apply(
    orchestrator: &dyn Orchestrator,
    sight: &Sight,
    tenant: &Tenant,
    restart: bool,
) -> Result<(), CallError> {
    let wish = ApplyRequest { spec: tenant.spec(), run: true, restart };
    sight.learn(orchestrator.apply(tenant.tenant_id(), &wish).await?);
    Ok(())
}

pub(super) async fn remove(
    orchestrator: &dyn Orchestrator,
    sight: &Sight,
    id: TenantId,
) -> Result<(), CallError> {
    orchestrator.remove(id).await?;
    sight.forget(id);
    Ok(())
}
