//! `local-logs`: what the services say.

use std::process::ExitCode;

use anyhow::{Context as _, Result};

use super::compose::Compose;
use super::engine;
use super::installation::Installation;

#[derive(clap::Args)]
pub struct Args {
    /// One service; all of them otherwise.
    service: Option<String>,
    /// Stay, and show what comes.
    #[arg(short, long)]
    follow: bool,
    /// How many lines of each service to begin with.
    #[arg(long, default_value_t = 100)]
    tail: u32,
}

pub fn run(args: Args) -> Result<ExitCode> {
    show(&Installation::of_checkout()?, &args)
}

pub(super) fn follow(installation: &Installation) -> Result<ExitCode> {
    show(installation, &Args { service: None, follow: true, tail: 20 })
}

fn show(installation: &Installation, args: &Args) -> Result<ExitCode> {
    let mut command = Compose::find()?.command(installation);
    command.arg("logs").arg(format!("--tail={}", args.tail));
    command.args(args.follow.then_some("--follow")).args(&args.service);
    let status = command.status().context("cannot run compose")?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The end of what every service and tenant said, to stderr: for a failure whose installation will be gone.
pub async fn dump(installation: &Installation) {
    const LINES: usize = 60;
    let Ok(docker) = crate::images::engine().await else { return };
    for labels in [engine::of_project(installation), engine::of_tenants(installation)] {
        for container in engine::containers(&docker, labels).await.unwrap_or_default() {
            let id = container.id.as_deref().unwrap_or_default();
            let status = container.status.as_deref().unwrap_or_default();
            let said = engine::last_lines(&docker, id, LINES).await;
            eprintln!("── {} ({status})\n{said}", engine::name(&container));
        }
    }
}
