//! Programs that a bench compiles and runs on this machine.

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

/// Compiles a source file into a static program, which runs in every image.
pub(crate) fn compile(source: &Path, program: &Path) -> Result<()> {
    let mut rustc = Command::new("rustc");
    rustc.args(["--edition=2024", "-O", "-Ctarget-feature=+crt-static", "-Cstrip=symbols", "-o"]);
    run(rustc.arg(program).arg(source))
}

/// Runs a program to its end, without its output.
pub(crate) fn run(command: &mut Command) -> Result<()> {
    let status = command.stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("cannot run {command:?}"))?;
    ensure!(status.success(), "{command:?}: {status}");
    Ok(())
}
