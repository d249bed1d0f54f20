//! `local-up`: from a checkout to an installation that is ready, in numbered steps that can be run
//! again.

use std::path::Path;
use std::process::ExitCode;

use anyhow::Result;
use docker_command::{ActionableError, Compose};

use super::command_line;
use super::installation::Installation;
use super::steps::Steps;
use super::{compose, dotenv, health, images, logs, preflight};
use crate::environment::{connect_docker, print_line, root};

#[derive(clap::Args)]
pub struct Args {
    /// Stay, and print the logs of all services.
    #[arg(long)]
    follow: bool,
    /// Build the images and write .env, and start nothing: `docker-compose up` does the rest.
    #[arg(long, conflicts_with = "follow")]
    build_only: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let mut installation = Installation::of_checkout()?;
    if args.build_only {
        build(&mut installation)?;
        print_line("every image is built, and .env names them");
        return Ok(ExitCode::SUCCESS);
    }
    up(&mut installation)?;
    eprint!("{}", banner(&installation));
    print_line(format_args!("→ {}", installation.admin_page()));
    if args.follow {
        return logs::run(&logs::Args { service: None, follow: true, tail: 20 });
    }
    Ok(ExitCode::SUCCESS)
}

/// Brings the installation up; afterwards every service is healthy.
pub(crate) fn up(installation: &mut Installation) -> Result<()> {
    let mut steps = Steps::begin(installation, "local-up", 7)?;
    let check = || preflight::check(installation);
    let (docker, compose) = steps.step("Checking this machine", check)?;
    steps.step("Images", || images::provide(&docker, installation))?;
    steps.step("Command line", || command_line::compile(installation))?;
    steps.step("Settings", || write_settings(installation))?;
    let log = steps.log().to_owned();
    let start = || start(&compose, installation, &log);
    steps.step("Starting services (the first time makes the secrets)", start)?;
    wait_and_connect(steps, installation)
}

/// Runs the steps that need no compose.
fn build(installation: &mut Installation) -> Result<()> {
    let mut steps = Steps::begin(installation, "build", 2)?;
    let docker = connect_docker()?;
    steps.step("Images", || images::provide(&docker, installation))?;
    steps.step("Settings", || write_settings(installation))?;
    steps.finish();
    Ok(())
}

/// Brings the installation up by the literal `docker compose up`, which builds every image itself
/// under separate tags.
pub(crate) fn by_compose(installation: &mut Installation, config: Option<&Path>) -> Result<()> {
    let mut steps = Steps::begin(installation, "compose-up", 6)?;
    let docker = connect_docker()?;
    steps.step("Bases and binaries", || images::provide_inputs(&docker, installation))?;
    steps.step("Command line", || command_line::compile(installation))?;
    installation.tag = installation.name.clone();
    installation.with_own_tenant_image();
    let compose = Compose::plugin(config)?;
    let log = steps.log().to_owned();
    let run = |args: &[&str]| compose::run(&compose, installation, args, &log);
    steps.step("docker compose up", || run(&["up", "--detach"]))?;
    let args = ["--profile", "build-only", "build", "tenant-base-build"];
    steps.step("docker compose build of the tenant image's base", || run(&args))?;
    wait_and_connect(steps, installation)
}

/// Runs the last two steps, once the services have started.
fn wait_and_connect(mut steps: Steps, installation: &Installation) -> Result<()> {
    steps.step("Waiting until every service is healthy", || health::wait(installation))?;
    let connect = || command_line::connect(installation);
    steps.step("Key and profile of the command line", connect)?;
    steps.finish();
    Ok(())
}

/// Writes the choices to `.env`, where plain compose and later runs read them.
fn write_settings(installation: &Installation) -> Result<()> {
    if installation.is_ephemeral {
        return Ok(());
    }
    let mut wanted = vec![("COMPOSE_PROJECT_NAME", installation.project())];
    wanted.extend(installation.choices());
    dotenv::complete(&root().join(".env"), &wanted)
}

fn start(compose: &Compose, installation: &Installation, log: &Path) -> Result<()> {
    let args = ["up", "--detach", "--no-build", "--remove-orphans"];
    let Err(error) = compose::run(compose, installation, &args, log) else { return Ok(()) };
    let logs = health::failed_logs(installation);
    let fix = "act on the lines above, then run local-up again: it goes on from here";
    Err(ActionableError::new(format!("{error:#}\n{logs}"), fix).into())
}

fn banner(installation: &Installation) -> String {
    let lines = [
        format!("Cial is running: installation {:?}", installation.name),
        String::new(),
        format!("Admin     {}", installation.admin_page()),
        format!("Tenants   {}", installation.tenant_url("{slug}")),
        format!("Database  127.0.0.1:{}", installation.postgres_port),
        format!("CLI       .cial/bin/cial --profile {} tenants", installation.name),
        String::new(),
        "cargo xtask local-status   what runs".to_owned(),
        "cargo xtask local-logs -f  its logs".to_owned(),
        "cargo xtask local-down     stop it; data is kept".to_owned(),
    ];
    let width = lines.iter().map(|line| line.chars().count()).max().unwrap_or_default();
    let rule = "─".repeat(width + 2);
    let body: String = lines.iter().map(|line| format!("│ {line:width$} │\n")).collect();
    format!("┌{rule}┐\n{body}└{rule}┘\n")
}

#[test]
fn the_box_is_as_wide_as_its_longest_line() {
    let banner = banner(&Installation::read(&|_| None).unwrap());
    let width = |line: &str| line.chars().count();
    assert!(banner.lines().all(|line| width(line) == width(&banner[..banner.find('\n').unwrap()])));
    for part in ["installation \"local\"", "http://localhost:3100/admin", "127.0.0.1:5432"] {
        assert!(banner.contains(part), "{banner}");
    }
}
