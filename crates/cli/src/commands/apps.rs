//! `cial apps`.

use std::time::Duration;

use protocol::images::{PullPolicy, RegistryImage};
use serde_json::{Value, json};

use super::{confirm, image_upload, manifest, pages, pull_progress, rollouts, variables};
use crate::args::{AppsCommand, CreateApp, CreateRelease, ReleaseCommand};
use crate::context::Context;
use crate::error::CliError;
use crate::http::{Method, Request, segment};
use crate::output::{Column, Shape};

const PATH: &str = "/v1/apps";
/// A pull, after that of somebody else: the server ends each before.
const PULL_PATIENCE: Duration = Duration::from_secs(75 * 60);

pub(super) const APPS: Shape = Shape {
    plural: "apps",
    name: "/slug",
    columns: &[
        Column::new("SLUG", "/slug"),
        Column::new("NAME", "/name"),
        Column::new("LATEST", "/latest_release"),
        Column::time("CREATED", "/created_at"),
    ],
};

pub(super) const RELEASES: Shape = Shape {
    plural: "releases",
    name: "/release",
    columns: &[
        Column::new("RELEASE", "/release"),
        Column::new("IMAGE", "/image"),
        Column::new("PORT", "/port"),
        Column::time("CREATED", "/created_at"),
        Column::new("DIGEST", "/digest").wide(),
        Column::new("REPOSITORY_DIGEST", "/repository_digest").wide(),
        Column::new("COMMAND", "/command").wide(),
        Column::new("HEALTH", "/health_path").wide(),
    ],
};

pub(super) fn run(command: Option<AppsCommand>, context: &Context<'_>) -> Result<(), CliError> {
    match command.unwrap_or(AppsCommand::List) {
        AppsCommand::List => {
            let apps = pages::single(context, &Request::get(PATH, "list apps"), "apps")?;
            context.output.list(&APPS, &apps)
        }
        AppsCommand::Create(args) => create(&args, context),
        AppsCommand::Get(args) => {
            let request = Request::get(path(&args.slug), format!("show app {}", args.slug));
            context.output.object(&APPS, &context.call(&request)?)
        }
        AppsCommand::Delete(args) => {
            let what = format!("delete app {}", args.slug);
            if !confirm::is_confirmed(context, args.confirm, &what)? {
                return Ok(());
            }
            context.send(&Request::new(Method::DELETE, path(&args.slug), what))?;
            context.output.note(&format!("app {} is deleted", args.slug));
            Ok(())
        }
        AppsCommand::Release { command: ReleaseCommand::List(args) } => {
            let title = format!("list the releases of app {}", args.slug);
            let request = Request::get(format!("{}/releases", path(&args.slug)), title);
            context.output.list(&RELEASES, &pages::single(context, &request, "releases")?)
        }
        AppsCommand::Release { command: ReleaseCommand::Create(args) } => {
            create_release(&args, context)
        }
        AppsCommand::Env { command } => variables::app_env(command, context),
        AppsCommand::Secrets { command } => variables::app_secrets(command, context),
        AppsCommand::Rollout { command } => rollouts::run(command, context),
    }
}

fn create(args: &CreateApp, context: &Context<'_>) -> Result<(), CliError> {
    let name = args.name.as_deref().unwrap_or(&args.slug);
    let request = Request::new(Method::POST, PATH, format!("create app {}", args.slug))
        .json(json!({ "slug": args.slug, "name": name }));
    context.output.object(&APPS, &context.call(&request)?)
}

/// The manifest is checked here, too: its faults are then those of a file.
fn create_release(args: &CreateRelease, context: &Context<'_>) -> Result<(), CliError> {
    let mut body = json!({});
    if args.pull != PullPolicy::default() {
        body["pull"] = args.pull.as_str().into();
    }
    if let Some(file) = &args.manifest {
        body["manifest"] = manifest::read_checked(file)?.into();
    }
    if args.no_smoke_start {
        body["smoke_start"] = false.into();
    }
    if let Some(file) = &args.tarball {
        body["upload"] = image_upload::upload(file, context)?;
    }
    let image = args.image.as_deref().unwrap_or_default();
    if args.tarball.is_none() {
        body["image"] = image.into();
    }
    let title = format!("create a release of app {}", args.slug);
    let mut request =
        Request::new(Method::POST, format!("{}/releases", path(&args.slug)), title).json(body);
    let mut is_pulled = false;
    // The server judges the name.
    let names_registry = matches!(RegistryImage::parse(image), Ok(Some(_)));
    if names_registry && args.pull != PullPolicy::Never {
        let condition =
            if args.pull == PullPolicy::Missing { ", unless the engine has it" } else { "" };
        context.output.note(&format!("pulling {image}{condition}"));
        request = request.patience(PULL_PATIENCE);
        is_pulled = true;
    } else if args.tarball.is_some() {
        request = request.patience(PULL_PATIENCE);
    }
    let created = if is_pulled {
        pull_progress::call(context, &request, image)?
    } else {
        context.call(&request)?
    };
    if let Some(why) = created["untried_because"].as_str() {
        context.output.note(why);
    }
    let missing = created["missing_secrets"].as_array().into_iter().flatten();
    let missing: Vec<_> = missing.filter_map(Value::as_str).collect();
    if !missing.is_empty() {
        let names = missing.join(", ");
        context
            .output
            .note(&format!("a tenant of this release starts once it has a value for {names}"));
    }
    context.output.object(&RELEASES, &created)
}

pub(super) fn path(slug: &str) -> String {
    format!("{PATH}/{}", segment(slug))
}
