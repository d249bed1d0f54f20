//! The wire format of every type that crosses a process.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod wire;
