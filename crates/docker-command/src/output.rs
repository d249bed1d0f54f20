//! Programs that are run to their end: a bound of time, and the parts of their outputs that people read.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use duct::Expression;

/// Runs a program to its end with its output captured, whatever its exit code; kills it after
/// `timeout`.
///
/// # Errors
/// The program cannot be run, or does not end in time.
pub fn output_within(title: &str, command: &Expression, timeout: Duration) -> Result<Output> {
    let captured = command.stdin_null().stdout_capture().stderr_capture().unchecked();
    let running = captured.start().with_context(|| format!("cannot run {title}"))?;
    if let Some(output) = running.wait_timeout(timeout)? {
        return Ok(output.clone());
    }
    running.kill()?;
    bail!("{title} did not end within {} s", timeout.as_secs())
}

/// Returns the two leading numbers of a version, for a comparison.
pub fn version_number(text: &str) -> (u32, u32) {
    let mut parts = text.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

/// Returns the last `count` lines of a program's output.
pub fn last_lines(text: &str, count: usize) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(count)..].join("\n")
}

#[test]
fn versions_compare_as_numbers() {
    for old in ["1.9", "1.25.0", "1.28", ""] {
        assert!(version_number(old) < (1, 29), "{old}");
    }
    for new in ["1.29.2", "1.41", "2.26.1-4", "2.3.3"] {
        assert!(version_number(new) >= (1, 29), "{new}");
    }
}
