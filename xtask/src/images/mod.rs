//! The images of this checkout, made with or without a registry.
//!
//! Other commands combine three steps: [`binaries`] compiles, [`base`] finds or makes the
//! bases of images, and [`build::build`] builds one [`ImageSpec`]. Each step does nothing when
//! nothing changed. An image that somebody else made is never replaced or removed.

pub(crate) mod base;
pub(crate) mod binaries;
pub(crate) mod build;
pub(crate) mod compiler;
mod context;

use std::process::ExitCode;

use anyhow::Result;
use docker_command::Docker;

use crate::environment::{connect_docker, print_line};
use crate::local::Installation;
use binaries::{BinarySet, BinarySource};
use build::{ImageSpec, Outcome};

#[derive(clap::Args)]
pub struct Args {
    /// The tenant image's tag, instead of the one that tenants of this checkout run.
    #[arg(long)]
    tenant: Option<String>,
    /// Only the base of the images.
    #[arg(long)]
    base: bool,
}

/// Choices about images by a person or an earlier run; xtask determines the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageChoices {
    pub(crate) base: Option<String>,
    pub(crate) binaries: Option<BinarySource>,
    /// The image of the stage that compiles, in place of the Dockerfiles'.
    pub(crate) compiler: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let (installation, docker) = (Installation::of_checkout()?, connect_docker()?);
    if args.base {
        print_line(base::debian(&docker, installation.images.base.as_deref())?);
        return Ok(ExitCode::SUCCESS);
    }
    let tag = args.tenant.as_deref().unwrap_or(&installation.tenant_image);
    let outcome = tenant(&docker, tag, &installation.images)?;
    print_line(format_args!("{tag} {outcome}"));
    Ok(ExitCode::SUCCESS)
}

/// Builds the tenant image under `tag` with its base and its binaries; leaves somebody else's image
/// unchanged.
pub(crate) fn tenant(docker: &Docker, tag: &str, choices: &ImageChoices) -> Result<Outcome> {
    if build::is_foreign(docker, tag)? {
        return Ok(Outcome::Foreign);
    }
    let binaries = binaries::provide_tenant(docker, choices.binaries)?;
    let base = base::debian(docker, choices.base.as_deref())?;
    build::build(docker, &tenant_spec(tag, &base, binaries, choices))
}

pub(crate) fn tenant_spec(
    tag: &str,
    base: &str,
    binaries: BinarySource,
    choices: &ImageChoices,
) -> ImageSpec {
    ImageSpec::new(tag, "docker/tenant.Dockerfile", base)
        .binaries(binaries, BinarySet::Tenant)
        .compiler(choices.compiler.as_deref())
}
