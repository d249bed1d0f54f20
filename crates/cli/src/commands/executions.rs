//! `cial workflows` and `cial executions`.

use std::io::Read as _;

use protocol::executions::RunWorkflow;
use serde_json::json;

use super::{confirm, pages};
use crate::args::{self, CancelExecution, ExecutionArg, ExecutionsCommand, WorkflowsCommand};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

pub(super) const WORKFLOWS: Shape = Shape {
    plural: "workflows",
    name: "/name",
    columns: &[
        Column::new("NAME", "/name"),
        Column::new("PACKAGE", "/package"),
        Column::new("TASKS", "/tasks"),
        Column::new("INPUTS", "/inputs"),
        Column::new("PAUSED", "/paused"),
        Column::new("ABOUT", "/about").wide(),
    ],
};

pub(super) const SCHEDULED: Shape = Shape {
    plural: "executions",
    name: "/execution_id",
    columns: &[
        Column::new("EXECUTION", "/execution_id"),
        Column::new("WORKFLOW", "/workflow_name"),
        Column::state("STATE", "/status"),
    ],
};

pub(super) const EXECUTIONS: Shape = Shape {
    plural: "executions",
    name: "/id",
    columns: &[
        Column::new("ID", "/id"),
        Column::new("WORKFLOW", "/workflow"),
        Column::state("STATE", "/state"),
        Column::time("CREATED", "/created_at"),
        Column::time("FINISHED", "/finished_at"),
        Column::new("REASON", "/reason"),
        Column::new("PACKAGE", "/package").wide(),
        Column::new("BY", "/created_by").wide(),
    ],
};

pub(super) const TASKS: Shape = Shape {
    plural: "tasks",
    name: "/name",
    columns: &[
        Column::new("TASK", "/name"),
        Column::state("STATE", "/state"),
        Column::new("ATTEMPTS", "/attempts"),
        Column::time("STARTED", "/started_at"),
        Column::time("FINISHED", "/finished_at"),
        Column::new("REASON", "/reason"),
        Column::new("OUTPUT", "/output").wide(),
    ],
};

pub(super) fn workflows(
    command: Option<WorkflowsCommand>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let tenant = context.tenant()?;
    match command.unwrap_or(WorkflowsCommand::List) {
        WorkflowsCommand::List => {
            let title = format!("list the workflows of tenant {tenant}");
            let request = Request::get(path(&tenant, "/workflows"), title);
            context.output.list(&WORKFLOWS, &pages::single(context, &request, "items")?)
        }
        WorkflowsCommand::Run(args) => run(&args, &tenant, context),
        WorkflowsCommand::Pause(args) => change(&args.name, "pause", &tenant, context),
        WorkflowsCommand::Resume(args) => change(&args.name, "resume", &tenant, context),
    }
}

fn change(name: &str, verb: &str, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let path = path(tenant, &format!("/workflows/{}/{verb}", segment(name)));
    let title = format!("{verb} workflow {name} of tenant {tenant}");
    context.output.object(&WORKFLOWS, &context.call(&Request::new(Method::POST, path, title))?)
}

fn run(args: &args::RunWorkflow, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let request = RunWorkflow { context: args.input.iter().cloned().collect() };
    let path = path(tenant, &format!("/workflows/{}/execute", segment(&args.name)));
    let title = format!("run workflow {} of tenant {tenant}", args.name);
    let request = Request::new(Method::POST, path, title).json(json!(request));
    context.output.object(&SCHEDULED, &context.call(&request)?)
}

pub(super) fn executions(
    command: Option<ExecutionsCommand>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let tenant = context.tenant()?;
    match command {
        None => list(100, &tenant, context),
        Some(ExecutionsCommand::List(args)) => list(args.limit, &tenant, context),
        Some(ExecutionsCommand::Get(args)) => get(&args, &tenant, context),
        Some(ExecutionsCommand::Logs(args)) => logs(&args, &tenant, context),
        Some(ExecutionsCommand::Cancel(args)) => cancel(&args, &tenant, context),
    }
}

fn list(limit: usize, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("list the executions of tenant {tenant}");
    let request = Request::get(path(tenant, "/executions"), title);
    let rows = pages::collect(context, &request, "items", "next", limit)?;
    context.output.list(&EXECUTIONS, &rows)
}

/// The tasks of an execution as a table; the whole execution as JSON or YAML.
fn get(args: &ExecutionArg, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let request = Request::get(one(tenant, &args.id, ""), format!("show execution {}", args.id));
    let execution = context.call(&request)?;
    context.output.object(&EXECUTIONS, &execution)?;
    if !context.output.is_table() {
        return Ok(());
    }
    let tasks = execution["tasks"].as_array().map(Vec::as_slice).unwrap_or_default();
    context.output.list(&TASKS, tasks)
}

fn logs(args: &ExecutionArg, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("read the output of execution {}", args.id);
    let request = Request::get(one(tenant, &args.id, "/logs"), title);
    let mut text = String::new();
    let read = context.client()?.stream(&request)?.read_to_string(&mut text);
    read.map_err(|error| CliError::failed("cannot read the output").because(error))?;
    context.output.data(&text)
}

fn cancel(args: &CancelExecution, tenant: &str, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("cancel execution {}", args.id);
    if !confirm::is_confirmed(context, args.confirm, &title)? {
        return Ok(());
    }
    context.send(&Request::new(Method::POST, one(tenant, &args.id, "/cancel"), title))?;
    context.output.note(&format!("execution {} is being cancelled", args.id));
    Ok(())
}

pub(super) fn path(tenant: &str, rest: &str) -> String {
    format!("/v1/tenants/{}{rest}", segment(tenant))
}

fn one(tenant: &str, id: &str, rest: &str) -> String {
    path(tenant, &format!("/executions/{}{rest}", segment(id)))
}
