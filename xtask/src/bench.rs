//! `bench` runs the package `bench` with its prerequisites: an ephemeral installation or an image.

use std::process::ExitCode;

use anyhow::Result;

use crate::images::binaries::{self, BinarySource};
use crate::images::{self, base};
use crate::local::{self, Installation, TENANT_IMAGE};
use crate::{environment, ephemeral};

/// Benches in the order in which all of them run.
const NAMES: &str =
    "tenant create router routes auth cli edge history executions export triggers wake density";
/// Benches that measure an installation.
const WITH_INSTALLATION: [&str; 5] = ["create", "executions", "export", "wake", "density"];

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Name of a bench (all of them otherwise), and its options; --help lists both.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    args: Vec<String>,
}

pub(crate) fn run(Args { args }: Args) -> Result<ExitCode> {
    let is_given = |arg: &str| args.iter().any(|given| given == arg);
    if is_given("--help") || is_given("-h") {
        call(&args, &[])?;
    } else if let Some(name) = NAMES.split(' ').find(|name| is_given(name)) {
        measure(name, &args)?;
    } else {
        for name in NAMES.split(' ') {
            measure(name, &[&[name.to_owned()], &*args].concat())?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(name: &str, args: &[String]) -> Result<()> {
    if WITH_INSTALLATION.contains(&name) {
        let installation = Installation::ephemeral(&format!("bench-{name}"))?;
        return ephemeral::with_installation(installation, local::up::up, |installation| {
            call(args, &installation.variables())
        });
    }
    if name == "cli" {
        let folder = environment::root().join("dist/cli");
        binaries::compile_command_line(BinarySource::Built, &folder)?;
        let program = folder.join("cial").to_string_lossy().into_owned();
        return call(args, &[("CIAL_E2E_CIAL", program)]);
    }
    let (docker, choices) = (environment::connect_docker()?, Installation::of_checkout()?.images);
    if name == "tenant" {
        images::tenant(&docker, TENANT_IMAGE, &choices)?;
    }
    let base = base::debian(&docker, choices.base.as_deref())?;
    let image = ("CIAL_E2E_IMAGE", TENANT_IMAGE.to_owned());
    call(args, &[image, ("CIAL_E2E_BASE_IMAGE", base)])
}

fn call(args: &[String], variables: &[(&'static str, String)]) -> Result<()> {
    let mut cargo = environment::cargo();
    cargo.args(["run", "--quiet", "--locked", "--package", "bench", "--"]).args(args);
    cargo.envs(variables.iter().cloned());
    environment::run(&mut cargo, "the bench")
}
