//! `smoke-tenant` and `smoke-local` run black-box tests of the package `e2e` with their
//! prerequisites and leave nothing behind.

use std::process::ExitCode;

use anyhow::{Result, bail, ensure};
use docker_command::Docker;

use crate::e2e::{self, Tests};
use crate::environment::{connect_docker, exit_code, print_line};
use crate::images::{self, base};
use crate::local::{self, Installation, TENANT_IMAGE};
use crate::{ephemeral, interrupt, reboot};

const ON_PURPOSE: &str = "broken off on purpose";
const BROKEN_IMAGES: &str = "broken_images_fail_exactly_their_checks";
pub(crate) const ONE_TENANT: Tests =
    e2e::INSTALLATION.filtered(&["--exact", "a_created_tenant_runs_and_answers_at_its_url"]);

#[derive(clap::Args)]
pub struct TenantArgs {
    /// Test this image as it is, instead of building the checkout's.
    #[arg(long)]
    image: Option<String>,
    /// Break the image in known ways, and demand that exactly the right checks fail.
    #[arg(long)]
    mutations: bool,
}

pub(crate) fn tenant(args: TenantArgs) -> Result<ExitCode> {
    let (docker, choices) = (connect_docker()?, Installation::of_checkout()?.images);
    let image = match args.image {
        Some(image) => image,
        None => {
            images::tenant(&docker, TENANT_IMAGE, &choices)?;
            TENANT_IMAGE.to_owned()
        }
    };
    let base = base::debian(&docker, choices.base.as_deref())?;
    let tests = match args.mutations {
        true => e2e::IMAGE.filtered(&["--exact", BROKEN_IMAGES]),
        false => e2e::IMAGE.filtered(&["--skip", BROKEN_IMAGES]),
    };
    let run = format!("smoke-tenant-{}", std::process::id());
    let variables =
        [("CIAL_E2E_IMAGE", image), ("CIAL_E2E_BASE_IMAGE", base), ("CIAL_E2E_RUN", run.clone())];
    interrupt::defer();
    let outcome = e2e::run(tests, &variables);
    let swept = remove_run(&docker, &run);
    report(outcome.and(swept), "smoke-tenant: all checks hold")
}

/// Removes what a killed test left behind; a test that ends removes everything itself.
fn remove_run(docker: &Docker, run: &str) -> Result<()> {
    let labels = [format!("cial.run={run}")];
    // In this order: a container uses all the others.
    for (kind, field, all, force) in [
        ("container", "{{.ID}}", &["--all"][..], &["--force", "--volumes"][..]),
        ("volume", "{{.Name}}", &[], &[]),
        ("network", "{{.ID}}", &[], &[]),
        ("image", "{{.ID}}", &[], &["--force"]),
    ] {
        for object in docker.list(kind, field, &labels, all)? {
            docker.run(&[&[kind, "rm"], force, &[&object]].concat())?;
        }
    }
    Ok(())
}

#[derive(clap::Args)]
pub struct LocalArgs {
    /// Break off while a tenant runs: fails, and leaves as little behind.
    #[arg(long)]
    break_off: bool,
    /// Kill, stop and remove parts of the installation, also in the middle of their work.
    #[arg(long, conflicts_with = "break_off")]
    faults: bool,
    /// Take the machine down; it is the one that `cargo xtask test reboot` makes.
    #[arg(long, conflicts_with_all = ["break_off", "faults"])]
    reboot: bool,
}

pub(crate) fn local(args: LocalArgs) -> Result<ExitCode> {
    let outcome = match args {
        LocalArgs { break_off: true, .. } => break_off(),
        LocalArgs { faults: true, .. } => faults(),
        LocalArgs { reboot: true, .. } => reboot::smoke(),
        LocalArgs { .. } => installation(),
    };
    report(outcome, "ok     nothing of the installation is left")
}

fn report(outcome: Result<()>, success: &str) -> Result<ExitCode> {
    match &outcome {
        Ok(()) => print_line(success),
        Err(error) => print_line(format_args!("FAILED {error:#}")),
    }
    Ok(exit_code(outcome.is_ok()))
}

fn installation() -> Result<()> {
    ephemeral::test(Installation::ephemeral("smoke")?, e2e::INSTALLATION, &[])
}

fn faults() -> Result<()> {
    let mut installation = Installation::ephemeral("faults")?;
    installation.with_own_tenant_image();
    ephemeral::test(installation, e2e::FAULTS, &[])
}

/// Always fails with [`ON_PURPOSE`] while a tenant runs.
fn break_off() -> Result<()> {
    let installation = Installation::ephemeral("smoke")?;
    ephemeral::with_installation(installation, local::up::up, |installation| {
        e2e::run(ONE_TENANT, &installation.variables())?;
        bail!(ON_PURPOSE)
    })
}

/// A run that breaks off must fail for that reason alone: any other message names something that
/// was left behind.
pub(crate) fn a_failure_leaves_nothing() -> Result<()> {
    let message = break_off().err().map_or_else(|| "success".to_owned(), |e| format!("{e:#}"));
    ensure!(message == ON_PURPOSE, "expected {ON_PURPOSE:?}, got {message:?}");
    print_line("ok     a run that fails says so and leaves nothing, either");
    Ok(())
}
