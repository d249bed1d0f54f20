//! `cial tenants env` and `cial tenants secrets`.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::Path;

use serde_json::json;

use super::tenants::{self, path};
use super::{confirm, pages};
use crate::args::{EnvCommand, NamedTenant, RestartOptions, SecretsCommand, UnsetVariable};
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

pub(super) fn env(command: EnvCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        EnvCommand::List(args) => list(&args, &ENV, context),
        EnvCommand::Set(args) => {
            let (name, value) = &args.pair;
            set(&args.slug, (&ENV, name), Some(value), &args.restart, context)
        }
        EnvCommand::Unset(args) => unset(&args, &ENV, "variable", context),
    }
}

pub(super) fn secrets(command: SecretsCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        SecretsCommand::List(args) => list(&args, &SECRETS, context),
        SecretsCommand::Set(args) => {
            let value = read_value(&args.file)?;
            set(&args.slug, (&SECRETS, &args.name), Some(&value), &args.restart, context)
        }
        SecretsCommand::Unset(args) => unset(&args, &SECRETS, "secret", context),
    }
}

fn list(args: &NamedTenant, shape: &Shape, context: &Context<'_>) -> Result<(), CliError> {
    let title = format!("list the {} of tenant {}", shape.plural, args.slug);
    let request = Request::get(path(&args.slug, &format!("/{}", shape.plural)), title);
    context.output.list(shape, &pages::single(context, &request, shape.plural)?)
}

fn unset(
    args: &UnsetVariable,
    shape: &Shape,
    kind: &str,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let UnsetVariable { slug, name, confirm, restart } = args;
    let plan = format!("delete {kind} {name} of tenant {slug}");
    if !confirm::is_confirmed(context, *confirm, &plan)? {
        return Ok(());
    }
    set(slug, (shape, name), None, restart, context)
}

fn set(
    slug: &str,
    (shape, name): (&Shape, &str),
    value: Option<&str>,
    options: &RestartOptions,
    context: &Context<'_>,
) -> Result<(), CliError> {
    let path = path(slug, &format!("/{}/{}", shape.plural, segment(name)));
    let title = format!("change {name} of tenant {slug}");
    let request = match value {
        Some(value) => Request::new(Method::PUT, path, title).json(json!({ "value": value })),
        None => Request::new(Method::DELETE, path, title),
    };
    context.send(&request)?;
    if options.restart {
        return tenants::restart(slug, &options.wait, context);
    }
    context.output.note(&format!("{name} is changed from the next start of tenant {slug} on"));
    Ok(())
}

/// The text of a file or of standard input, without one line break at its end.
fn read_value(file: &Path) -> Result<String, CliError> {
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
