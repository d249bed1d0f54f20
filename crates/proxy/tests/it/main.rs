//! The engine over real sockets, between scripted clients and a scripted, recording upstream.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod ending;
mod fetch;
mod framing;
mod harness;
mod hooks;
mod lasting;
mod live;
mod passing;
mod smuggled;
#[path = "../smuggling/mod.rs"]
mod smuggling;
mod tunnels;
