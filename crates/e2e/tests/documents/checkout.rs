//! A copy of the checkout, as a clone of it would be.

use std::fs::{self, File};
use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::Installation;

/// Copies every file that git knows or would know to `folder`, with an `.env` that names the installation.
///
/// Times are kept, so that cargo takes compiled crates for fresh.
pub(crate) fn copy_to(folder: &Path, installation: &Installation) -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
    let mut git = Command::new("git");
    git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
    let output = git.current_dir(&root).output().context("cannot run git")?;
    ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr).trim());
    let listed = String::from_utf8(output.stdout)?;
    // Git also lists a file that was removed and not committed.
    let files = listed.split('\0').filter(|name| !name.is_empty() && root.join(name).is_file());
    for name in files {
        copy(&root.join(name), &folder.join(name))
            .with_context(|| format!("cannot copy {name}"))?;
    }
    let settings = [
        ("CIAL_INSTALL", installation.name.clone()),
        ("CIAL_ADMIN_PORT", installation.admin_port.to_string()),
        ("CIAL_ROUTER_PORT", installation.router_port.to_string()),
        ("CIAL_POSTGRES_PORT", installation.postgres_port.to_string()),
    ];
    let env: String = settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
    Ok(fs::write(folder.join(".env"), env)?)
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
    fs::copy(from, to)?;
    Ok(File::options().write(true).open(to)?.set_modified(from.metadata()?.modified()?)?)
}
