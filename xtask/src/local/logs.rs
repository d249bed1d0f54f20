//! `local-logs`: the logs of the services.

use std::process::ExitCode;

use anyhow::{Context as _, Result};
use docker_command::Compose;

use super::compose;
use super::installation::Installation;
use crate::environment::exit_code;

#[derive(clap::Args)]
pub struct Args {
    /// Show one service; all of them otherwise.
    pub(super) service: Option<String>,
    /// Stay, and print new lines.
    #[arg(short, long)]
    pub(super) follow: bool,
    /// How many earlier lines of each service to print.
    #[arg(long, default_value_t = 100)]
    pub(super) tail: u32,
}

pub(crate) fn run(args: &Args) -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    let mut command = compose::command(&Compose::find()?, &installation);
    command.arg("logs").arg(format!("--tail={}", args.tail));
    command.args(args.follow.then_some("--follow")).args(&args.service);
    let status = command.status().context("cannot run compose")?;
    Ok(exit_code(status.success()))
}

/// Prints the end of every log to stderr, for a failed installation before its removal.
pub(crate) fn dump(installation: &Installation) {
    const LINES: usize = 60;
    let objects = installation.objects();
    for container in [objects.services(), objects.tenants()].into_iter().flatten().flatten() {
        let log = container.last_lines(LINES);
        eprintln!("── {} ({})\n{log}", container.name, container.status());
    }
}
