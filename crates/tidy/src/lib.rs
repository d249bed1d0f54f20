//! Tests of the source itself: `cargo xtask tidy`. They check the promises of ARCHITECTURE.md about lines of code, and
//! hold the documents to the code. `deny.toml` has the promises about dependencies.
#![cfg(test)]

mod commands;
mod hosts;
mod manifests;
mod problems;
mod settings;
mod sizes;
mod tree;
mod words;

/// Fails with every fault that a check found, one per line.
#[track_caller]
fn assert_none(faults: &[String]) {
    assert!(faults.is_empty(), "\n{}", faults.join("\n"));
}
