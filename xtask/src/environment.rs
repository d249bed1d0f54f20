//! Everything that xtask takes from outside: the checkout, variables, the clock, the terminal,
//! other programs.

use std::fmt::Display;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Instant;

use anyhow::{Context as _, Result, bail, ensure};
use clap::ValueEnum;
use docker_command::Docker;

/// The root of the checkout in which `cargo xtask` was called, because a target folder that two
/// checkouts share holds one xtask. Without cargo, the checkout in which xtask was compiled.
pub fn root() -> PathBuf {
    let called =
        variable("CARGO_MANIFEST_DIR").map(PathBuf::from).filter(|here| here.ends_with("xtask"));
    let here = called.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    here.parent().unwrap_or(&here).to_owned()
}

/// Returns a variable of the environment; an empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "the one place in xtask that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the one place in xtask that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Prints a line of result on stdout. Progress goes to stderr by `eprintln!`. A closed pipe is no
/// failure.
pub fn print_line(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Ends xtask: an error is printed in full, and its exit code is 1.
pub fn finish(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

pub fn exit_code(is_success: bool) -> ExitCode {
    if is_success { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Finds the container engine. The error is an `ActionableError`.
pub(crate) fn connect_docker() -> Result<Docker> {
    Docker::connect(variable("DOCKER_HOST").as_deref())
}

/// Builds a call of the cargo that runs xtask, in the checkout.
pub fn cargo() -> Command {
    let mut cargo = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.current_dir(root());
    cargo
}

/// Runs a command to its end.
///
/// # Errors
/// The command cannot be run, or fails; it said why on stderr.
pub fn run(command: &mut Command, title: &str) -> Result<()> {
    read(command.stdout(Stdio::inherit()), title).map(drop)
}

/// Like [`run`], and returns what the command prints on stdout.
pub(crate) fn read(command: &mut Command, title: &str) -> Result<String> {
    let output = command.stdin(Stdio::inherit()).stderr(Stdio::inherit()).output();
    let output = output.with_context(|| format!("cannot run {title}"))?;
    ensure!(output.status.success(), "{title} failed: see above");
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// Whether a command can be run and succeeds.
pub(crate) fn succeeds(program: &str, args: &[&str]) -> bool {
    Command::new(program).args(args).output().is_ok_and(|output| output.status.success())
}

/// Fails unless all these programs can be called.
pub(crate) fn require_programs(names: &[&str]) -> Result<()> {
    for name in names {
        let is_there = Command::new(name).arg("--version").output().is_ok();
        ensure!(is_there, "{name} is missing: scripts/install-tools installs it");
    }
    Ok(())
}

/// Does `work` for all tasks side by side, until each has ended; returns the first error.
pub(crate) fn side_by_side<T: Sync>(
    tasks: &[T],
    work: impl Fn(&T) -> Result<()> + Sync,
) -> Result<()> {
    std::thread::scope(|scope| {
        let tasks: Vec<_> = tasks.iter().map(|task| scope.spawn(|| work(task))).collect();
        tasks.into_iter().try_for_each(|task| task.join().unwrap_or_else(|_| bail!("a panic")))
    })
}

pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))
}

/// The name of a value on the command line, and in variables.
pub(crate) fn name_of(value: impl ValueEnum) -> String {
    value.to_possible_value().map(|value| value.get_name().to_owned()).unwrap_or_default()
}
