//! The images of this checkout, made with or without a registry.
//!
//! Other commands combine three steps: [`binaries`] compiles, [`base`] finds or makes the
//! bases of images, and [`build::build`] builds one [`ImageSpec`]. Each step does nothing when
//! nothing changed. An image that somebody else made is never replaced or removed.

pub(crate) mod base;
pub(crate) mod binaries;
pub(crate) mod build;
pub(crate) mod compiler;

use std::process::ExitCode;

use anyhow::Result;
use docker_command::Docker;

use crate::environment::{connect_docker, print_line};
use crate::local::Installation;
use binaries::{BinarySource, TENANT_SET};
use build::ImageSpec;

/// Choices about images by a person or an earlier run; xtask determines the rest.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ImageChoices {
    pub(crate) base: Option<String>,
    pub(crate) binaries: Option<BinarySource>,
    /// The image of the stage that compiles, in place of the Dockerfiles'.
    pub(crate) compiler: Option<String>,
    pub(crate) postgres: Option<String>,
}

pub(crate) fn run() -> Result<ExitCode> {
    let (installation, docker) = (Installation::of_checkout()?, connect_docker()?);
    let tag = &installation.tenant_image;
    let outcome = tenant(&docker, tag, &installation.images)?;
    print_line(format_args!("{tag} {outcome}"));
    Ok(ExitCode::SUCCESS)
}

/// Builds the tenant image under `tag` with its base and its binaries; leaves somebody else's image
/// unchanged. Returns what came of it, for a person.
pub(crate) fn tenant(docker: &Docker, tag: &str, choices: &ImageChoices) -> Result<&'static str> {
    if build::is_foreign(docker, tag)? {
        return Ok(build::FOREIGN);
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
        .binaries(binaries, TENANT_SET)
        .compiler(choices.compiler.as_deref())
}
