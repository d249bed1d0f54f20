//! Runs the black-box tests of the package `e2e` and prints their checks, one per line.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;

use anyhow::{Context as _, Result, ensure};

use crate::environment::{cargo, print_line, succeeds};

/// A test binary of the package: its name, and the feature that it needs.
#[derive(Clone, Copy, Debug)]
pub(crate) struct TestBinary {
    name: &'static str,
    feature: &'static str,
}

pub(crate) const IMAGE: TestBinary = TestBinary { name: "image", feature: "engine" };
pub(crate) const INSTALLATION: TestBinary =
    TestBinary { name: "installation", feature: "installation" };
pub(crate) const FAULTS: TestBinary = TestBinary { name: "faults", feature: "installation" };
pub(crate) const REBOOT: TestBinary = TestBinary { name: "reboot", feature: "installation" };
pub(crate) const LOGS: TestBinary = TestBinary { name: "logs", feature: "installation" };
pub(crate) const DOCUMENTS: TestBinary = TestBinary { name: "documents", feature: "documents" };
pub(crate) const BROWSER: TestBinary = TestBinary { name: "browser", feature: "browser" };
pub(crate) const SOFTWARE: TestBinary = TestBinary { name: "software", feature: "software" };

/// The selected tests of a binary.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Filter {
    All,
    Only(&'static str),
    Without(&'static str),
}

/// Runs one test after the other: by nextest where cargo has it, otherwise by `cargo test`.
pub(crate) fn run(
    binary: TestBinary,
    filter: Filter,
    variables: &[(&'static str, String)],
) -> Result<()> {
    let has_nextest = succeeds("cargo-nextest", &["nextest", "--version"]);
    let mut cargo = cargo();
    cargo.args(if has_nextest { &["nextest", "run"][..] } else { &["test", "--quiet"] });
    cargo.args(["--locked", "--package", "e2e", "--features", binary.feature]);
    cargo.args(["--test", binary.name]);
    if has_nextest {
        let filter = match filter {
            Filter::All => "all()".to_owned(),
            Filter::Only(name) => format!("test(={name})"),
            Filter::Without(name) => format!("not test(={name})"),
        };
        cargo.args(["--no-capture", "--no-tests", "fail", "-E", &filter]);
    } else {
        cargo.args(["--", "--test-threads=1", "--nocapture"]);
        cargo.args(match filter {
            Filter::All => vec![],
            Filter::Only(name) => vec!["--exact", name],
            Filter::Without(name) => vec!["--skip", name],
        });
    }
    // The checks name the failure; a backtrace of each error would bury them.
    cargo.envs(variables.iter().map(|(name, value)| (name, value))).env("RUST_BACKTRACE", "0");
    let mut child = cargo.stdout(Stdio::piped()).spawn().context("cannot run cargo")?;
    let stdout = child.stdout.take().context("cargo has no output")?;
    let lines = BufReader::new(stdout).lines().map_while(Result::ok);
    lines.for_each(|line| check_of(&line).into_iter().for_each(print_line));
    ensure!(child.wait()?.success(), "tests of {} failed: see above", binary.name);
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
