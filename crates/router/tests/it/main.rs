//! The router over real sockets: tenants behind unix sockets, app-api's watch over HTTP.
#![expect(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod connection_limits;
mod harness;
mod heads;
mod identity;
mod internal;
mod leases;
mod orchestrator;
mod outage;
mod passing;
mod process;
mod rate;
mod rest;
mod restart;
mod routing;
mod smuggled;
#[path = "../../../proxy/tests/smuggling/mod.rs"]
mod smuggling;
mod stability;
mod tenant;
mod wake;
