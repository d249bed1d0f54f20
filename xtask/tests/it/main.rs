//! xtask as a person runs it, and the scripts that run without cargo, as they are.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on panics")]

mod down;
mod make_secrets;
