//! What the public door of a tenant promises, in front of services that say what they saw.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod drain;
mod errors;
mod guard;
mod heads;
mod identity;
mod raw;
mod routing;
mod smuggled;
#[path = "../../../proxy/tests/smuggling/mod.rs"]
mod smuggling;
mod sockets;
mod world;
mod zones;
