//! Executions as people and programs see them: run, list, show, cancel.

use std::collections::BTreeMap;

use package::Workflow;
use protocol::executions::{ExecutionState, RunWorkflow};
use protocol::problem::{Code, FieldCode};
use serde_json::{Value, json};
use service::api_error::ApiError;
use uuid::Uuid;

use super::workflows::{self, FoundWorkflow};
use super::{WorkError, audit, has_nul, open, touch, touch_again};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::Transaction as _;
use crate::db::tenant_executions::{
    self, ExecutionRow, LineRow, MAX_DEFINITION_BYTES, TaskRow, printed_len,
};
use crate::http::paging::Window;
use crate::tenant::Tenant;

/// The most executions of a tenant that have not ended.
const MAX_OPEN: i64 = 100;
/// Of the values as Postgres prints them, which leaves room for their names: a larger context could not be read.
const MAX_CONTEXT_BYTES: usize = MAX_DEFINITION_BYTES / 2;
/// The most executions of a tenant that are kept.
const MAX_KEPT: i64 = 1_000;

/// Schedules an execution of a workflow.
///
/// # Errors
/// `resource_not_found`; `workflow_paused`; `invalid_fields`; `too_many_executions`.
pub async fn run(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    name: &str,
    request: RunWorkflow,
) -> Result<ExecutionRow, WorkError> {
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let mut conn = open(app, tenant).await?;
    let FoundWorkflow { package_id, package, workflow, paused } =
        workflows::find(&mut conn, name).await?;
    if paused {
        let detail = format!("Workflow {name} is paused. Resume it first.");
        return Err(ApiError::new(Code::WorkflowPaused, detail).into());
    }
    check_context(&workflow, &request.context)?;
    let execution = ExecutionRow {
        id: Uuid::now_v7(),
        package_id,
        package,
        workflow: workflow.name.clone(),
        definition: Some(json_of(&workflow)?),
        context: Some(json_of(&request.context)?),
        state: ExecutionState::Scheduled.as_str().to_owned(),
        reason: None,
        cancel_requested: false,
        created_by: actor.name.clone(),
        created_at: now,
        started_at: None,
        finished_at: None,
    };
    let tasks: Vec<_> = workflow.in_order().iter().map(|task| task.name.clone()).collect();
    let resource = Resource::new("workflow", format!("{}/{}", tenant.slug, workflow.name));
    let entry = Entry::new(actor, Action::WorkflowRun, resource)
        .after(json!({ "execution": execution.id, "package": execution.package }));
    // Before the execution: it is found even when this process dies in between.
    touch(app, tenant).await?;
    // The run matters more than how many records are kept.
    if let Err(error) = tenant_executions::prune(&mut conn, MAX_KEPT).await {
        let error = WorkError::from(error).into_text();
        tracing::warn!(tenant = %tenant.id, error, "old executions not deleted");
    }
    conn.transaction(async |conn| -> Result<_, WorkError> {
        // Two runs at once must not both fit below the limit: the second waits here, and counts the first.
        tenant_executions::lock(conn).await?;
        if tenant_executions::count_open(conn).await? >= MAX_OPEN {
            let detail = format!(
                "{MAX_OPEN} executions of the tenant have not ended. Wait, or cancel some."
            );
            return Err(ApiError::new(Code::TooManyExecutions, detail).into());
        }
        tenant_executions::insert(conn, &execution, &tasks).await?;
        Ok(audit(app, &entry, now).await?)
    })
    .await?;
    touch_again(app, tenant).await;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, workflow = name, execution = %execution.id, %caller, "workflow scheduled");
    Ok(execution)
}

fn json_of(value: &impl serde::Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(ApiError::internal)
}

/// Each input needs a value, and each value an input.
fn check_context(workflow: &Workflow, context: &BTreeMap<String, Value>) -> Result<(), ApiError> {
    let inputs = workflow.inputs();
    let missing = inputs.iter().filter(|name| !context.contains_key(**name));
    let missing =
        missing.map(|name| (*name, FieldCode::Required, "The workflow needs this value."));
    let unknown = context.keys().filter(|name| !inputs.contains(&name.as_str()));
    let unknown =
        unknown.map(|name| (name.as_str(), FieldCode::Invalid, "The workflow has no such input."));
    let unfit = context.iter().filter(|(_, value)| has_nul(value));
    let unfit = unfit.map(|(name, _)| {
        (name.as_str(), FieldCode::Invalid, "A text must not hold the character U+0000.")
    });
    // As Postgres keeps it: a number with a large exponent becomes a long one.
    let total: usize = context.values().map(printed_len).sum();
    let largest = context.iter().max_by_key(|(_, value)| printed_len(value));
    let too_large = largest.filter(|_| total > MAX_CONTEXT_BYTES).map(|(name, _)| {
        let rule = "With all digits of its numbers it is too long. Write such numbers as texts.";
        (name.as_str(), FieldCode::Invalid, rule)
    });
    let faults: Vec<_> = missing.chain(unknown).chain(unfit).chain(too_large).collect();
    if faults.is_empty() {
        return Ok(());
    }
    let failure = ApiError::new(Code::InvalidFields, "Some fields need another value.");
    Err(faults.into_iter().fold(failure, |failure, (name, code, message)| {
        failure.with_field_error(&format!("context.{name}"), code, message)
    }))
}

/// A page of a tenant's executions, and the number of all.
pub async fn list(
    app: &App,
    tenant: &Tenant,
    window: Window,
) -> Result<(Vec<ExecutionRow>, i64), WorkError> {
    let mut conn = open(app, tenant).await?;
    let rows = tenant_executions::list(&mut conn, window.before, window.rows()).await?;
    Ok((rows, tenant_executions::count(&mut conn).await?))
}

/// # Errors
/// `resource_not_found`.
pub async fn show(
    app: &App,
    tenant: &Tenant,
    id: Uuid,
) -> Result<(ExecutionRow, Vec<TaskRow>), WorkError> {
    let mut conn = open(app, tenant).await?;
    let row = tenant_executions::by_id(&mut conn, id).await?.ok_or_else(no_such_execution)?;
    Ok((row, tenant_executions::tasks_with_results(&mut conn, id).await?))
}

fn no_such_execution() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "The tenant has no execution of this id.")
}

/// The output of an execution.
///
/// # Errors
/// `resource_not_found`.
pub async fn lines(app: &App, tenant: &Tenant, id: Uuid) -> Result<Vec<LineRow>, WorkError> {
    let mut conn = open(app, tenant).await?;
    tenant_executions::by_id(&mut conn, id).await?.ok_or_else(no_such_execution)?;
    Ok(tenant_executions::lines(&mut conn, id).await?)
}

/// Requests the end of an execution. One that has ended stays as it is.
///
/// # Errors
/// `resource_not_found`.
pub async fn cancel(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    id: Uuid,
) -> Result<ExecutionRow, WorkError> {
    let now = app.clock.now();
    let resource = Resource::new("execution", format!("{}/{id}", tenant.slug));
    let entry = Entry::new(Actor::from(caller), Action::ExecutionCancel, resource);
    let mut conn = open(app, tenant).await?;
    tenant_executions::by_id(&mut conn, id).await?.ok_or_else(no_such_execution)?;
    conn.transaction(async |conn| -> Result<_, WorkError> {
        if tenant_executions::request_cancel(conn, id, now).await? {
            audit(app, &entry, now).await?;
        }
        Ok(())
    })
    .await?;
    // Afterwards: whoever runs the execution looks at it when this changes.
    touch(app, tenant).await?;
    Ok(tenant_executions::by_id(&mut conn, id).await?.ok_or_else(no_such_execution)?)
}
