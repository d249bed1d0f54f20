//! `cial triggers`.

use protocol::triggers::{NewTrigger, TriggerKind};
use serde_json::json;

use super::executions::{SCHEDULED, path};
use super::{confirm, pages};
use crate::args::{CreateTrigger, DeleteTrigger, TriggersCommand};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

pub(super) const TRIGGERS: Shape = Shape {
    plural: "triggers",
    name: "/name",
    columns: &[
        Column::new("NAME", "/name"),
        Column::new("WORKFLOW", "/workflow"),
        Column::new("KIND", "/kind"),
        Column::new("CRON", "/cron"),
        Column::new("PAUSED", "/paused"),
        Column::time("NEXT", "/next_fire_at"),
        Column::time("LAST", "/last_fire_at"),
        Column::new("FAILURE", "/last_failure"),
        Column::new("ZONE", "/time_zone").wide(),
        Column::new("CATCH-UP", "/catch_up").wide(),
        Column::new("EXECUTION", "/last_execution_id").wide(),
        Column::time("CREATED", "/created_at").wide(),
        Column::new("BY", "/created_by").wide(),
    ],
};

/// A webhook that was just made: the only time that the server shows its address.
pub(super) const NEW_TRIGGER: Shape = Shape {
    plural: "triggers",
    name: "/name",
    columns: &[
        Column::new("URL", "/url"),
        Column::new("NAME", "/name"),
        Column::new("WORKFLOW", "/workflow"),
    ],
};

pub(super) fn run(command: Option<TriggersCommand>, context: &Context<'_>) -> Result<(), CliError> {
    let tenant = context.tenant()?;
    match command.unwrap_or(TriggersCommand::List) {
        TriggersCommand::List => {
            let title = format!("list the triggers of tenant {tenant}");
            let request = Request::get(path(&tenant, "/triggers"), title);
            context.output.list(&TRIGGERS, &pages::single(context, &request, "items")?)
        }
        TriggersCommand::Create(args) => create(&args, &tenant, context),
        TriggersCommand::Get(args) => {
            let title = format!("show trigger {} of tenant {tenant}", args.name);
            let request = Request::get(one(&tenant, &args.name, ""), title);
            context.output.object(&TRIGGERS, &context.call(&request)?)
        }
        TriggersCommand::Pause(args) => change(&args.name, "pause", &tenant, context),
        TriggersCommand::Resume(args) => change(&args.name, "resume", &tenant, context),
        TriggersCommand::Fire(args) => {
            let title = format!("fire trigger {} of tenant {tenant}", args.name);
            let request = Request::new(Method::POST, one(&tenant, &args.name, "/fire"), title);
            context.output.object(&SCHEDULED, &context.call(&request)?)
        }
        TriggersCommand::Delete(args) => delete(&args, &tenant, context),
    }
}

fn create(args: &CreateTrigger, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let kind = if args.webhook { TriggerKind::Webhook } else { TriggerKind::Cron };
    let body = NewTrigger {
        name: args.name.clone(),
        workflow: args.workflow.clone(),
        kind,
        cron: args.cron.clone(),
        time_zone: args.time_zone.clone(),
        catch_up: args.catch_up,
        context: args.input.iter().cloned().collect(),
    };
    let title = format!("create trigger {} of tenant {tenant}", args.name);
    let request = Request::new(Method::POST, path(tenant, "/triggers"), title).json(json!(body));
    let created = context.call(&request)?;
    if kind == TriggerKind::Cron {
        return context.output.object(&TRIGGERS, &created);
    }
    context.output.object(&NEW_TRIGGER, &created)?;
    context.output.note(
        "store the address now: nobody can see it again, and whoever knows it can run the workflow",
    );
    Ok(())
}

fn change(name: &str, verb: &str, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("{verb} trigger {name} of tenant {tenant}");
    let request = Request::new(Method::POST, one(tenant, name, &format!("/{verb}")), title);
    context.output.object(&TRIGGERS, &context.call(&request)?)
}

fn delete(args: &DeleteTrigger, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("delete trigger {} of tenant {tenant}", args.name);
    if !confirm::is_confirmed(context, args.confirm, &title)? {
        return Ok(());
    }
    context.send(&Request::new(Method::DELETE, one(tenant, &args.name, ""), title))?;
    context.output.note(&format!("trigger {} is deleted", args.name));
    Ok(())
}

fn one(tenant: &str, name: &str, rest: &str) -> String {
    path(tenant, &format!("/triggers/{}{rest}", segment(name)))
}
