//! What xtask takes from the world around it: the checkout, variables, the clock, the terminal.

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Instant;

use anyhow::{Context as _, Result};

/// The root of the checkout: the one that `cargo xtask` was called in, because a target folder that two of them
/// share holds one xtask. Without cargo, the one that it was compiled in.
pub fn root() -> PathBuf {
    let called =
        var("CARGO_MANIFEST_DIR").map(PathBuf::from).filter(|here| here.ends_with("xtask"));
    let here = called.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    here.parent().unwrap_or(&here).to_owned()
}

/// A variable of the environment; set but empty counts as unset.
#[expect(clippy::disallowed_methods, reason = "the one place in xtask that reads the environment")]
pub fn var(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the one place in xtask that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Since 1970, for those who count so.
#[expect(clippy::disallowed_methods, reason = "the one place in xtask that reads the clock")]
pub fn unix_time() -> std::time::Duration {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default()
}

/// A line of result on stdout. Progress goes to stderr by `eprintln!`. A closed pipe is not a fault.
pub fn say(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs a command's future to its end, on this thread.
pub fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

/// Ends xtask: an error is told in full, and its exit code is 1.
pub fn finish(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
