//! Leases on tenants. Serving threads read the cached lease of a tenant; one loop requests, renews
//! and releases leases, and serves the waiters. [`lease::LeaseManager`] makes the decisions.

mod cached_lease;
mod client;
mod handle;
mod manager_loop;
mod retry_limit;
mod tenant_lease;

pub(crate) use cached_lease::{CachedLease, LeaseGuard};
pub(crate) use client::LeaseClient;
pub use handle::Limits;
pub(crate) use handle::{LeaseHandle, LeaseQueue, LeaseResult};
pub(crate) use manager_loop::ManagerLoop;
pub(crate) use retry_limit::RetryLimit;
