//! Executions as people and programs see them: run, list, show, cancel.

use std::collections::BTreeMap;

use package::Workflow;
use protocol::Timestamp;
use protocol::executions::{ExecutionState, RunWorkflow};
use protocol::problem::{Code, FieldCode};
use serde_json::{Value, json};
use service::api_error::ApiError;
use uuid::Uuid;

use super::workflows::{self, FoundWorkflow};
use super::{WorkError, audit, has_huge_number, has_nul, open, signatures, touch, touch_again};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::Transaction as _;
use crate::db::tenant_executions::{
    self, ExecutionRow, Fire, LineRow, MAX_DEFINITION_BYTES, TaskRow, printed_len,
};
use crate::http::paging::Window;
use crate::tenant::Tenant;

/// The most executions of a tenant that have not ended.
const MAX_OPEN: i64 = 100;
/// The most bytes of the values of a context, as Postgres prints them. The other half is for their names: a longer definition
/// could not be read.
const MAX_CONTEXT_BYTES: usize = MAX_DEFINITION_BYTES / 2;
/// The most executions of a tenant that are kept.
const MAX_KEPT: i64 = 1_000;
/// The input that is the body of a call.
const BODY: &str = "body";

/// The origin of a run: a caller or a trigger, with its values.
pub(super) struct Run<'a> {
    pub(super) workflow: &'a str,
    pub(super) context: BTreeMap<String, Value>,
    /// The value of the input `body`, if the workflow has one and the context gives none.
    pub(super) body: Option<Value>,
    pub(super) fire: Option<Fire>,
    pub(super) actor: Actor,
    pub(super) action: Action,
    pub(super) resource: Resource,
}

/// Runs a workflow for a caller.
///
/// # Errors
/// As for `schedule`.
pub async fn run(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    name: &str,
    request: RunWorkflow,
) -> Result<ExecutionRow, WorkError> {
    let run = Run {
        workflow: name,
        context: request.context,
        body: None,
        fire: None,
        actor: Actor::from(caller),
        action: Action::WorkflowRun,
        resource: Resource::new("workflow", format!("{}/{name}", tenant.slug)),
    };
    schedule(app, tenant, run).await
}

/// Schedules an execution of a workflow. A time of a trigger has one execution: another call returns it.
///
/// # Errors
/// `resource_not_found`; `package_untrusted`; `workflow_paused`; `invalid_fields`; `too_many_executions`.
pub(super) async fn schedule(
    app: &App,
    tenant: &Tenant,
    run: Run<'_>,
) -> Result<ExecutionRow, WorkError> {
    let now = app.clock.now();
    let timed = run.fire.filter(|fire| fire.at.is_some());
    let mut conn = open(app, tenant).await?;
    if let Some(fire) = timed
        && let Some(known) = tenant_executions::of_fire(&mut conn, fire).await?
    {
        // The process that created the execution may have died before it notified the runner.
        touch(app, tenant).await?;
        return Ok(known);
    }
    let found = workflows::find(&mut conn, run.workflow).await?;
    if !signatures::may_run(app, tenant, found.package_id).await? {
        let detail = signatures::untrusted(&found.package);
        return Err(ApiError::new(Code::PackageUntrusted, detail).into());
    }
    let tasks: Vec<_> = found.workflow.in_order().iter().map(|task| task.name.clone()).collect();
    let execution = prepare(found, run.context, run.body, &run.actor, now)?;
    let entry = Entry::new(run.actor, run.action, run.resource)
        .after(json!({ "execution": execution.id, "package": execution.package }));
    // Before the execution is written: a runner finds it even when this process dies in between.
    touch(app, tenant).await?;
    // The run matters more than how many records are kept.
    if let Err(error) = tenant_executions::prune(&mut conn, MAX_KEPT).await {
        let error = WorkError::from(error).into_text();
        tracing::warn!(tenant = %tenant.id, error, "old executions not deleted");
    }
    let known = conn.transaction(async |conn| -> Result<_, WorkError> {
        // Two runs at once must not both fit below the limit: the second waits here, and counts the first.
        tenant_executions::lock(conn).await?;
        if let Some(fire) = timed
            && let Some(known) = tenant_executions::of_fire(conn, fire).await?
        {
            return Ok(Some(known));
        }
        if tenant_executions::count_open(conn).await? >= MAX_OPEN {
            let detail = format!(
                "{MAX_OPEN} executions of the tenant have not ended. Wait, or cancel some."
            );
            return Err(ApiError::new(Code::TooManyExecutions, detail).into());
        }
        tenant_executions::insert(conn, &execution, &tasks, run.fire).await?;
        audit(app, &entry, now).await?;
        Ok(None)
    });
    if let Some(known) = known.await? {
        return Ok(known);
    }
    touch_again(app, tenant).await;
    let caller = &entry.actor.name;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, workflow = execution.workflow, execution = %execution.id, caller, "workflow scheduled");
    Ok(execution)
}

/// Makes the execution of a workflow that is not paused, with a value for each input.
fn prepare(
    found: FoundWorkflow,
    mut context: BTreeMap<String, Value>,
    body: Option<Value>,
    actor: &Actor,
    now: Timestamp,
) -> Result<ExecutionRow, ApiError> {
    let FoundWorkflow { package_id, package, workflow, paused } = found;
    if paused {
        let detail = format!("Workflow {} is paused. Resume it first.", workflow.name);
        return Err(ApiError::new(Code::WorkflowPaused, detail));
    }
    add_body(&workflow, &mut context, body);
    check_context(&workflow, &context)?;
    Ok(ExecutionRow {
        id: Uuid::now_v7(),
        package_id,
        package,
        workflow: workflow.name.clone(),
        definition: Some(json_of(&workflow)?),
        context: Some(json_of(&context)?),
        state: ExecutionState::Scheduled.as_str().to_owned(),
        reason: None,
        cancel_requested: false,
        created_by: actor.name.clone(),
        created_at: now,
        started_at: None,
        finished_at: None,
    })
}

/// Adds the body of a call as the input [`BODY`], if the workflow has this input and the context gives no value.
pub(super) fn add_body(
    workflow: &Workflow,
    context: &mut BTreeMap<String, Value>,
    body: Option<Value>,
) {
    if let Some(body) = body
        && workflow.inputs().contains(&BODY)
    {
        context.entry(BODY.to_owned()).or_insert(body);
    }
}

fn json_of(value: &impl serde::Serialize) -> Result<Value, ApiError> {
    serde_json::to_value(value).map_err(ApiError::internal)
}

/// Each input needs a value, and each value an input.
///
/// # Errors
/// `invalid_fields`.
pub(super) fn check_context(
    workflow: &Workflow,
    context: &BTreeMap<String, Value>,
) -> Result<(), ApiError> {
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
    let huge = context.iter().filter(|(_, value)| has_huge_number(value)).map(|(name, _)| {
        let rule = "A number must be between -1e300 and 1e300. Write a larger one as a text.";
        (name.as_str(), FieldCode::Invalid, rule)
    });
    // Postgres prints all digits, so a number with a large exponent becomes long.
    let total: usize = context.values().map(printed_len).sum();
    let largest = context.iter().max_by_key(|(_, value)| printed_len(value));
    let too_large = largest.filter(|_| total > MAX_CONTEXT_BYTES).map(|(name, _)| {
        let rule = "With all digits of its numbers it is too long. Write such numbers as texts.";
        (name.as_str(), FieldCode::Invalid, rule)
    });
    let faults: Vec<_> = missing.chain(unknown).chain(unfit).chain(huge).chain(too_large).collect();
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

/// Requests the end of an execution. An execution that has ended stays as it is.
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
    // After the write: the runner of the execution reads it when this changes.
    touch(app, tenant).await?;
    Ok(tenant_executions::by_id(&mut conn, id).await?.ok_or_else(no_such_execution)?)
}
