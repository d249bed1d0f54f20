//! Binaries and benches of other packages, built by cargo for this machine.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
use testkit::installation::variable;

/// Builds the binary of a package with a profile, and returns its path: in the folder of the profile, beside that of the
/// profile of this program.
pub(crate) fn executable(package: &str, profile: &str) -> Result<PathBuf> {
    run(&["build", "--profile", profile, "--package", package, "--bins"])?;
    let own = std::env::current_exe()?;
    let folder = own.parent().and_then(Path::parent).context("a program in no target folder")?;
    Ok(folder.join(profile).join(package))
}

/// Runs a bench of another package, and returns what it prints.
pub(crate) fn cargo_bench(package: &str, bench: &str) -> Result<String> {
    run(&["bench", "--quiet", "--locked", "--package", package, "--bench", bench])
}

/// The figures of a bench that prints one JSON object.
pub(crate) struct Report(Value);

impl Report {
    /// Runs a bench of another package.
    pub(crate) fn of(package: &str, bench: &str) -> Result<Self> {
        Self::parse(&cargo_bench(package, bench)?)
    }

    /// Other lines may stand around the object.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut lines = text.lines().filter_map(|line| serde_json::from_str(line).ok());
        Ok(Self(lines.next().with_context(|| format!("no figures in {text:?}"))?))
    }

    pub(crate) fn value(&self, name: &str) -> Result<f64> {
        let Self(report) = self;
        report[name].as_f64().with_context(|| format!("no {name} in {report}"))
    }
}

fn run(args: &[&str]) -> Result<String> {
    let mut cargo = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.args(args).current_dir(env!("CARGO_MANIFEST_DIR")).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cargo {} failed: see above", args.join(" "));
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}
