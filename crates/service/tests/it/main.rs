//! Behaviours of the parts that two services meet through, over real sockets.
#![cfg(feature = "control")]
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod watching;
