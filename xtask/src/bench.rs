//! `bench` runs the package `bench` with its prerequisites: an ephemeral installation or an image.

use std::process::ExitCode;

use anyhow::Result;

use crate::images::binaries::{self, BinarySource};
use crate::images::{self, base};
use crate::local::{Installation, TENANT_IMAGE};
use crate::{environment, ephemeral};

/// Benches in the order in which all of them run.
const NAMES: [&str; 8] = ["tenant", "create", "router", "routes", "auth", "cli", "wake", "density"];
/// Benches that measure an installation.
const WITH_INSTALLATION: [&str; 3] = ["create", "wake", "density"];

#[derive(clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Measure in the installation of this checkout, which is up and has no owner yet.
    #[arg(long)]
    here: bool,
    /// Name of a bench (all of them otherwise), and its options; --help lists both.
    #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
    words: Vec<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let name = args.words.iter().find_map(|word| NAMES.iter().find(|name| *name == word));
    let asks_for_help = args.words.iter().any(|word| matches!(word.as_str(), "--help" | "-h"));
    match name {
        _ if asks_for_help => call(&args.words, &[])?,
        Some(name) => measure(name, &args.words, args.here)?,
        None => {
            for name in NAMES {
                let words = [vec![name.to_owned()], args.words.clone()].concat();
                measure(name, &words, args.here)?;
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn measure(name: &str, words: &[String], here: bool) -> Result<()> {
    if here {
        return call(words, &Installation::of_checkout()?.variables());
    }
    if WITH_INSTALLATION.contains(&name) {
        let installation = Installation::ephemeral(&format!("bench-{name}"))?;
        return ephemeral::with_installation(installation, |installation| {
            call(words, &installation.variables())
        });
    }
    if name == "cli" {
        let folder = environment::root().join("dist/cli");
        binaries::compile_command_line(BinarySource::Built, &folder)?;
        let program = folder.join("cial").to_string_lossy().into_owned();
        return call(words, &[("CIAL_E2E_CIAL", program)]);
    }
    let (docker, choices) = (environment::connect_docker()?, Installation::of_checkout()?.images);
    if name == "tenant" {
        images::tenant(&docker, TENANT_IMAGE, &choices)?;
    }
    let base = base::debian(&docker, choices.base.as_deref())?;
    let image = ("CIAL_E2E_IMAGE", TENANT_IMAGE.to_owned());
    call(words, &[image, ("CIAL_E2E_BASE_IMAGE", base)])
}

fn call(words: &[String], variables: &[(&'static str, String)]) -> Result<()> {
    let mut cargo = environment::cargo();
    cargo.args(["run", "--quiet", "--locked", "--package", "bench", "--"]).args(words);
    cargo.envs(variables.iter().map(|(name, value)| (name, value)));
    environment::run(&mut cargo, "the bench")
}
