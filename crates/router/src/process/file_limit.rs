//! The limit of open files: a client takes two descriptors, and the usual soft limit is 1,024.

use proxy::{DescriptorBudget, DescriptorDemand, TooFewDescriptors};
use service::descriptors::raise_open_file_limit;

/// Descriptors that are never given to clients: listeners, runtimes, files, the internal listener, the connections to
/// app-api, and the calls about leases.
const RESERVED: usize = 96;
const RESERVED_PER_THREAD: usize = 8;

/// Raises the limit of open files, and divides it between clients, idle connections to tenants and what is reserved.
///
/// # Errors
/// The limit leaves too few connections for `threads`.
pub(crate) fn budget(threads: usize) -> Result<DescriptorBudget, TooFewDescriptors> {
    let limit = raise_open_file_limit();
    let reserved = RESERVED + RESERVED_PER_THREAD * threads;
    DescriptorDemand {
        limit: limit as u64,
        reserved,
        threads,
        // Idle connections are bounded in total: a router has as many upstreams as tenants.
        upstreams: 1,
        connections: MAX_CONNECTIONS_PER_THREAD,
        idle_per_upstream: limit / threads.max(1) / MAX_IDLE_SHARE,
    }
    .budget()
}

/// More connections on one thread would only wait for each other.
const MAX_CONNECTIONS_PER_THREAD: usize = 16_384;
/// One in this many descriptors is for idle connections to tenants.
const MAX_IDLE_SHARE: usize = 20;
