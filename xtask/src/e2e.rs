//! Runs the black-box tests of the package `e2e` and prints their checks, one per line.

use std::io::{BufRead as _, BufReader};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::environment::{self, cargo, print_line};

/// A test binary of the package.
#[derive(Clone, Copy, Debug)]
pub(crate) enum TestBinary {
    Image,
    Installation,
    Faults,
    Logs,
    Documents,
    Browser,
}

impl TestBinary {
    const fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Installation => "installation",
            Self::Faults => "faults",
            Self::Logs => "logs",
            Self::Documents => "documents",
            Self::Browser => "browser",
        }
    }

    const fn feature(self) -> &'static str {
        match self {
            Self::Image => "engine",
            Self::Installation | Self::Faults | Self::Logs => "installation",
            Self::Documents => "documents",
            Self::Browser => "browser",
        }
    }
}

/// The selected tests of a binary; without a selection, all of them run.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filter {
    Only(&'static str),
    Without(&'static str),
}

/// Runs one test after the other: by nextest where cargo has it, otherwise by `cargo test`.
///
/// # Errors
/// A test fails; its failed checks were printed.
pub(crate) fn run(
    binary: TestBinary,
    filter: Option<Filter>,
    variables: &[(&'static str, String)],
) -> Result<()> {
    let has_nextest = Command::new("cargo-nextest").args(["nextest", "--version"]).output();
    let has_nextest = has_nextest.is_ok_and(|output| output.status.success());
    let mut cargo = cargo();
    cargo.args(if has_nextest { &["nextest", "run"][..] } else { &["test", "--quiet"] });
    cargo.args(["--locked", "--package", "e2e", "--features", binary.feature()]);
    cargo.args(["--test", binary.name()]);
    match (filter, has_nextest) {
        (None, true) => {}
        (Some(Filter::Only(name)), true) => {
            cargo.args(["-E", &format!("test(={name})")]);
        }
        (Some(Filter::Without(name)), true) => {
            cargo.args(["-E", &format!("not test(={name})")]);
        }
        (_, false) => {
            cargo.args(["--", "--test-threads=1", "--nocapture"]);
        }
    }
    match (filter, has_nextest) {
        (_, true) => cargo.args(["--no-capture", "--no-tests", "fail"]),
        (Some(Filter::Only(name)), false) => cargo.args(["--exact", name]),
        (Some(Filter::Without(name)), false) => cargo.args(["--skip", name]),
        (None, false) => &mut cargo,
    };
    cargo.envs(variables.iter().map(|(name, value)| (name, value)));
    // The checks name the failure; a backtrace of each error would bury them.
    cargo
        .env("RUST_BACKTRACE", "0")
        .env("CIAL_E2E_XTASK", environment::program()?)
        .stdout(Stdio::piped());
    let mut child = cargo.spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    for line in BufReader::new(stdout).lines().map_while(Result::ok) {
        if let Some(check) = check_of(&line) {
            print_line(check);
        }
    }
    let status = child.wait()?;
    ensure!(status.success(), "tests of {} failed: see above", binary.name());
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checks_are_told_apart_from_the_harness() {
        let cases = [
            ("ok     the two users", Some("ok     the two users")),
            (
                "FAILED the two users: expected 1, got 2",
                Some("FAILED the two users: expected 1, got 2"),
            ),
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
}
