//! Runs the black-box tests of the package `e2e` and prints their checks, one per line.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::environment::{cargo, print_line, succeeds};

/// Tests of one binary of the package.
#[derive(Clone, Copy)]
pub(crate) struct Tests {
    binary: &'static str,
    /// The feature that the binary needs.
    feature: &'static str,
    /// Words of the test harness that select tests.
    filter: &'static [&'static str],
}

pub(crate) const IMAGE: Tests = Tests::all("image", "engine");
pub(crate) const INSTALLATION: Tests = Tests::all("installation", "installation");
pub(crate) const FAULTS: Tests = Tests::all("faults", "installation");
pub(crate) const REBOOT: Tests = Tests::all("reboot", "installation");
pub(crate) const LOGS: Tests = Tests::all("logs", "installation");
pub(crate) const DOCUMENTS: Tests = Tests::all("documents", "documents");
pub(crate) const BROWSER: Tests = Tests::all("browser", "browser");
pub(crate) const SOFTWARE: Tests = Tests::all("software", "software");

impl Tests {
    const fn all(binary: &'static str, feature: &'static str) -> Self {
        Self { binary, feature, filter: &[] }
    }

    pub(crate) const fn filtered(self, filter: &'static [&'static str]) -> Self {
        Self { filter, ..self }
    }
}

/// Runs one test after the other: by nextest where cargo has it, otherwise by `cargo test`.
pub(crate) fn run(tests: Tests, variables: &[(&'static str, String)]) -> Result<()> {
    let Tests { binary, feature, filter } = tests;
    let mut cargo = cargo();
    let (command, harness): (&[_], &[_]) =
        match succeeds("cargo-nextest", &["nextest", "--version"]) {
            true => (&["nextest", "run", "--no-capture", "--no-tests", "fail"], &[]),
            false => (&["test", "--quiet"], &["--test-threads=1", "--nocapture"]),
        };
    cargo.args(command).args(["--locked", "--package", "e2e", "--features", feature]);
    cargo.args(["--test", binary, "--"]).args(harness).args(filter);
    // The checks name the failure; a backtrace of each error would bury them.
    cargo.envs(variables.iter().cloned()).env("RUST_BACKTRACE", "0");
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    lines.for_each(|line| check_of(&line).into_iter().for_each(print_line));
    ensure!(child.wait()?.success(), "tests of {binary} failed: see above");
    Ok(())
}

/// Returns the check on a line of output. The test harness may print the name of the test before
/// its first check.
fn check_of(line: &str) -> Option<&str> {
    let line = match line.strip_prefix("test ").and_then(|rest| rest.split_once(" ... ")) {
        Some((_, rest)) => rest,
        None => line,
    };
    (line.starts_with("ok     ") || line.starts_with("FAILED ")).then_some(line)
}

#[test]
fn checks_are_told_apart_from_the_harness() {
    let failed = "FAILED the two users: expected 1, got 2";
    let cases = [
        ("ok     the two users", Some("ok     the two users")),
        (failed, Some(failed)),
        ("test a_test ... ok     the two users", Some("ok     the two users")),
        ("test a_test ... ok", None),
        ("ok", None),
        ("test result: FAILED. 0 passed", None),
        ("running 1 test", None),
    ];
    for (line, expected) in cases {
        assert_eq!(check_of(line), expected, "{line}");
    }
}
