//! xtask and the scripts that run without cargo, called as a person calls them.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod down;
mod make_secrets;
