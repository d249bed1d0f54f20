//! Host to tenant: the data plane's reverse proxy. Holds the table of routes and leases on tenants; a request to a
//! leased tenant waits for no other service.

mod again;
mod asking;
mod clock;
mod held;
mod http;
mod keeping;
mod leases;
mod metrics;
mod process;
mod retries;
mod routes;
pub mod settings;
mod tenure;

pub use process::parent;
pub use process::server::Server;
