//! The engine over real sockets, between scripted clients and a scripted, recording upstream.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod early_response;
mod ending;
mod fetch;
mod framing;
mod half_close;
mod harness;
mod hooks;
mod lasting;
mod live;
mod passing;
mod smuggled;
#[path = "../smuggling/mod.rs"]
mod smuggling;
mod tunnels;
