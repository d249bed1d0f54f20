//! `bench`: runs the package `bench` with what it needs: an installation that is gone afterwards, or an image.

use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::images::{self, Chosen, base};
use crate::local::{self, Installation};
use crate::smoke_local::passing;
use crate::world;

/// Benches in the order in which all of them run.
const NAMES: [&str; 5] = ["tenant", "create", "router", "wake", "density"];
/// Benches that measure an installation.
const WITH_INSTALLATION: [&str; 3] = ["create", "wake", "density"];
const TENANT_IMAGE: &str = "cial-tenant:dev";

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

pub fn run(args: Args) -> Result<ExitCode> {
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
        let mut installation = Installation::passing(&format!("bench-{name}"))?;
        return world::block_on(passing::with(&mut installation, async |installation| {
            local::up::up(installation).await?;
            call(words, &installation.variables())
        }));
    }
    let chosen = Chosen::of_checkout()?;
    let base = world::block_on(async {
        let docker = images::engine().await?;
        if name == "tenant" {
            images::tenant(&docker, TENANT_IMAGE, &chosen).await?;
        }
        base::debian(&docker, chosen.base.as_deref()).await
    })?;
    let image = ("CIAL_E2E_IMAGE", TENANT_IMAGE.to_owned());
    call(words, &[image, ("CIAL_E2E_BASE_IMAGE", base)])
}

fn call(words: &[String], variables: &[(&'static str, String)]) -> Result<()> {
    let mut cargo = Command::new(world::var("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.args(["run", "--quiet", "--locked", "--package", "bench", "--"]).args(words);
    cargo.envs(variables.iter().map(|(name, value)| (name, value)));
    let status = cargo.current_dir(world::root()).status().context("cannot run cargo")?;
    ensure!(status.success(), "the bench failed: see above");
    Ok(())
}
