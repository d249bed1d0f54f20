//! A copy of the checkout, as a clone of it would be.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

use crate::local::Installation;
use crate::world;

/// In the folder of a passing installation, which goes with it.
pub(super) struct Checkout(PathBuf);

impl Checkout {
    /// Copies what git knows or would know. Times are kept, so that what is compiled counts as fresh.
    pub(super) fn make(installation: &Installation) -> Result<Self> {
        let (root, folder) = (world::root(), installation.folder().join("checkout"));
        let mut git = Command::new("git");
        git.args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"]);
        let output = git.current_dir(&root).output().context("cannot run git")?;
        ensure!(output.status.success(), "git: {}", String::from_utf8_lossy(&output.stderr).trim());
        let listed = String::from_utf8(output.stdout)?;
        // A file that was removed and not committed is listed, too.
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
        let env: String =
            settings.iter().map(|(name, value)| format!("{name}={value}\n")).collect();
        fs::write(folder.join(".env"), env)?;
        Ok(Self(folder))
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }
}

fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to.parent().context("a file is in a folder")?)?;
    fs::copy(from, to)?;
    Ok(File::options().write(true).open(to)?.set_modified(from.metadata()?.modified()?)?)
}
