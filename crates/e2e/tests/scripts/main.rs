//! The scripts that run without cargo, and `cargo xtask local-down`, called as a person calls them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod down;
mod make_secrets;

use std::path::PathBuf;

/// A path of the checkout.
fn checkout(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../..").join(path)
}
