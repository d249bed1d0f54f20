//! Binaries for this machine, built by cargo.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::installation::variable;

/// Builds the binary of a package with a profile, and returns its path.
pub(super) fn executable(package: &str, profile: &str) -> Result<PathBuf> {
    let mut cargo = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.args(["build", "--profile", profile, "--package", package, "--bins"]);
    cargo.args(["--message-format", "json-render-diagnostics"]);
    cargo.current_dir(env!("CARGO_MANIFEST_DIR"));
    let output = cargo.stderr(Stdio::inherit()).output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cannot compile {package}: cargo says why above");
    let report = String::from_utf8_lossy(&output.stdout);
    let found = report.lines().find_map(|line| executable_of(line, package));
    found.with_context(|| format!("package {package} has no binary"))
}

fn executable_of(line: &str, package: &str) -> Option<PathBuf> {
    let message: Value = serde_json::from_str(line).ok()?;
    let manifest = Path::new(message["manifest_path"].as_str()?);
    let is_ours = manifest.parent()?.file_name()?.to_str()? == package;
    message["executable"].as_str().filter(|_| is_ours).map(PathBuf::from)
}
