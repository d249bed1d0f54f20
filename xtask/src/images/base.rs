//! The bases of images: pulled where a registry answers, made from Debian packages where none does.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use docker_command::Docker;

use crate::environment::{root, run};

const DEBIAN: &str = "debian:bookworm-slim";
pub(crate) const MADE: &str = "cial-base:bookworm";

/// Returns the Debian image that ours are based on, and provides it first.
///
/// The candidates in order: the chosen one, a local one, one that can be pulled, one made from
/// packages.
pub(crate) fn debian(docker: &Docker, chosen: Option<&str>) -> Result<String> {
    if let Some(chosen) = chosen {
        provide(docker, chosen).context("CIAL_BASE_IMAGE")?;
        return Ok(chosen.to_owned());
    }
    for here in [MADE, DEBIAN] {
        if docker.image(here)?.is_some() {
            return Ok(here.to_owned());
        }
    }
    match docker.pull(DEBIAN) {
        Ok(()) => Ok(DEBIAN.to_owned()),
        Err(why) => {
            eprintln!("    {DEBIAN} cannot be pulled ({why:#}): making {MADE} from packages");
            provide(docker, MADE)?;
            Ok(MADE.to_owned())
        }
    }
}

/// Ensures that an image exists: one of ours is made again, any other is pulled.
fn provide(docker: &Docker, tag: &str) -> Result<()> {
    match docker.image(tag)? {
        Some(_) => Ok(()),
        None if tag == MADE => make_rootfs(docker, MADE, "bookworm", &[]),
        None => docker.pull(tag).with_context(|| format!("cannot pull {tag}")),
    }
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
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{}.tar", tag.replace(':', "-")));
    let changes = ["LABEL cial.managed=1", "CMD [\"bash\"]"];
    let mut script = Command::new(root().join("scripts/debian-rootfs"));
    script.arg(suite).arg(&archive).args(packages);
    let imported = run(&mut script, "scripts/debian-rootfs")
        .and_then(|()| docker.import(&archive, tag, &changes));
    let _ = std::fs::remove_file(&archive);
    imported.with_context(|| format!("cannot make {tag}"))
}
