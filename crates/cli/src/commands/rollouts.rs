//! `cial apps rollout`.

use protocol::rollouts::RolloutState;
use serde_json::{Value, json};

use super::apps::path;
use super::{confirm, pages};
use crate::args::{RolloutCommand, StartRollout};
use crate::clock;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::http::{Method, Request};
use crate::interrupt;
use crate::output::{Column, Shape};
use crate::tenant::wait::{FIRST_PAUSE, longer};

pub(super) const ROLLOUTS: Shape = Shape {
    plural: "rollouts",
    name: "/id",
    columns: &[
        Column::new("RELEASE", "/release"),
        Column::new("STATE", "/state"),
        Column::new("MOVED", "/moved"),
        Column::new("TENANTS", "/tenants"),
        Column::time("STARTED", "/created_at"),
        Column::new("REASON", "/reason"),
        Column::new("WINDOW", "/window").wide(),
        Column::new("BY", "/created_by").wide(),
        Column::time("ENDED", "/finished_at").wide(),
        Column::new("ID", "/id").wide(),
    ],
};

pub(super) fn run(command: RolloutCommand, context: &Context<'_>) -> Result<(), CliError> {
    match command {
        RolloutCommand::Start(args) => start(&args, context),
        RolloutCommand::Status(args) => {
            context.output.object(&ROLLOUTS, &latest(&args.slug, context)?)
        }
        RolloutCommand::Pause(args) => change(&args.slug, "pause", context),
        RolloutCommand::Resume(args) => change(&args.slug, "resume", context),
        RolloutCommand::Abort(args) => {
            let plan = format!("abort the rollout of app {}", args.app.slug);
            if !confirm::is_confirmed(context, args.confirm, &plan)? {
                return Ok(());
            }
            change(&args.app.slug, "abort", context)
        }
        RolloutCommand::List(args) => {
            let rollouts = pages::single(context, &list(&args.slug), "rollouts")?;
            context.output.list(&ROLLOUTS, &rollouts)
        }
    }
}

fn list(slug: &str) -> Request {
    let title = format!("list the rollouts of app {slug}");
    Request::get(format!("{}/rollouts", path(slug)), title)
}

fn latest(slug: &str, context: &Context<'_>) -> Result<Value, CliError> {
    let rollouts = pages::single(context, &list(slug), "rollouts")?;
    rollouts.into_iter().next().ok_or_else(|| {
        CliError::failed(format!("app {slug} has no rollout"))
            .next(format!("start one: cial apps rollout start {slug} --release v2"))
    })
}

fn change(slug: &str, verb: &str, context: &Context<'_>) -> Result<(), CliError> {
    let rollout = latest(slug, context)?;
    let id = rollout["id"].as_str().unwrap_or_default();
    let title = format!("{verb} the rollout of app {slug}");
    let request = Request::new(Method::POST, format!("{}/rollouts/{id}/{verb}", path(slug)), title);
    context.output.object(&ROLLOUTS, &context.call(&request)?)
}

fn start(args: &StartRollout, context: &Context<'_>) -> Result<(), CliError> {
    let mut body = json!({ "release": args.release });
    for (kind, number) in
        [("canary", args.canary), ("percent", args.percent), ("size", args.wave_size)]
    {
        if let Some(number) = number {
            body["waves"] = json!({ kind: number });
        }
    }
    let window = if args.only_idle { Some("idle") } else { args.window.as_deref() };
    if let Some(window) = window {
        body["window"] = window.into();
    }
    if args.max_failures > 0 {
        body["max_failures"] = args.max_failures.into();
    }
    if let Some(percent) = args.max_error_percent {
        body["max_error_percent"] = percent.into();
    }
    if let Some(watch) = args.watch {
        body["watch_seconds"] = watch.as_secs().into();
    }
    let title = format!("move the tenants of app {} to {}", args.slug, args.release);
    let request =
        Request::new(Method::POST, format!("{}/rollouts", path(&args.slug)), title).json(body);
    let mut rollout = context.call(&request)?;
    if args.wait.waits() {
        rollout = wait(args, rollout, context)?;
    }
    context.output.object(&ROLLOUTS, &rollout)
}

/// Waits until the rollout that the API last showed as `seen` ends.
fn wait(args: &StartRollout, mut seen: Value, context: &Context<'_>) -> Result<Value, CliError> {
    let status = format!("cial apps rollout status {}", args.slug);
    interrupt::explain(format!("interrupted: the rollout goes on; look at it: {status}"));
    let (begin, mut pause, mut shown) = (clock::instant(), FIRST_PAUSE, String::new());
    let id = seen["id"].as_str().unwrap_or_default().to_owned();
    let request = Request::get(
        format!("{}/rollouts/{id}", path(&args.slug)),
        format!("look at the rollout of app {}", args.slug),
    );
    loop {
        let state = serde_json::from_value::<RolloutState>(seen["state"].clone());
        let progress = format!(
            "{}: {} of {} tenants",
            seen["state"].as_str().unwrap_or_default(),
            seen["moved"],
            seen["tenants"]
        );
        if progress != shown {
            context.output.note(&progress);
            shown = progress;
        }
        match state {
            Ok(RolloutState::Done) => return Ok(seen),
            Ok(RolloutState::Failed | RolloutState::Aborted) => {
                return Err(failure(&args.slug, &seen));
            }
            // An unknown state of a later release is a state on the way.
            Ok(RolloutState::Running | RolloutState::Paused | RolloutState::RollingBack)
            | Err(_) => {}
        }
        if begin.elapsed() + pause > args.wait.timeout {
            let what = format!(
                "the rollout of app {} has not ended after {} s",
                args.slug,
                args.wait.timeout.as_secs_f32()
            );
            return Err(CliError::new(Exit::Cancelled, what)
                .because(shown)
                .next(format!("the rollout goes on; look at it: {status}")));
        }
        std::thread::sleep(pause);
        pause = longer(pause);
        match context.call(&request) {
            Ok(rollout) => seen = rollout,
            Err(error) if error.is_transient() => {}
            Err(error) => return Err(error),
        }
    }
}

fn failure(slug: &str, rollout: &Value) -> CliError {
    let state = rollout["state"].as_str().unwrap_or_default();
    let mut error = CliError::failed(format!("the rollout of app {slug} is {state}"));
    if let Some(reason) = rollout["reason"].as_str() {
        error = error.because(reason.trim_end_matches('.'));
    }
    // The supervisor's lines after it say no more than that the program ended.
    let is_own = |line: &&str| !line.starts_with("[supervisor]");
    if let Some(line) = rollout["log"].as_str().and_then(|log| log.lines().rfind(is_own)) {
        error = error.because(format!("the last line of its log is {line:?}"));
    }
    error.next(format!("look at it: cial apps rollout status {slug} --output json"))
}
