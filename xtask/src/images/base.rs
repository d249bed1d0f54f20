//! The bases of images: pulled where a registry answers, made from Debian packages where none does.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use docker_command::Docker;

use crate::environment::{make_folder, root, run};

const DEBIAN: &str = "debian:bookworm-slim";
pub(crate) const MADE: &str = "cial-base:bookworm";

/// Returns the Debian image that ours are based on, and provides it first.
pub(crate) fn debian(docker: &Docker, chosen: Option<&str>) -> Result<String> {
    let make = || make_rootfs(docker, MADE, "bookworm", &[]);
    provide(docker, chosen, [MADE, DEBIAN], (DEBIAN, MADE), make)
}

/// Provides an image and returns its name.
///
/// The candidates in order: the chosen one, a local one, the official one if it can be pulled, ours. `make` makes
/// ours from packages, or leaves it as it is.
pub(crate) fn provide(
    docker: &Docker,
    chosen: Option<&str>,
    local: [&str; 2],
    (official, ours): (&str, &str),
    make: impl FnOnce() -> Result<()>,
) -> Result<String> {
    let mut name = chosen;
    for candidate in local {
        if name.is_none() && docker.image(candidate)?.is_some() {
            name = Some(candidate);
        }
    }
    let name = name.unwrap_or_else(|| match docker.pull(official) {
        Ok(()) => official,
        Err(why) => {
            eprintln!("    {official} cannot be pulled ({why:#}): making {ours} from packages");
            ours
        }
    });
    if name == ours {
        make()?;
    } else if docker.image(name)?.is_none() {
        docker.pull(name).with_context(|| format!("cannot pull the chosen image {name}"))?;
    }
    Ok(name.to_owned())
}

/// Makes `tag` from a Debian suite and packages, unless the tag exists. The tag must be one of
/// ours, because any other name could be a registry's.
pub(crate) fn make_rootfs(
    docker: &Docker,
    tag: &str,
    suite: &str,
    packages: &[&str],
) -> Result<()> {
    if docker.image(tag)?.is_some() {
        return Ok(());
    }
    ensure!(
        tag.starts_with("cial-"),
        "{tag} cannot be made here: images from packages are named cial-…"
    );
    let folder = root().join("dist");
    make_folder(&folder)?;
    let archive = folder.join(format!("{}.tar", tag.replace(':', "-")));
    let changes = ["LABEL cial.managed=1", "CMD [\"bash\"]"];
    let mut script = Command::new(root().join("scripts/debian-rootfs"));
    script.arg(suite).arg(&archive).args(packages);
    let imported = run(&mut script, "scripts/debian-rootfs")
        .and_then(|()| docker.import(&archive, tag, &changes));
    let _ = std::fs::remove_file(&archive);
    imported.with_context(|| format!("cannot make {tag}"))
}
