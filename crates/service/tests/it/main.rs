//! Behaviours of the parts through which two services communicate, over real sockets.
#![cfg(feature = "control")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod resources;
mod watching;
