//! Leases on tenants. Serving threads read the cached lease of a tenant; one loop requests, renews
//! and releases leases, and serves the waiters. [`lease::LeaseManager`] makes the decisions.

mod calls;
mod client;
mod execute;
mod handle;
mod manager_loop;
mod queue;
mod retry_limit;
mod tenant_lease;

pub(crate) use client::LeaseClient;
pub(crate) use handle::{LeaseHandle, LeaseResult};
pub(crate) use manager_loop::ManagerLoop;
pub(crate) use queue::LeaseQueue;
pub use queue::Limits;
pub(crate) use retry_limit::RetryLimit;
