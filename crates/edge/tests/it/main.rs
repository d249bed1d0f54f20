//! The promises of the edge, tested in front of services that echo what they receive.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod core_site;
mod drain;
mod errors;
mod gauges;
mod heads;
mod raw;
mod require_sign_in;
mod route_token;
mod routing;
mod session_user;
mod smuggled;
#[path = "../../../proxy/tests/smuggling/mod.rs"]
mod smuggling;
mod sockets;
mod world;
mod zones;
