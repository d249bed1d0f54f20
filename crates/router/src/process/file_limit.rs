//! The limit of open files: a client takes two descriptors, and the usual soft limit is 1,024.

use proxy::{DescriptorBudget, DescriptorDemand, TooFewDescriptors};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Descriptors that are never given to clients: listeners, runtimes, files, the internal listener, the connections to
/// app-api, and the calls about leases.
const RESERVED: usize = 96;
const RESERVED_PER_THREAD: usize = 8;

/// Shares out the limit of open files of this process.
///
/// # Errors
/// The limit leaves too few seats for `threads`.
pub(crate) fn budget(threads: usize) -> Result<DescriptorBudget, TooFewDescriptors> {
    let limit = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let reserved = RESERVED + RESERVED_PER_THREAD * threads;
    DescriptorDemand {
        limit,
        reserved,
        threads,
        // Idle connections are bounded in total: a router has as many upstreams as tenants.
        upstreams: 1,
        connections: MAX_CONNECTIONS_PER_THREAD,
        idle_per_upstream: usize::try_from(limit).unwrap_or(usize::MAX)
            / threads.max(1)
            / IDLE_SHARE,
    }
    .budget()
}

/// More connections on one thread would only wait for each other.
const MAX_CONNECTIONS_PER_THREAD: usize = 16_384;
/// One in this many descriptors is for idle connections to tenants.
const IDLE_SHARE: usize = 20;

/// Raises the soft limit to the hard limit. Child processes inherit the limit.
pub(crate) fn raise_to_hard_limit() {
    let Rlimit { current, maximum } = getrlimit(Resource::Nofile);
    if let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: maximum, maximum }) {
        tracing::warn!(%error, ?current, ?maximum, "raising the open file limit failed");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_low_soft_limit_is_raised_to_the_hard_limit() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
        raise_to_hard_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }
}
