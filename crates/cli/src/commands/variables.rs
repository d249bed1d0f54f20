//! `env` and `secrets` of `cial tenants` and of `cial apps`.

use std::fmt;
use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::json;

use super::{apps, confirm, pages, tenants};
use crate::args::{
    AppEnvCommand, AppSecretsCommand, Confirm, EnvCommand, RestartFollowers, RestartOptions,
    SecretsCommand, UnsetAppVariable, UnsetVariable, WaitOptions,
};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

pub(super) const ENV: Shape = Shape {
    plural: "env",
    name: "/name",
    columns: &[Column::new("NAME", "/name"), Column::new("VALUE", "/value")],
};

pub(super) const SECRETS: Shape =
    Shape { plural: "secrets", name: "/name", columns: &[Column::new("NAME", "/name")] };

/// The longest value that the API takes, in bytes.
const MAX_VALUE_BYTES: u64 = 16 << 10;

/// The tenant or the app, by its slug, whose variables a command changes.
#[derive(Clone, Copy)]
enum Owner<'a> {
    Tenant(&'a str),
    App(&'a str),
}

impl Owner<'_> {
    /// The path of the owner's variables of the kind `shape`, with `rest` at its end.
    fn path(self, shape: &Shape, rest: &str) -> String {
        match self {
            Self::Tenant(slug) => tenants::path(slug, &format!("/{}{rest}", shape.plural)),
            Self::App(slug) => format!("{}/{}{rest}", apps::path(slug), shape.plural),
        }
    }
}

impl fmt::Display for Owner<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tenant(slug) => write!(f, "tenant {slug}"),
            Self::App(slug) => write!(f, "app {slug}"),
        }
    }
}

/// The restart after the change; `None`: the change takes effect at the next start.
type Restart<'a> = Option<&'a WaitOptions>;

fn of_tenant(options: &RestartOptions) -> Restart<'_> {
    options.restart.then_some(&options.wait)
}

fn of_followers(options: &RestartFollowers) -> Restart<'_> {
    options.restart.then_some(&options.wait)
}

pub(super) fn env(command: EnvCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        EnvCommand::List(args) => list(Owner::Tenant(&args.slug), &ENV, context),
        EnvCommand::Set(args) => {
            let (name, value) = &args.pair;
            let restart = of_tenant(&args.restart);
            set(Owner::Tenant(&args.slug), (&ENV, name), Some(value), restart, context)
        }
        EnvCommand::Unset(args) => unset_of_tenant(&args, &ENV, context),
    }
}

pub(super) fn secrets(command: SecretsCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        SecretsCommand::List(args) => list(Owner::Tenant(&args.slug), &SECRETS, context),
        SecretsCommand::Set(args) => {
            let (value, restart) = (read_value(&args.file)?, of_tenant(&args.restart));
            let named = (&SECRETS, args.name.as_str());
            set(Owner::Tenant(&args.slug), named, Some(&value), restart, context)
        }
        SecretsCommand::Unset(args) => unset_of_tenant(&args, &SECRETS, context),
    }
}

pub(super) fn app_env(command: AppEnvCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        AppEnvCommand::List(args) => list(Owner::App(&args.slug), &ENV, context),
        AppEnvCommand::Set(args) => {
            let (name, value) = &args.pair;
            let restart = of_followers(&args.restart);
            set(Owner::App(&args.app.slug), (&ENV, name), Some(value), restart, context)
        }
        AppEnvCommand::Unset(args) => unset_of_app(&args, &ENV, context),
    }
}

pub(super) fn app_secrets(
    command: AppSecretsCommand,
    context: &Context<'_>,
) -> Result<(), CliError> {
    match command {
        AppSecretsCommand::List(args) => list(Owner::App(&args.slug), &SECRETS, context),
        AppSecretsCommand::Set(args) => {
            let (value, restart) = (read_value(&args.file)?, of_followers(&args.restart));
            let named = (&SECRETS, args.name.as_str());
            set(Owner::App(&args.app.slug), named, Some(&value), restart, context)
        }
        AppSecretsCommand::Unset(args) => unset_of_app(&args, &SECRETS, context),
    }
}

fn list(owner: Owner<'_>, shape: &Shape, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("list the {} of {owner}", shape.plural);
    let request = Request::get(owner.path(shape, ""), title);
    context.output.list(shape, &pages::single(context, &request, shape.plural)?)
}

fn unset_of_tenant(
    args: &UnsetVariable,
    shape: &Shape,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let UnsetVariable { slug, name, confirm, restart } = args;
    unset(Owner::Tenant(slug), (shape, name), *confirm, of_tenant(restart), context)
}

fn unset_of_app(
    args: &UnsetAppVariable,
    shape: &Shape,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let UnsetAppVariable { app, name, confirm, restart } = args;
    unset(Owner::App(&app.slug), (shape, name), *confirm, of_followers(restart), context)
}

fn unset(
    owner: Owner<'_>,
    (shape, name): (&Shape, &str),
    confirm: Confirm,
    restart: Restart<'_>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let kind = if shape.plural == SECRETS.plural { "secret" } else { "variable" };
    let plan = format!("delete {kind} {name} of {owner}");
    if !confirm::is_confirmed(context, confirm, &plan)? {
        return Ok(());
    }
    set(owner, (shape, name), None, restart, context)
}

fn set(
    owner: Owner<'_>,
    (shape, name): (&Shape, &str),
    value: Option<&str>,
    restart: Restart<'_>,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let path = owner.path(shape, &format!("/{}", segment(name)));
    let title = format!("change {name} of {owner}");
    let request = match value {
        Some(value) => Request::new(Method::PUT, path, title).json(json!({ "value": value })),
        None => Request::new(Method::DELETE, path, title),
    };
    context.send(&request)?;
    let since = match (owner, restart) {
        (Owner::Tenant(slug), Some(wait)) => return tenants::restart(slug, wait, context),
        (Owner::App(slug), Some(wait)) => return tenants::restart_followers(slug, wait, context),
        (Owner::Tenant(slug), None) => format!("the next start of tenant {slug}"),
        (Owner::App(_), None) => "the next start of each tenant".to_owned(),
    };
    context.output.note(&format!("{name} is changed from {since} on"));
    Ok(())
}

/// The text of a file or of standard input, without one line break at its end.
pub(super) fn read_value(file: &Path) -> Result<String, CliError> {
    let (mut text, limit) = (String::new(), MAX_VALUE_BYTES + 2);
    let read = if file == Path::new("-") {
        io::stdin().take(limit).read_to_string(&mut text)
    } else {
        File::open(file).and_then(|opened| opened.take(limit).read_to_string(&mut text))
    };
    read.map_err(|error| {
        CliError::failed(format!("cannot read {}", file.display())).because(error)
    })?;
    if text.ends_with('\n') {
        text.truncate(text.len() - 1);
    }
    Ok(text)
}
