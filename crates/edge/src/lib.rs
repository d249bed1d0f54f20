//! The public entry of a tenant: the route-token check ([`route_token`]), the choice of service ([`routes`]), and the
//! headers that cross between the zones ([`headers`]). Those modules are pure; the rest looks up the session user and
//! leaves the bytes to the proxy engine.

mod exchange;
#[cfg(feature = "fuzz")]
pub mod fuzz;
pub mod headers;
mod isolation;
mod policy;
pub mod public_paths;
mod responses;
pub mod route_token;
pub mod routes;
mod serve;
mod session_user;
mod settings;

pub use serve::{serve, start};
pub use settings::{Settings, UpstreamAddresses};
