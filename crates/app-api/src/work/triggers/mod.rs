//! Triggers: they run a tenant's workflows at times, or by a call of an address.
//!
//! A trigger is a row of the control plane, so that one query finds what is due in all tenants: [`scheduler`]. The execution that
//! it creates lies in the schema of its tenant like any other, with the trigger and the time as a unique key.

pub mod calls;
pub mod schedule;
pub mod scheduler;

use protocol::Timestamp;
use protocol::problem::{Code, FieldCode};
use protocol::triggers::{NewTrigger, TriggerKind};
use serde_json::{Value, json};
use service::api_error::ApiError;
use uuid::Uuid;

use self::schedule::{Schedule, ScheduleError};
use super::executions::{self, Run};
use super::{WorkError, open, workflows};
use crate::access::Principal;
use crate::app::App;
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::tenant_executions::{ExecutionRow, Fire};
use crate::db::trigger::{self, FireOutcome, TriggerRow};
use crate::db::{Transaction as _, audit_log};
use crate::tenant::Tenant;

/// The most triggers of a tenant.
const MAX_TRIGGERS: i64 = 100;
const UTC: &str = "UTC";
/// Longer failures are cut.
const MAX_FAILURE_CHARS: usize = 300;

/// Creates a trigger of a workflow that the tenant has.
///
/// # Errors
/// `invalid_fields`; `resource_not_found`; `trigger_exists`; `too_many_triggers`.
pub async fn create(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    request: NewTrigger,
) -> Result<TriggerRow, WorkError> {
    let (actor, now) = (Actor::from(caller), app.clock.now());
    let row = row_of(request, tenant, &actor, now)?;
    check_workflow(app, tenant, &row).await?;
    let entry = Entry::new(actor, Action::TriggerCreate, resource(tenant, &row.name))
        .after(json!({ "id": row.id, "workflow": row.workflow, "kind": row.kind, "cron": row.cron, "time_zone": row.time_zone }));
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if !trigger::insert(conn, &row).await? {
            let detail = format!("The tenant has a trigger {} already.", row.name);
            return Err(ApiError::new(Code::TriggerExists, detail));
        }
        audit_log::append(conn, &entry, now).await?;
        // Under the lock of the audit log: of two at once, the second counts the first.
        if trigger::count(conn, tenant.id).await? > MAX_TRIGGERS {
            let detail = format!("The tenant has {MAX_TRIGGERS} triggers. Delete one first.");
            return Err(ApiError::new(Code::TooManyTriggers, detail));
        }
        Ok(())
    })
    .await?;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, trigger = row.name, %caller, "trigger created");
    Ok(row)
}

fn resource(tenant: &Tenant, name: &str) -> Resource {
    Resource::new("trigger", format!("{}/{name}", tenant.slug))
}

/// # Errors
/// `invalid_fields`.
fn row_of(
    request: NewTrigger,
    tenant: &Tenant,
    actor: &Actor,
    now: Timestamp,
) -> Result<TriggerRow, ApiError> {
    let mut faults = Vec::new();
    if !package::is_name(&request.name) {
        let rule = "Use a-z, 0-9, - and _, begin with a letter, and at most 63 characters.";
        faults.push(("name", FieldCode::Invalid, rule.to_owned()));
    }
    let schedule = schedule_of(&request, &mut faults);
    let next_fire_at = schedule.as_ref().and_then(|schedule| schedule.next_after(now));
    if schedule.is_some() && next_fire_at.is_none() {
        faults.push(("cron", FieldCode::Invalid, "No time of this expression follows.".to_owned()));
    }
    if !faults.is_empty() {
        let failure = ApiError::new(Code::InvalidFields, "Some fields need another value.");
        return Err(faults.into_iter().fold(failure, |failure, (field, code, message)| {
            failure.with_field_error(field, code, message)
        }));
    }
    Ok(TriggerRow {
        id: Uuid::now_v7(),
        tenant_id: tenant.id,
        name: request.name,
        workflow: request.workflow,
        kind: request.kind,
        time_zone: schedule.map(|schedule| schedule.zone_name().to_owned()),
        cron: request.cron,
        catch_up: request.catch_up.unwrap_or_default(),
        context: request.context,
        paused: false,
        next_fire_at,
        not_before: now,
        failures: 0,
        last_fire_at: None,
        last_execution_id: None,
        last_failure: None,
        created_by: actor.name.clone(),
        created_at: now,
    })
}

/// The schedule of a trigger with times; what is wrong with it is added to `faults`.
fn schedule_of(
    request: &NewTrigger,
    faults: &mut Vec<(&'static str, FieldCode, String)>,
) -> Option<Schedule> {
    let NewTrigger { kind, cron, time_zone, catch_up, .. } = request;
    if *kind == TriggerKind::Webhook {
        let given = [
            ("cron", cron.is_some()),
            ("time_zone", time_zone.is_some()),
            ("catch_up", catch_up.is_some()),
        ];
        let rule = "A webhook has no times. Leave this field out.";
        let given = given.into_iter().filter(|(_, is_given)| *is_given);
        faults.extend(given.map(|(field, _)| (field, FieldCode::Invalid, rule.to_owned())));
        return None;
    }
    let Some(cron) = cron else {
        let rule = "Give a cron expression, like 0 2 * * *.";
        faults.push(("cron", FieldCode::Required, rule.to_owned()));
        return None;
    };
    match Schedule::parse(cron, time_zone.as_deref().unwrap_or(UTC)) {
        Ok(schedule) => Some(schedule),
        Err(ScheduleError::Expression(why)) => {
            let why = why.trim_end_matches('.');
            let rule = format!("This is no cron expression of five fields: {why}.");
            faults.push(("cron", FieldCode::Invalid, bounded(&rule)));
            None
        }
        Err(ScheduleError::UnknownZone) => {
            let rule = "Use the name of a time zone, like Europe/Berlin.";
            faults.push(("time_zone", FieldCode::Invalid, rule.to_owned()));
            None
        }
    }
}

/// Checks that the workflow is there, and that the trigger has a value for each of its inputs.
async fn check_workflow(app: &App, tenant: &Tenant, row: &TriggerRow) -> Result<(), WorkError> {
    let mut conn = open(app, tenant).await?;
    // Postgres refuses a NUL, and no workflow has one in its name.
    let name = if row.workflow.contains('\0') { "" } else { row.workflow.as_str() };
    let found = workflows::find(&mut conn, name).await?;
    let mut context = row.context.clone();
    let body = (row.kind == TriggerKind::Webhook).then_some(Value::Null);
    executions::add_body(&found.workflow, &mut context, body);
    Ok(executions::check_context(&found.workflow, &context)?)
}

/// The triggers of a tenant by their names, with empty contexts.
pub async fn list(app: &App, tenant: &Tenant) -> Result<Vec<TriggerRow>, ApiError> {
    Ok(trigger::list(&mut *app.conn().await?, tenant.id, MAX_TRIGGERS).await?)
}

/// # Errors
/// `resource_not_found`.
pub async fn show(app: &App, tenant: &Tenant, name: &str) -> Result<TriggerRow, ApiError> {
    let found = trigger::by_name(&mut *app.conn().await?, tenant.id, name).await?;
    found.ok_or_else(no_such_trigger)
}

fn no_such_trigger() -> ApiError {
    ApiError::new(Code::ResourceNotFound, "The tenant has no trigger of this name.")
}

/// Pauses a trigger, or resumes it: its next time is the first one from now on.
///
/// # Errors
/// `resource_not_found`.
pub async fn set_paused(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    name: &str,
    paused: bool,
) -> Result<TriggerRow, ApiError> {
    let now = app.clock.now();
    let action = if paused { Action::TriggerPause } else { Action::TriggerResume };
    let entry = Entry::new(Actor::from(caller), action, resource(tenant, name));
    let row = show(app, tenant, name).await?;
    let schedule = stored_schedule(row.cron.as_deref(), row.time_zone.as_deref());
    let next = if paused { None } else { schedule.and_then(|schedule| schedule.next_after(now)) };
    let mut conn = app.conn().await?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if trigger::set_paused(conn, row.id, paused, (next, now)).await? {
            audit_log::append(conn, &entry, now).await?;
        }
        Ok(())
    })
    .await?;
    drop(conn);
    show(app, tenant, name).await
}

/// The schedule of a row; `None` for a webhook, and when this process cannot read it.
fn stored_schedule(cron: Option<&str>, time_zone: Option<&str>) -> Option<Schedule> {
    Schedule::parse(cron?, time_zone?).ok()
}

/// # Errors
/// `resource_not_found`.
pub async fn delete(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    name: &str,
) -> Result<(), ApiError> {
    let now = app.clock.now();
    let entry = Entry::new(Actor::from(caller), Action::TriggerDelete, resource(tenant, name));
    let mut conn = app.conn().await?;
    let found = trigger::id_by_name(&mut conn, tenant.id, name).await?;
    let id = found.ok_or_else(no_such_trigger)?;
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if !trigger::delete(conn, id).await? {
            return Err(no_such_trigger());
        }
        audit_log::append(conn, &entry.clone().before(json!({ "id": id })), now).await?;
        Ok(())
    })
    .await?;
    tracing::info!(tenant = %tenant.id, slug = %tenant.slug, trigger = name, %caller, "trigger deleted");
    Ok(())
}

/// Fires a trigger now, by hand. Its times stay as they are.
///
/// # Errors
/// `resource_not_found`; `trigger_paused`; those of a run of its workflow.
pub async fn fire(
    app: &App,
    caller: &Principal,
    tenant: &Tenant,
    name: &str,
) -> Result<ExecutionRow, WorkError> {
    let row = show(app, tenant, name).await?;
    fire_now(app, tenant, &row, Actor::from(caller), Value::Null).await
}

/// Fires a trigger that is not paused, apart from its schedule.
async fn fire_now(
    app: &App,
    tenant: &Tenant,
    row: &TriggerRow,
    actor: Actor,
    body: Value,
) -> Result<ExecutionRow, WorkError> {
    if row.paused {
        let detail = format!("Trigger {} is paused. Resume it first.", row.name);
        return Err(ApiError::new(Code::TriggerPaused, detail).into());
    }
    let body = (row.kind == TriggerKind::Webhook).then_some(body);
    let execution =
        executions::schedule(app, tenant, run_of(tenant, row, None, actor, body)).await?;
    let (at, id) = (execution.created_at, Some(execution.id));
    let outcome = FireOutcome { at, execution: id, failure: None };
    let recorded = async {
        anyhow::Ok(trigger::record(&mut *app.database.conn().await?, row.id, &outcome).await?)
    };
    // The execution exists; a list shows an older fire until the next one.
    if let Err(error) = recorded.await {
        tracing::warn!(tenant = %tenant.id, trigger = row.name, error = format!("{error:#}"), "recording a fire failed");
    }
    Ok(execution)
}

fn run_of<'a>(
    tenant: &Tenant,
    row: &'a TriggerRow,
    at: Option<Timestamp>,
    actor: Actor,
    body: Option<Value>,
) -> Run<'a> {
    Run {
        workflow: &row.workflow,
        context: row.context.clone(),
        body,
        fire: Some(Fire { trigger: row.id, at }),
        actor,
        action: Action::TriggerFire,
        resource: resource(tenant, &row.name),
    }
}

/// The actor of what a trigger does by itself.
fn actor_of(row: &TriggerRow) -> Actor {
    Actor::command(&format!("trigger {}", row.name))
}

/// Cuts a text that the tenant reads; it has one line.
fn bounded(text: &str) -> String {
    text.chars().filter(|c| !c.is_control()).take(MAX_FAILURE_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use protocol::triggers::CatchUp;

    use super::*;

    fn request(kind: TriggerKind, cron: Option<&str>, time_zone: Option<&str>) -> NewTrigger {
        NewTrigger {
            name: "nightly".to_owned(),
            workflow: "etl".to_owned(),
            kind,
            cron: cron.map(str::to_owned),
            time_zone: time_zone.map(str::to_owned),
            catch_up: None,
            context: BTreeMap::new(),
        }
    }

    #[test]
    fn each_fault_of_a_schedule_names_its_field() {
        let faults = |request: NewTrigger| {
            let mut faults = Vec::new();
            let schedule = schedule_of(&request, &mut faults);
            assert_eq!(schedule.is_some(), faults.is_empty() && request.kind == TriggerKind::Cron);
            faults.into_iter().map(|(field, ..)| field).collect::<Vec<_>>()
        };
        let (cron, webhook) = (TriggerKind::Cron, TriggerKind::Webhook);
        assert_eq!(faults(request(cron, Some("0 2 * * *"), None)), [""; 0]);
        assert_eq!(faults(request(cron, Some("0 2 * * *"), Some("Europe/Berlin"))), [""; 0]);
        assert_eq!(faults(request(cron, None, None)), ["cron"]);
        assert_eq!(faults(request(cron, Some("often"), None)), ["cron"]);
        assert_eq!(faults(request(cron, Some("0 2 * * *"), Some("Berlin"))), ["time_zone"]);
        assert_eq!(faults(request(webhook, None, None)), [""; 0]);
        let all = NewTrigger {
            catch_up: Some(CatchUp::RunAll),
            ..request(webhook, Some("0 2 * * *"), Some("UTC"))
        };
        assert_eq!(faults(all), ["cron", "time_zone", "catch_up"]);
    }
}
