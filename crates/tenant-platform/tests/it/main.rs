//! The contract of the tenant's own half, over its real sockets.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod back;
mod front;
mod sockets;
mod world;
