//! The images of an installation: pulled where a registry has them, otherwise made here.

use anyhow::{Context as _, Result};
use docker_command::Docker;

use super::installation::Installation;
use crate::environment::side_by_side;
use crate::images::binaries::{self, BinarySource, CONTROL_SET};
use crate::images::build::{self, ImageSpec};
use crate::images::{self, base};

const APP_API: &str = "app-api";
const SERVICES: [&str; 3] = [APP_API, "orchestrator", "router"];
const QUOTA_BASE: &str = "cial-quota-base:bookworm";
const BTRFS_PROGRAMS: &str = "btrfs-progs";
const POSTGRES: &str = "postgres:16";
const POSTGRES_MADE: &str = "cial-postgres:17";
const POSTGRES_BASE: &str = "cial-postgres-base:17";

/// Provides every image that compose.yml names and stores the choices in `installation`.
pub(super) fn provide(docker: &Docker, installation: &mut Installation) -> Result<()> {
    let Inputs { base, postgres, binaries } = provide_inputs(docker, installation)?;
    let control = |name: &str, service: &str, base: &str| {
        let tag = format!("cial-{name}:{}", installation.tag);
        ImageSpec::new(&tag, "docker/service.Dockerfile", base)
            .binaries(binaries, CONTROL_SET)
            .compiler(installation.images.compiler.as_deref())
            .argument("SERVICE", service)
            .argument("POSTGRES", if service == APP_API { &postgres } else { base })
    };
    let mut specs = SERVICES.map(|service| control(service, service, &base)).to_vec();
    if installation.has_quota() {
        let quota = control("quota", "orchestrator", quota_base(docker, &base)?);
        specs.push(quota.argument("PACKAGES", BTRFS_PROGRAMS));
    }
    let (tag, choices) = (&installation.tenant_image, &installation.images);
    specs.push(images::tenant_spec(tag, &base, binaries, choices));
    // Builds run concurrently, because each build mostly waits for the engine.
    side_by_side(&specs, |spec| build::build(docker, spec).map(drop))
}

/// Provides the bases of our images and the image of Postgres, and returns their names.
fn provide_bases(docker: &Docker, installation: &Installation) -> Result<[String; 2]> {
    let base = base::debian(docker, installation.images.base.as_deref())?;
    Ok([base, provide_postgres(docker, installation.images.postgres.as_deref())?])
}

/// Provides every image that another engine needs in order to build all others without a network, and returns their
/// names.
pub(crate) fn provide_portable(
    docker: &Docker,
    installation: &Installation,
) -> Result<Vec<String>> {
    let mut images = provide_bases(docker, installation)?.to_vec();
    if images.iter().any(|image| image == POSTGRES_MADE) {
        images.push(POSTGRES_BASE.to_owned());
    }
    Ok(images)
}

/// The base of the image with the program that the service `quota` calls. One that was made here, where no registry
/// answers, is made again with that program: a build may not reach a mirror.
fn quota_base<'a>(docker: &Docker, base: &'a str) -> Result<&'a str> {
    if base != base::MADE {
        return Ok(base);
    }
    base::make_rootfs(docker, QUOTA_BASE, "bookworm", &[BTRFS_PROGRAMS])?;
    Ok(QUOTA_BASE)
}

/// The inputs of all builds that compose cannot make.
pub(super) struct Inputs {
    base: String,
    postgres: String,
    binaries: BinarySource,
}

/// Provides the inputs: bases and binaries, all side by side.
pub(super) fn provide_inputs(docker: &Docker, installation: &mut Installation) -> Result<Inputs> {
    let before = &*installation;
    let (bases, binaries) = std::thread::scope(|scope| {
        let bases = scope.spawn(|| provide_bases(docker, before));
        let binaries = binaries::provide_all(docker, before.images.binaries);
        (bases.join(), binaries)
    });
    let binaries = binaries?;
    let [base, postgres] = bases.ok().context("making the bases panicked")??;
    let images = &mut installation.images;
    images.postgres = Some(postgres.clone());
    images.base = Some(base.clone());
    images.binaries = Some(binaries);
    Ok(Inputs { base, postgres, binaries })
}

/// Removes images under the tags of an ephemeral installation; images under other tags stay.
pub(super) fn remove_own(docker: &Docker, installation: &Installation) {
    if !installation.is_ephemeral {
        return;
    }
    let listed = docker.run(&["image", "ls", "--format", "{{.Repository}}:{{.Tag}}"]);
    for tag in listed.unwrap_or_default().lines().filter(|tag| is_own(tag, &installation.name)) {
        // An image in use belongs to a container that could not be removed, which is already
        // reported as an error.
        let _ = docker.run(&["image", "rm", tag]);
    }
}

/// Whether a tag is named after an installation: `cial-tenant:{name}`, `cial-tenant:{name}-broken`.
fn is_own(tag: &str, name: &str) -> bool {
    let Some((repository, version)) = tag.split_once(':') else { return false };
    let rest = version.strip_prefix(name);
    repository.starts_with("cial-")
        && rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

/// Provides the image of Postgres. A choice is kept, because a database never runs under another major version.
fn provide_postgres(docker: &Docker, chosen: Option<&str>) -> Result<String> {
    let local = [POSTGRES, POSTGRES_MADE];
    base::provide(docker, chosen, local, (POSTGRES, POSTGRES_MADE), || {
        base::make_rootfs(docker, POSTGRES_BASE, "trixie", &["postgresql-17"])?;
        let spec = ImageSpec::new(POSTGRES_MADE, "docker/postgres/Dockerfile", POSTGRES_BASE);
        build::build(docker, &spec).map(drop)
    })
}

#[test]
fn only_tags_that_are_named_after_an_installation_are_its_own() {
    let cases = [
        ("cial-tenant:smoke-12", true),
        ("cial-tenant:smoke-12-broken", true),
        ("cial-tenant:smoke-123", false),
        ("cial-tenant:dev", false),
        ("other:smoke-12", false),
        ("cial-tenant", false),
    ];
    for (tag, own) in cases {
        assert_eq!(is_own(tag, "smoke-12"), own, "{tag}");
    }
}
