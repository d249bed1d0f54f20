//! How many connections fit into the limit of open files. Pure arithmetic; the caller reads `RLIMIT_NOFILE`.

pub use connect::TooFewDescriptors;

/// The descriptors that a process may open, and the uses that compete for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorDemand {
    /// `RLIMIT_NOFILE`: descriptors that the process may hold at once.
    pub limit: u64,
    /// Descriptors held besides proxied connections: listeners, the runtime, administration,
    /// connections to other services.
    pub reserved: usize,
    /// Threads that serve.
    pub threads: usize,
    /// Upstreams with idle connections per thread.
    pub upstreams: usize,
    /// Wanted client connections per thread. Each occupies two descriptors: the client's and the upstream's.
    pub connections: usize,
    /// Wanted idle connections per upstream and thread.
    pub idle_per_upstream: usize,
}

/// Bounds that cannot exhaust the descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DescriptorBudget {
    /// The value for [`Settings::max_connections`](crate::Settings).
    pub max_connections: usize,
    /// The value for [`Settings::max_idle_per_upstream`](crate::Settings).
    pub max_idle_per_upstream: usize,
}

/// Fewer client connections per thread are not worth serving.
const MIN_CONNECTIONS: usize = 16;
/// Idle connections get at most one in this many of the descriptors that are not reserved.
const IDLE_SHARE: usize = 4;

impl DescriptorDemand {
    /// Reduces the wanted bounds to the limit.
    ///
    /// # Errors
    /// Fails when fewer than 16 connections per thread fit beside the reserved descriptors.
    pub fn budget(&self) -> Result<DescriptorBudget, TooFewDescriptors> {
        let (threads, upstreams) = (self.threads.max(1), self.upstreams.max(1));
        let minimum = self.reserved + threads * (2 * MIN_CONNECTIONS + upstreams);
        let limit = usize::try_from(self.limit).unwrap_or(usize::MAX);
        if limit < minimum {
            return Err(TooFewDescriptors { limit, minimum });
        }
        let per_thread = (limit - self.reserved) / threads;
        let idle = (per_thread / IDLE_SHARE / upstreams).clamp(1, self.idle_per_upstream.max(1));
        let connections = (per_thread - idle * upstreams) / 2;
        Ok(DescriptorBudget {
            max_connections: connections.min(self.connections),
            max_idle_per_upstream: idle.min(self.idle_per_upstream),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const EDGE: DescriptorDemand = DescriptorDemand {
        limit: 1_048_576,
        reserved: 32,
        threads: 1,
        upstreams: 3,
        connections: 4_096,
        idle_per_upstream: 64,
    };

    #[test]
    fn a_high_limit_leaves_the_wanted_bounds() {
        let budget = DescriptorBudget { max_connections: 4_096, max_idle_per_upstream: 64 };
        assert_eq!(EDGE.budget(), Ok(budget));
        assert_eq!(DescriptorDemand { limit: u64::MAX, ..EDGE }.budget(), Ok(budget));
    }

    #[test]
    fn a_low_limit_reduces_them_and_a_lower_one_is_an_error() {
        let budget = |limit| DescriptorDemand { limit, ..EDGE }.budget();
        let reduced = DescriptorBudget { max_connections: 101, max_idle_per_upstream: 22 };
        assert_eq!(budget(300), Ok(reduced));
        assert_eq!(budget(66), Err(TooFewDescriptors { limit: 66, minimum: 67 }));
        assert!(budget(67).unwrap().max_connections >= 14);
    }

    proptest! {
        #[test]
        fn all_uses_together_stay_within_the_limit(
            limit in 0_u64..100_000, reserved in 0_usize..500, threads in 1_usize..16,
            upstreams in 1_usize..50, connections in 1_usize..20_000, idle_per_upstream in 1_usize..300,
        ) {
            let demand =
                DescriptorDemand { limit, reserved, threads, upstreams, connections, idle_per_upstream };
            if let Ok(budget) = demand.budget() {
                let per_thread = 2 * budget.max_connections + upstreams * budget.max_idle_per_upstream;
                prop_assert!((reserved + threads * per_thread) as u64 <= limit);
                prop_assert!(budget.max_connections >= 1);
            }
        }
    }
}
