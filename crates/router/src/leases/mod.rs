//! Leases on tenants. Serving threads read the cached lease of a tenant; one loop requests, renews
//! and releases leases, and serves the waiters. [`lease::LeaseManager`] makes the decisions.

mod calls;
mod client;
mod execute;
mod handle;
mod manager_loop;
mod retry_limit;
mod shared_state;
mod tenant_lease;

pub(crate) use client::LeaseClient;
pub(crate) use handle::{LeaseHandle, LeaseResult};
pub(crate) use manager_loop::ManagerLoop;
pub(crate) use retry_limit::RetryLimit;
pub use shared_state::Limits;
pub(crate) use shared_state::SharedState;
