//! Peers and tools from Debian's packages, installed where they are missing.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};

/// Names that the package and its program share.
pub(super) const PEERS: [&str; 2] = ["nginx", "haproxy"];
pub(super) const VALGRIND: &str = "valgrind";

const FOLDERS: [&str; 4] = ["/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Installs missing packages and prints their names.
pub(super) fn provide(names: &[&str]) -> Result<()> {
    let is_there = |name: &str| FOLDERS.iter().any(|folder| Path::new(folder).join(name).exists());
    let missing: Vec<_> = names.iter().copied().filter(|name| !is_there(name)).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprintln!("installing from Debian's packages: {}", missing.join(", "));
    let mut install = Command::new("apt-get");
    install.args(["install", "--yes", "--no-install-recommends"]).args(&missing);
    // At run level 1, the packages start no service.
    install.env("RUNLEVEL", "1").env("DEBIAN_FRONTEND", "noninteractive");
    let output = install.output().context("cannot run apt-get")?;
    let said = String::from_utf8_lossy(&output.stderr);
    let missing = missing.join(" ");
    ensure!(output.status.success(), "cannot install {missing}: {}", said.trim());
    Ok(())
}

/// Returns Debian's full version of the package.
pub(super) fn version(name: &str) -> Result<String> {
    let mut query = Command::new("dpkg-query");
    let output = query.args(["--showformat=${Version}", "--show", name]).output()?;
    ensure!(output.status.success(), "{name} is no package of this machine");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
