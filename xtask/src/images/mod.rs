//! Images of ours, made from this checkout, with or without a registry.
//!
//! Four steps that other commands combine: [`engine()`] connects, [`binaries::provide`] compiles, [`base`] finds
//! or makes what images stand on, [`build::build`] builds one [`Recipe`]. Each does nothing when
//! nothing changed. No image of anyone else is ever replaced or removed.

pub mod base;
pub mod binaries;
pub mod build;
mod context;
mod engine;

use std::process::ExitCode;

use anyhow::Result;
use bollard::Docker;

use crate::local::Installation;
use crate::world;
use binaries::{Binaries, Set};
use build::{Outcome, Recipe};
pub use engine::engine;

#[derive(clap::Args)]
pub struct Args {
    /// The tenant image's tag, instead of the one that tenants of this checkout run.
    #[arg(long)]
    tenant: Option<String>,
    /// Only what the images stand on.
    #[arg(long)]
    base: bool,
}

/// What images are made of, as far as a person or an earlier run chose it; the rest is found out.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Chosen {
    pub base: Option<String>,
    pub binaries: Option<Binaries>,
}

impl Chosen {
    /// What the environment and `.env` of this checkout say.
    pub fn of_checkout() -> Result<Self> {
        Ok(Installation::of_checkout()?.chosen)
    }
}

pub fn run(args: Args) -> Result<ExitCode> {
    let here = Installation::of_checkout()?;
    world::block_on(async {
        let docker = engine().await?;
        if args.base {
            world::say(base::debian(&docker, here.chosen.base.as_deref()).await?);
            return Ok(ExitCode::SUCCESS);
        }
        let tag = args.tenant.as_deref().unwrap_or(&here.tenant_image);
        let outcome = tenant(&docker, tag, &here.chosen).await?;
        world::say(format_args!("{tag} {outcome}"));
        Ok(ExitCode::SUCCESS)
    })
}

/// The tenant image under `tag`, from its base and its binaries up; somebody else's is left as it is.
pub async fn tenant(docker: &Docker, tag: &str, chosen: &Chosen) -> Result<Outcome> {
    if build::is_foreign(docker, tag).await? {
        return Ok(Outcome::Foreign);
    }
    let binaries = binaries::provide(docker, Set::Tenant, chosen.binaries).await?;
    let base = base::debian(docker, chosen.base.as_deref()).await?;
    build::build(docker, &tenant_recipe(tag, &base, binaries)).await
}

pub(crate) fn tenant_recipe(tag: &str, base: &str, binaries: Binaries) -> Recipe {
    let dockerfile = "docker/tenant.Dockerfile";
    Recipe::new(tag, dockerfile)
        .sees(&[dockerfile, "docker/tenant.json"])
        .base(base)
        .binaries(binaries, Set::Tenant)
}
