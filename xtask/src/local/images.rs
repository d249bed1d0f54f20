//! The images of an installation: pulled where a registry has them, otherwise made here.

use anyhow::{Context as _, Result};
use docker_command::Docker;

use super::installation::Installation;
use crate::images::binaries::{self, BinarySet, BinarySource};
use crate::images::build::{self, ImageSpec};
use crate::images::{self, base};

const SERVICES: [&str; 3] = ["app-api", "orchestrator", "router"];
const QUOTA_BASE: &str = "cial-quota-base:bookworm";
const BTRFS_PROGRAMS: &str = "btrfs-progs";
const POSTGRES: &str = "postgres:16";
const POSTGRES_MADE: &str = "cial-postgres:17";
const POSTGRES_BASE: &str = "cial-postgres-base:17";

/// Provides every image that compose.yml names and stores the choices in `installation`.
pub(super) fn provide(docker: &Docker, installation: &mut Installation) -> Result<()> {
    let (base, binaries) = provide_inputs(docker, installation)?;
    let control = |service: &str| {
        let tag = format!("cial-{service}:{}", installation.tag);
        ImageSpec::new(&tag, "docker/service.Dockerfile", &base)
            .binaries(binaries, BinarySet::Control)
            .compiler(installation.images.compiler.as_deref())
            .argument("SERVICE", service)
    };
    let mut specs = SERVICES.map(control).to_vec();
    if installation.has_quota() {
        specs.push(quota_spec(docker, installation, &base, binaries)?);
    }
    if !build::is_foreign(docker, &installation.tenant_image)? {
        let (tag, choices) = (&installation.tenant_image, &installation.images);
        specs.push(images::tenant_spec(tag, &base, binaries, choices));
    }
    // Builds run concurrently, because each build mostly waits for the engine.
    std::thread::scope(|scope| {
        let builds: Vec<_> =
            specs.iter().map(|spec| scope.spawn(move || build::build(docker, spec))).collect();
        builds.into_iter().try_for_each(|build| match build.join() {
            Ok(outcome) => outcome.map(drop),
            Err(_) => anyhow::bail!("a build of an image panicked"),
        })
    })
}

/// Provides the bases of our images and the image of Postgres, and returns their names.
fn provide_bases(docker: &Docker, installation: &Installation) -> Result<[String; 2]> {
    let base = base::debian(docker, installation.images.base.as_deref())?;
    Ok([base, provide_postgres(docker, installation.postgres_image.clone())?])
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

/// The orchestrator's image with the program that the service `quota` calls. A base that was made here, where no registry
/// answers, is made again with that program: a build may not reach a mirror.
fn quota_spec(
    docker: &Docker,
    installation: &Installation,
    base: &str,
    binaries: BinarySource,
) -> Result<ImageSpec> {
    let base = if base == base::MADE {
        base::make_rootfs(docker, QUOTA_BASE, "bookworm", &[BTRFS_PROGRAMS])?;
        QUOTA_BASE
    } else {
        base
    };
    let tag = format!("cial-quota:{}", installation.tag);
    Ok(ImageSpec::new(&tag, "docker/service.Dockerfile", base)
        .binaries(binaries, BinarySet::Control)
        .compiler(installation.images.compiler.as_deref())
        .argument("SERVICE", "orchestrator")
        .argument("PACKAGES", BTRFS_PROGRAMS))
}

/// Provides the inputs of all builds that compose cannot make: bases and binaries, all side by side.
pub(super) fn provide_inputs(
    docker: &Docker,
    installation: &mut Installation,
) -> Result<(String, BinarySource)> {
    let chosen = installation.images.binaries;
    let (bases, binaries) = std::thread::scope(|scope| {
        let before = &*installation;
        let bases = scope.spawn(move || provide_bases(docker, before));
        let binaries = binaries::provide_all(docker, chosen);
        (bases.join(), binaries)
    });
    let binaries = binaries?;
    let [base, postgres] = bases.ok().context("making the bases panicked")??;
    installation.postgres_image = Some(postgres);
    installation.images.base = Some(base.clone());
    installation.images.binaries = Some(binaries);
    Ok((base, binaries))
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

/// Provides the chosen image, otherwise the official one, or ours if the pull fails. A choice is
/// kept, because a database never runs under another major version.
fn provide_postgres(docker: &Docker, chosen: Option<String>) -> Result<String> {
    let wanted = match chosen {
        Some(chosen) => chosen,
        None if docker.image(POSTGRES)?.is_some() => POSTGRES.to_owned(),
        None if docker.image(POSTGRES_MADE)?.is_some() => POSTGRES_MADE.to_owned(),
        None => match docker.pull(POSTGRES) {
            Ok(()) => POSTGRES.to_owned(),
            Err(why) => {
                eprintln!(
                    "    {POSTGRES} cannot be pulled ({why:#}): making {POSTGRES_MADE} from packages"
                );
                POSTGRES_MADE.to_owned()
            }
        },
    };
    if wanted == POSTGRES_MADE {
        base::make_rootfs(docker, POSTGRES_BASE, "trixie", &["postgresql-17"])?;
        let spec = ImageSpec::new(POSTGRES_MADE, "docker/postgres/Dockerfile", POSTGRES_BASE);
        build::build(docker, &spec)?;
    } else if docker.image(&wanted)?.is_none() {
        docker.pull(&wanted)?;
    }
    Ok(wanted)
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
