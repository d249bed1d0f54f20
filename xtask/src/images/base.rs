//! What images stand on: pulled where a registry answers, made from Debian packages where none does.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bollard::Docker;
use bollard::errors::Error as EngineError;
use bollard::query_parameters::CreateImageOptionsBuilder;
use futures_util::TryStreamExt as _;
use tokio_util::io::ReaderStream;

use crate::world;

const DEBIAN: &str = "debian:bookworm-slim";
const MADE: &str = "cial-base:bookworm";
/// A registry that has not sent a base image by then is no help.
const PULL_PATIENCE: Duration = Duration::from_secs(120);

/// The Debian image that ours stand on: the one that was chosen, what is here, what can be pulled, or one made
/// from packages, in this order. It is there afterwards.
pub async fn debian(docker: &Docker, chosen: Option<&str>) -> Result<String> {
    if let Some(chosen) = chosen {
        bring(docker, chosen).await.context("CIAL_BASE_IMAGE")?;
        return Ok(chosen.to_owned());
    }
    for here in [MADE, DEBIAN] {
        if exists(docker, here).await? {
            return Ok(here.to_owned());
        }
    }
    match pull(docker, DEBIAN).await {
        Ok(()) => Ok(DEBIAN.to_owned()),
        Err(why) => {
            eprintln!("{DEBIAN} cannot be pulled ({why:#}): making {MADE} from packages");
            bring(docker, MADE).await?;
            Ok(MADE.to_owned())
        }
    }
}

/// Sees to it that an image is here: ours is made again, anybody else's is pulled.
async fn bring(docker: &Docker, tag: &str) -> Result<()> {
    match exists(docker, tag).await? {
        true => Ok(()),
        false if tag == MADE => rootfs(docker, MADE, "bookworm", &[]).await,
        false => pull(docker, tag).await.with_context(|| format!("cannot pull {tag}")),
    }
}

/// Whether the engine has an image of this name.
pub async fn exists(docker: &Docker, tag: &str) -> Result<bool> {
    match docker.inspect_image(tag).await {
        Ok(_) => Ok(true),
        Err(EngineError::DockerResponseServerError { status_code: 404, .. }) => Ok(false),
        Err(error) => Err(error).with_context(|| format!("cannot look for image {tag}")),
    }
}

/// Pulls an image, or says within a bounded time that it cannot.
pub async fn pull(docker: &Docker, tag: &str) -> Result<()> {
    let options = CreateImageOptionsBuilder::default().from_image(tag).build();
    let stream = docker.create_image(Some(options), None, None);
    let pulled = stream.try_for_each(async |_| Ok(()));
    let timely = tokio::time::timeout(PULL_PATIENCE, pulled).await;
    timely.with_context(|| format!("no {tag} within {} s", PULL_PATIENCE.as_secs()))??;
    Ok(())
}

/// Makes `tag` from a Debian suite and packages, unless it is here already. The tag must be one of ours: a
/// name that a registry knows would be mistaken for the registry's.
pub async fn rootfs(docker: &Docker, tag: &str, suite: &str, include: &[&str]) -> Result<()> {
    if exists(docker, tag).await? {
        return Ok(());
    }
    if !tag.starts_with("cial-") {
        bail!("{tag} cannot be made here: images from packages are named cial-…");
    }
    find_mmdebstrap()?;
    let folder = world::root().join("dist");
    std::fs::create_dir_all(&folder)?;
    let archive = folder.join(format!("{}.tar", tag.replace(':', "-")));
    let made = bootstrap(&archive, suite, include);
    let imported = match made {
        Ok(()) => import(docker, &archive, tag).await,
        Err(error) => Err(error),
    };
    let _ = std::fs::remove_file(&archive);
    imported.with_context(|| format!("cannot make {tag}"))
}

fn bootstrap(archive: &Path, suite: &str, include: &[&str]) -> Result<()> {
    eprintln!("making a Debian {suite} root file system from packages");
    let mut mmdebstrap = Command::new("mmdebstrap");
    mmdebstrap.args(["--quiet", "--variant=minbase"]);
    for useless in ["doc", "man", "info", "locale"] {
        mmdebstrap.arg(format!("--dpkgopt=path-exclude=/usr/share/{useless}/*"));
    }
    mmdebstrap.args(["--dpkgopt=path-include=/usr/share/doc/*/copyright"]);
    if !include.is_empty() {
        mmdebstrap.arg(format!("--include={}", include.join(",")));
    }
    let status = mmdebstrap.arg(suite).arg(archive).status().context("cannot run mmdebstrap")?;
    if !status.success() {
        bail!("mmdebstrap failed: it says why above (is a Debian mirror reachable?)");
    }
    Ok(())
}

async fn import(docker: &Docker, archive: &Path, tag: &str) -> Result<()> {
    let file = tokio::fs::File::open(archive).await?;
    let (name, version) = tag.split_once(':').unwrap_or((tag, "latest"));
    let options = CreateImageOptionsBuilder::default()
        .from_src("-")
        .repo(name)
        .tag(version)
        .changes(["LABEL cial.managed=1", "CMD [\"bash\"]"].map(str::to_owned).to_vec())
        .build();
    let body = bollard::body_try_stream(ReaderStream::with_capacity(file, 1 << 20));
    docker.create_image(Some(options), Some(body), None).try_for_each(async |_| Ok(())).await?;
    Ok(())
}

/// Makes sure that `mmdebstrap` can be run, installing it where that is allowed.
fn find_mmdebstrap() -> Result<()> {
    if runs("mmdebstrap", &["--version"]) {
        return Ok(());
    }
    let fix = "install it (Debian, Ubuntu: sudo apt-get install mmdebstrap), or make a registry reachable";
    if !runs("apt-get", &["--version"]) || !is_root() {
        bail!("mmdebstrap is needed to make images without a registry: {fix}");
    }
    eprintln!("installing mmdebstrap");
    // A package list of any age may do; a fresh one is only fetched when it does not.
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

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
