//! `local-up`: from a checkout to an installation that is ready, in numbered steps that can be run again.

use std::path::Path;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use bollard::Docker;

use super::compose::Compose;
use super::installation::Installation;
use super::preflight::{self, Ready};
use super::steps::Steps;
use super::{dotenv, health, images, logs};
use crate::fault::Fault;
use crate::world;

#[derive(clap::Args)]
pub struct Args {
    /// Stay, and show the logs of all services.
    #[arg(long)]
    follow: bool,
    /// Build the images and write .env, and start nothing: `docker-compose up` does the rest.
    #[arg(long, conflicts_with = "follow")]
    build_only: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let mut installation = Installation::of_checkout()?;
    if args.build_only {
        world::block_on(build(&mut installation))?;
        world::say("every image is built, and .env names them");
        return Ok(ExitCode::SUCCESS);
    }
    world::block_on(up(&mut installation))?;
    eprint!("{}", banner(&installation));
    if args.follow {
        world::say(format_args!("→ {}", installation.admin_page()));
        return logs::follow(&installation);
    }
    world::say(format_args!("→ {}", installation.admin_page()));
    Ok(ExitCode::SUCCESS)
}

/// Brings the installation up; afterwards every service is healthy.
pub async fn up(installation: &mut Installation) -> Result<()> {
    let mut steps = Steps::begin(installation, "local-up", 5)?;
    let Ready { docker, compose } =
        steps.step("Checking this machine", preflight::check(installation)).await?;
    steps.step("Images", images::provide(&docker, installation)).await?;
    steps.step("Settings", async { write_settings(installation) }).await?;
    let log = steps.log().to_owned();
    let start = start(&docker, &compose, installation, &log);
    steps.step("Starting services (the first time makes the secrets)", start).await?;
    steps
        .step("Waiting until every service is healthy", health::wait(&docker, installation))
        .await?;
    steps.finish();
    Ok(())
}

/// The part of it that needs no compose.
async fn build(installation: &mut Installation) -> Result<()> {
    let mut steps = Steps::begin(installation, "build", 2)?;
    let docker = crate::images::engine().await?;
    steps.step("Images", images::provide(&docker, installation)).await?;
    steps.step("Settings", async { write_settings(installation) }).await?;
    steps.finish();
    Ok(())
}

/// The same by the literal `docker compose up`, which builds every image itself, under tags of its own.
pub async fn by_compose(installation: &mut Installation, config: Option<&Path>) -> Result<()> {
    let mut steps = Steps::begin(installation, "compose-up", 4)?;
    let docker = crate::images::engine().await?;
    steps.step("What images stand on", images::ground(&docker, installation)).await?;
    installation.tag = installation.name.clone();
    installation.with_own_tenant_image();
    let compose = Compose::plugin(config)?;
    let log = steps.log().to_owned();
    let args = ["up", "--detach"];
    steps.step("docker compose up", async { compose.run(installation, &args, &log) }).await?;
    let args = ["--profile", "build-only", "build", "tenant-base-build"];
    let base = async { compose.run(installation, &args, &log) };
    steps.step("docker compose build, what the tenant image stands on", base).await?;
    steps
        .step("Waiting until every service is healthy", health::wait(&docker, installation))
        .await?;
    steps.finish();
    Ok(())
}

/// What was chosen goes to `.env`, where plain compose finds it and later runs keep it.
fn write_settings(installation: &Installation) -> Result<()> {
    if installation.is_passing {
        return Ok(());
    }
    let mut wanted = vec![("COMPOSE_PROJECT_NAME", installation.project())];
    wanted.extend(installation.choices());
    dotenv::complete(&world::root().join(".env"), &wanted)
}

async fn start(
    docker: &Docker,
    compose: &Compose,
    installation: &Installation,
    log: &Path,
) -> Result<()> {
    let args = ["up", "--detach", "--no-build", "--remove-orphans"];
    let Err(error) = compose.run(installation, &args, log) else { return Ok(()) };
    let said = health::post_mortem(docker, installation).await;
    let cause = format!("{error:#}\n{said}");
    Err(Fault::new(cause, "act on the lines above, then run local-up again: it goes on from here")
        .into())
}

fn banner(installation: &Installation) -> String {
    let lines = [
        format!("Cial is running: installation {:?}", installation.name),
        String::new(),
        format!("Admin     {}", installation.admin_page()),
        format!("Tenants   {}", installation.tenant_url("{slug}")),
        format!("Database  127.0.0.1:{}", installation.postgres_port),
        String::new(),
        "cargo xtask local-status   what runs".to_owned(),
        "cargo xtask local-logs -f  what it says".to_owned(),
        "cargo xtask local-down     the end of it; data is kept".to_owned(),
    ];
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let rule = "─".repeat(width + 2);
    let body: String = lines.iter().map(|line| format!("│ {line:width$} │\n")).collect();
    format!("┌{rule}┐\n{body}└{rule}┘\n")
}

/// Compose and the engine, for commands that need no more than them.
pub async fn tools() -> Result<(Docker, Compose)> {
    let docker = crate::images::engine().await?;
    Ok((docker, Compose::find().context("compose is needed for this")?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_box_is_as_wide_as_its_longest_line() {
        let installation = Installation::read(&|_| None).unwrap();
        insta::assert_snapshot!(banner(&installation), @r#"
        ┌────────────────────────────────────────────────────────┐
        │ Cial is running: installation "local"                  │
        │                                                        │
        │ Admin     http://localhost:3100/admin                  │
        │ Tenants   http://{slug}.localhost:8080                 │
        │ Database  127.0.0.1:5432                               │
        │                                                        │
        │ cargo xtask local-status   what runs                   │
        │ cargo xtask local-logs -f  what it says                │
        │ cargo xtask local-down     the end of it; data is kept │
        └────────────────────────────────────────────────────────┘
        "#);
    }
}
