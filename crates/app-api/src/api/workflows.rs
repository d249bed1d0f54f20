//! `/v1/tenants/{slug}/workflows`: list, run, pause, resume.

use axum::extract::{RawPathParams, State};
use protocol::executions::{
    ExecutionState, RunWorkflow, ScheduledExecution, Workflow, WorkflowList,
};
use service::api_error::ApiError;

use super::packages::part;
use crate::access::{AuthorizedTenant, Caller};
use crate::app::App;
use crate::db::tenant_executions::ExecutionRow;
use crate::http::extract::Json;
use crate::http::reply::Accepted;
use crate::tenant::Tenant;
use crate::work::executions;
use crate::work::workflows::{self, FoundWorkflow};

pub async fn list_workflows(
    State(app): State<App>,
    found: AuthorizedTenant,
) -> Result<axum::Json<WorkflowList>, ApiError> {
    let items: Vec<_> = workflows::list(&app, &found.tenant).await?.into_iter().map(view).collect();
    Ok(axum::Json(WorkflowList { total: items.len(), items, next: None }))
}

pub async fn run_workflow(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
    body: Json<RunWorkflow>,
) -> Result<Accepted<ScheduledExecution>, ApiError> {
    let name = part(&params, "name")?;
    let tenant = &found.tenant;
    let row = executions::run(&app, &caller, tenant, name, body.value).await?;
    scheduled(tenant, row)
}

/// The response to what made an execution.
pub(super) fn scheduled(
    tenant: &Tenant,
    row: ExecutionRow,
) -> Result<Accepted<ScheduledExecution>, ApiError> {
    let location = format!("/v1/tenants/{}/executions/{}", tenant.slug, row.id);
    let scheduled = ScheduledExecution {
        execution_id: row.id,
        workflow_name: row.workflow,
        tenant_id: tenant.id,
        status: ExecutionState::Scheduled,
    };
    Ok(Accepted::new(scheduled).with_text("location", &location)?)
}

pub async fn pause_workflow(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<axum::Json<Workflow>, ApiError> {
    let name = part(&params, "name")?;
    Ok(axum::Json(view(workflows::set_paused(&app, &caller, &found.tenant, name, true).await?)))
}

pub async fn resume_workflow(
    State(app): State<App>,
    Caller(caller): Caller,
    found: AuthorizedTenant,
    params: RawPathParams,
) -> Result<axum::Json<Workflow>, ApiError> {
    let name = part(&params, "name")?;
    Ok(axum::Json(view(workflows::set_paused(&app, &caller, &found.tenant, name, false).await?)))
}

fn view(found: FoundWorkflow) -> Workflow {
    let FoundWorkflow { package, workflow, paused, .. } = found;
    Workflow {
        inputs: workflow.inputs().into_iter().map(str::to_owned).collect(),
        tasks: workflow.in_order().iter().map(|task| task.name.clone()).collect(),
        name: workflow.name,
        about: workflow.about,
        package,
        paused,
    }
}
