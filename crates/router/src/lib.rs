//! Host to tenant: the data plane's reverse proxy. Holds the table of routes and leases on tenants; a request to a
//! leased tenant waits for no other service.

mod clock;
#[cfg(feature = "fuzz")]
pub mod fuzz;
mod http;
mod leases;
mod metrics;
mod process;
mod routes;
pub mod settings;

pub use process::parent;
pub use process::server::Server;
// For the bench of the table.
pub use routes::table::{EntryParameters, RouteTable};
