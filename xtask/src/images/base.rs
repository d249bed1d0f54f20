//! The bases of images: pulled where a registry answers, made from Debian packages where none does.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, bail};

use crate::docker::Docker;
use crate::environment::root;

const DEBIAN: &str = "debian:bookworm-slim";
const MADE: &str = "cial-base:bookworm";

/// Returns the Debian image that ours are based on, and provides it first.
///
/// The candidates in order: the chosen one, a local one, one that can be pulled, one made from
/// packages.
pub fn debian(docker: &Docker, chosen: Option<&str>) -> Result<String> {
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
pub fn make_rootfs(docker: &Docker, tag: &str, suite: &str, packages: &[&str]) -> Result<()> {
    if docker.image(tag)?.is_some() {
        return Ok(());
    }
    if !tag.starts_with("cial-") {
        bail!("{tag} cannot be made here: images from packages are named cial-…");
    }
    find_mmdebstrap()?;
    let folder = root().join("dist");
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{}.tar", tag.replace(':', "-")));
    let changes = ["LABEL cial.managed=1", "CMD [\"bash\"]"];
    let imported =
        bootstrap(&archive, suite, packages).and_then(|()| docker.import(&archive, tag, &changes));
    let _ = std::fs::remove_file(&archive);
    imported.with_context(|| format!("cannot make {tag}"))
}

fn bootstrap(archive: &Path, suite: &str, packages: &[&str]) -> Result<()> {
    eprintln!("    making a Debian {suite} root file system from packages");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase"]);
    for useless in ["doc", "man", "info", "locale"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{useless}/*"));
    }
    mmdebstrap.args(["--dpkgopt=path-include=/usr/share/doc/*/copyright"]);
    if !packages.is_empty() {
        mmdebstrap.arg(format!("--include={}", packages.join(",")));
    }
    let status = mmdebstrap.arg(suite).arg(archive).status().context("cannot run mmdebstrap")?;
    if !status.success() {
        bail!("mmdebstrap failed: it says why above (is a Debian mirror reachable?)");
    }
    Ok(())
}

/// Ensures that `mmdebstrap` can run, and installs it where that is allowed.
fn find_mmdebstrap() -> Result<()> {
    if runs("mmdebstrap", &["--version"]) {
        return Ok(());
    }
    let fix = "install it (Debian, Ubuntu: sudo apt-get install mmdebstrap), or make a registry reachable";
    if !runs("apt-get", &["--version"]) || !nix::unistd::geteuid().is_root() {
        bail!("mmdebstrap is needed to make images without a registry: {fix}");
    }
    eprintln!("    installing mmdebstrap");
    // An old package list may be sufficient; a fresh one is fetched only if the installation fails.
    let install = ["install", "--yes", "--no-install-recommends", "mmdebstrap", "uidmap"];
    let is_installed =
        runs("apt-get", &install) || runs("apt-get", &["update"]) && runs("apt-get", &install);
    if !is_installed {
        bail!("mmdebstrap could not be installed: {fix}");
    }
    Ok(())
}

fn runs(program: &str, args: &[&str]) -> bool {
    let mut command = Command::new(program);
    command.args(args).env("DEBIAN_FRONTEND", "noninteractive");
    command.output().is_ok_and(|output| output.status.success())
}
