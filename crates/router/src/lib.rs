//! Host to tenant: the data plane's front door. Knows the table of routes and holds leases; with a lease in hand a request
//! asks nobody on its way.

mod address;
mod admin;
mod again;
mod answer;
mod asking;
mod cache;
mod classify;
mod clock;
mod cookies;
mod descriptors;
mod directory;
mod gate;
mod handover;
mod held;
pub mod host;
mod keeping;
mod leases;
mod limit;
mod metrics;
pub mod parent;
mod passage;
mod progress;
mod request_id;
mod retries;
mod serve;
pub mod settings;
mod succession;
mod table;
mod tenure;
mod thread;
mod waiting;

pub use serve::Bound;
