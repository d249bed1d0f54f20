//! Calls of compose for an installation, and programs whose output goes to a log.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use docker_command::{Compose, last_lines};

use super::installation::Installation;
use crate::environment::root;

/// Begins a call of compose for this installation, independent of the current folder.
pub(crate) fn command(compose: &Compose, installation: &Installation) -> Command {
    let mut command = compose.command();
    command.arg("--file").arg(root().join("compose.yml"));
    command.arg("--project-directory").arg(root());
    command.args(["--project-name", &installation.project()]);
    command.envs(installation.variables()).stdin(Stdio::null());
    command
}

pub(super) fn run(
    compose: &Compose,
    installation: &Installation,
    args: &[&str],
    log: &Path,
) -> Result<()> {
    let mut command = command(compose, installation);
    command.args(args);
    log_output(command, log).with_context(|| format!("compose {}", args.join(" ")))
}

/// Runs a program and appends its output to the log; an error contains the last lines of the output.
pub(super) fn log_output(mut command: Command, log: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
    let file = open().with_context(|| format!("cannot write {}", log.display()))?;
    let before = file.metadata()?.len();
    command.stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if status.success() {
        return Ok(());
    }
    let output = std::fs::read(log).unwrap_or_default();
    let output = String::from_utf8_lossy(output.get(before as usize..).unwrap_or_default());
    anyhow::bail!("{program} failed:\n{}", last_lines(&output, 8))
}
