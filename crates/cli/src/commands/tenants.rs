//! `cial tenants`.

use protocol::control::NewTenant;
use protocol::{State, sign_in};
use serde_json::{Value, json};

use super::{browser, confirm, pages, transfer, variables};
use crate::args::{
    ChangeState, CreateTenant, DeleteTenant, ExecArgs, GetTenant, ListTenants, LogsArgs,
    NamedTenant, OpenTenant, SetRelease, SetTenant, TenantArg, TenantsCommand, WaitArgs,
    WaitOptions,
};
use crate::clock;
use crate::config::ServerUrl;
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape, parse_moment};
use crate::tenant::logs::{self, LogOptions};
use crate::tenant::wait::{self, Goal};
use crate::tenant::{exec, watch};

pub(super) const TENANTS: Shape = Shape {
    plural: "tenants",
    name: "/slug",
    columns: &[
        Column::new("SLUG", "/slug"),
        Column::new("NAME", "/name"),
        Column::state("STATE", "/state"),
        Column::time("SINCE", "/state_since"),
        Column::new("URL", "/url"),
        Column::new("APP", "/app").wide(),
        Column::new("RELEASE", "/release").wide(),
        Column::new("PINNED", "/pinned").wide(),
        Column::new("REASON", "/state_reason").wide(),
        Column::new("DESIRED", "/desired").wide(),
        Column::new("AWAKE-BECAUSE", "/awake_because").wide(),
        Column::new("ASLEEP-BECAUSE", "/asleep_because").wide(),
        Column::time("FREEZES", "/freezes_at").wide(),
        Column::time("SLEEPS", "/sleeps_at").wide(),
        Column::new("REVISION", "/revision").wide(),
        Column::new("GENERATION", "/generation").wide(),
        Column::new("PORT", "/container_port").wide(),
        Column::time("CREATED", "/created_at").wide(),
        Column::new("ID", "/id").wide(),
    ],
};

/// A line of a watch.
pub(super) const STATES: Shape = Shape {
    plural: "states",
    name: "/state",
    columns: &[
        Column::exact_time("SINCE", "/state_since"),
        Column::state("STATE", "/state"),
        Column::new("REASON", "/state_reason"),
    ],
};

pub(super) const DATABASES: Shape = Shape {
    plural: "databases",
    name: "/slug",
    columns: &[
        Column::new("SLUG", "/slug"),
        Column::new("SCHEMA", "/database/schema"),
        Column::new("USER", "/database/user"),
        Column::new("VERSION", "/database/version"),
        Column::new("FAILURE", "/database/failure"),
        Column::new("BYTES", "/database/used_bytes").wide(),
        Column::new("CLOSED", "/database/closed_because").wide(),
    ],
};

/// The most tenants on one page of the API.
pub(super) const PAGE: &str = "500";

pub(super) fn run(command: Option<TenantsCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(TenantsCommand::List(ListTenants::default())) {
        TenantsCommand::List(args) => list(&args, context),
        TenantsCommand::Create(args) => create(&args, context),
        TenantsCommand::Get(args) => get(&args, context),
        TenantsCommand::Set(args) => set(&args, context),
        TenantsCommand::Start(args) => change_state(&args, Change::Start, context),
        TenantsCommand::Stop(args) => change_state(&args, Change::Stop, context),
        TenantsCommand::Restart(args) => change_state(&args, Change::Restart, context),
        TenantsCommand::Delete(args) => delete(&args, context),
        TenantsCommand::Export(args) => transfer::export(&args, context),
        TenantsCommand::Import(args) => transfer::import(&args, context),
        TenantsCommand::SetRelease(args) => set_release(&args, context),
        TenantsCommand::Pin(args) => set_pinned(&args, true, context),
        TenantsCommand::Unpin(args) => set_pinned(&args, false, context),
        TenantsCommand::Env { command } => variables::env(command, context),
        TenantsCommand::Secrets { command } => variables::secrets(command, context),
        TenantsCommand::Migrate(_) => list_databases(context),
        TenantsCommand::Logs(args) => print_logs(&args, context),
        TenantsCommand::Exec(args) => exec(&args, context),
        TenantsCommand::Open(args) => open(&args, context),
        TenantsCommand::Wait(args) => wait_for(&args, context),
    }
}

fn list(args: &ListTenants, context: &Context<'_>) -> Result<(), CliError> {
    let request = Request::get("/v1/tenants", "list tenants")
        .query("limit", Some(PAGE))
        .query("state", args.state.map(State::as_str))
        .query("q", args.query.as_deref());
    let limit = args.limit.unwrap_or(usize::MAX);
    let tenants = pages::collect(context, &request, "tenants", "next_cursor", limit)?;
    context.output.list(&TENANTS, &tenants)
}

fn list_databases(context: &Context<'_>) -> Result<(), CliError> {
    let request = Request::get("/v1/tenants", "list tenants").query("limit", Some(PAGE));
    let tenants = pages::collect(context, &request, "tenants", "next_cursor", usize::MAX)?;
    context.output.list(&DATABASES, &tenants)
}

fn create(args: &CreateTenant, context: &Context<'_>) -> Result<(), CliError> {
    let name = args.name.as_deref().unwrap_or(&args.slug);
    let new = NewTenant {
        slug: args.slug.clone(),
        name: name.to_owned(),
        app: args.app.clone(),
        release: args.release.clone(),
    };
    let request = Request::new(Method::POST, "/v1/tenants", format!("create tenant {}", args.slug))
        .json(json!(new))
        .idempotent();
    let created = context.call(&request)?;
    finish(context, &args.slug, Goal::State(protocol::State::Running), &args.wait, created)
}

fn get(args: &GetTenant, context: &Context<'_>) -> Result<(), CliError> {
    let slug = slug(&args.tenant, context)?;
    if args.watch {
        return watch::watch(context, &slug, &STATES);
    }
    let request = Request::get(path(&slug, ""), format!("show tenant {slug}"));
    context.output.object(&TENANTS, &context.call(&request)?)
}

fn set(args: &SetTenant, context: &Context<'_>) -> Result<(), CliError> {
    let mut change = serde_json::Map::new();
    if let Some(name) = &args.name {
        change.insert("name".to_owned(), json!(name));
    }
    if let Some(required) = args.require_sign_in {
        change.insert("policy".to_owned(), json!({ "require_sign_in": required }));
    }
    if change.is_empty() {
        return Err(CliError::usage("nothing to change: give --name or --require-sign-in"));
    }
    let slug = slug(&args.tenant, context)?;
    let request = Request::new(Method::PATCH, path(&slug, ""), format!("change tenant {slug}"));
    context.output.object(&TENANTS, &context.call(&request.json(Value::Object(change)))?)
}

#[derive(Clone, Copy)]
enum Change {
    Start,
    Stop,
    Restart,
}

fn change_state(args: &ChangeState, change: Change, context: &Context<'_>) -> Result<(), CliError> {
    let slug = slug(&args.tenant, context)?;
    let (verb, goal) = match change {
        Change::Start => ("start", protocol::State::Running),
        Change::Stop => ("stop", protocol::State::Stopped),
        Change::Restart => ("restart", protocol::State::Running),
    };
    let path = path(&slug, &format!("/{verb}"));
    let request = Request::new(Method::POST, path, format!("{verb} tenant {slug}"));
    let changed = context.call(&request)?;
    finish(context, &slug, Goal::State(goal), &args.wait, changed)
}

pub(super) fn restart(
    slug: &str,
    wait: &WaitOptions,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let path = path(slug, "/restart");
    let request = Request::new(Method::POST, path, format!("restart tenant {slug}"));
    let changed = context.call(&request)?;
    finish(context, slug, Goal::State(protocol::State::Running), wait, changed)
}

/// Restarts the tenants of an app that run or are frozen. With a wait, one after the other, so that one restart is under
/// way at a time.
pub(super) fn restart_followers(
    app: &str,
    wait: &WaitOptions,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let mut restarted = Vec::new();
    let request = Request::get("/v1/tenants", "list tenants").query("limit", Some(PAGE));
    for tenant in pages::collect(context, &request, "tenants", "next_cursor", usize::MAX)? {
        let holds_old = [State::Running, State::Frozen];
        let holds_old = holds_old.iter().any(|state| tenant["state"] == state.as_str());
        let Some(slug) = tenant["slug"].as_str().filter(|_| holds_old && tenant["app"] == app)
        else {
            continue;
        };
        let request =
            Request::new(Method::POST, path(slug, "/restart"), format!("restart tenant {slug}"));
        let changed = context.call(&request)?;
        let goal = Goal::State(State::Running);
        restarted.push(if wait.waits() {
            wait::wait(context, slug, goal, wait.timeout, Some(changed))?.unwrap_or_default()
        } else {
            changed
        });
    }
    context.output.list(&TENANTS, &restarted)
}

/// A tenant that sleeps or is stopped moves at its next start. The command does not wait for that start.
fn set_release(args: &SetRelease, context: &Context<'_>) -> Result<(), CliError> {
    let SetRelease { slug, release, wait } = args;
    let title = format!("move tenant {slug} to release {release}");
    let request = Request::new(Method::PUT, path(slug, "/release"), title)
        .json(json!({ "release": release }));
    let moved = context.call(&request)?;
    if moved["state"] == protocol::State::Starting.as_str() {
        return finish(context, slug, Goal::State(protocol::State::Running), wait, moved);
    }
    context.output.object(&TENANTS, &moved)
}

fn set_pinned(args: &NamedTenant, is_pinned: bool, context: &Context<'_>) -> Result<(), CliError> {
    let (slug, verb) = (&args.slug, if is_pinned { "pin" } else { "unpin" });
    let request = Request::new(Method::PATCH, path(slug, ""), format!("{verb} tenant {slug}"))
        .json(json!({ "pinned": is_pinned }));
    context.output.object(&TENANTS, &context.call(&request)?)
}

/// Waits, unless the person does not want to, and shows the tenant.
fn finish(
    context: &Context<'_>,
    slug: &str,
    goal: Goal,
    options: &WaitOptions,
    tenant: Value,
) -> Result<(), CliError> {
    let tenant = if options.waits() {
        wait::wait(context, slug, goal, options.timeout, Some(tenant))?.unwrap_or_default()
    } else {
        tenant
    };
    context.output.object(&TENANTS, &tenant)
}

fn delete(args: &DeleteTenant, context: &Context<'_>) -> Result<(), CliError> {
    let slug = &args.slug;
    if !confirm::is_confirmed(
        context,
        args.confirm,
        &format!("delete tenant {slug} with all its data"),
    )? {
        return Ok(());
    }
    let request = Request::new(Method::DELETE, path(slug, ""), format!("delete tenant {slug}"));
    let deleting = context.call(&request)?;
    if args.wait.waits() {
        wait::wait(context, slug, Goal::Deleted, args.wait.timeout, Some(deleting))?;
    }
    Ok(())
}

fn print_logs(args: &LogsArgs, context: &Context<'_>) -> Result<(), CliError> {
    let since = match &args.since {
        None => None,
        Some(text) => Some(
            parse_moment(text, clock::now())
                .map_err(|rule| CliError::usage(format!("--since {text:?} {rule}")))?,
        ),
    };
    let options =
        LogOptions { follow: args.follow, tail: args.tail, since, shows_times: args.timestamps };
    logs::print(context, &slug(&args.tenant, context)?, &options)
}

/// The exit code of the command is the exit code of this one.
fn exec(args: &ExecArgs, context: &Context<'_>) -> Result<(), CliError> {
    let code = exec::run(context, &args.slug, &args.command, !args.no_tty)?;
    if code == 0 {
        return Ok(());
    }
    std::process::exit(i32::try_from(code).unwrap_or(1));
}

/// Opens the page of the tenant at which a sign-in begins: it leads through the admin's sign-in, and back.
pub(super) fn open(args: &OpenTenant, context: &Context<'_>) -> Result<(), CliError> {
    let slug = slug(&args.tenant, context)?;
    let request = Request::get(path(&slug, ""), format!("find the address of tenant {slug}"));
    let tenant = context.call(&request)?;
    let url = tenant["url"].as_str().unwrap_or_default();
    let site = ServerUrl::parse(url).map_err(|rule| {
        CliError::failed(format!("cannot open tenant {slug}"))
            .because(format!("its address {url:?} {rule}"))
    })?;
    let address = site.join(sign_in::START_PATH);
    if args.print {
        return context.output.data(&format!("{address}\n"));
    }
    browser::open(context, &address)
}

fn wait_for(args: &WaitArgs, context: &Context<'_>) -> Result<(), CliError> {
    let slug = slug(&args.tenant, context)?;
    let (goal, timeout) = (Goal::from(args.wait_for), args.timeout);
    // The first read fails like any command, so that a wrong address is not waited for.
    let seen = wait::look(context, &slug)?;
    match wait::wait(context, &slug, goal, timeout, seen)? {
        Some(tenant) => context.output.object(&TENANTS, &tenant),
        None => Ok(()),
    }
}

/// The tenant that a command names, or the tenant of the key.
fn slug(args: &TenantArg, context: &Context<'_>) -> Result<String, CliError> {
    match &args.slug {
        Some(slug) => Ok(slug.clone()),
        None => context.tenant(),
    }
}

pub(super) fn path(slug: &str, rest: &str) -> String {
    format!("/v1/tenants/{}{rest}", segment(slug))
}
