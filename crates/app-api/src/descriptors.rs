//! The budget of file descriptors. The database, the reconciler, webhooks and the internal listener come first: however
//! many browsers connect, tenants are reconciled and routers receive their routes.

use service::descriptors::{TooFewDescriptors, connection_limit, raise_open_file_limit};

use crate::db::connect::MAX_POOL_CONNECTIONS;
use crate::model::gateway::MAX_REPLIES;
use crate::reconcile::MAX_CONCURRENT_RUNS;
use crate::work::run::MAX_TENANTS;

/// Concurrent connections to each listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ConnectionLimits {
    pub public: usize,
    pub internal: usize,
    pub model: usize,
}

/// Standard streams, listeners, epoll, connections to the database outside the pool, the watch of the orchestrator,
/// deliveries of webhooks, mails.
const FIXED_DESCRIPTORS: usize = 64;
/// Some routers, each with one feed, and those who read the metrics.
const INTERNAL_CONNECTIONS: usize = 64;
/// More would only wait for each other.
const MAX_PUBLIC_CONNECTIONS: usize = 8_192;
/// A few more than replies, so that a tenant learns at once that all places are taken.
const MODEL_CONNECTIONS: usize = MAX_REPLIES + 16;
/// A request holds its own connection, and may hold a second one to the orchestrator.
const PER_PUBLIC_CONNECTION: usize = 2;

impl ConnectionLimits {
    /// Raises the soft limit of open files to the hard limit, and divides it.
    ///
    /// # Errors
    /// When the hard limit is below the minimum.
    pub fn from_process() -> Result<Self, TooFewDescriptors> {
        Self::new(raise_open_file_limit())
    }

    fn new(open_files: usize) -> Result<Self, TooFewDescriptors> {
        // A task in a tenant holds a connection to the orchestrator.
        let reserved = FIXED_DESCRIPTORS
            + MAX_POOL_CONNECTIONS
            + MAX_CONCURRENT_RUNS
            + MAX_TENANTS
            + INTERNAL_CONNECTIONS
            + MODEL_CONNECTIONS
            + MAX_REPLIES;
        let public = connection_limit(open_files, reserved, PER_PUBLIC_CONNECTION)?;
        Ok(Self {
            public: public.min(MAX_PUBLIC_CONNECTIONS),
            internal: INTERNAL_CONNECTIONS,
            model: MODEL_CONNECTIONS,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_of_open_files_bounds_the_connections() {
        let public = |open_files| ConnectionLimits::new(open_files).map(|limits| limits.public);
        assert_eq!(public(1_048_576), Ok(MAX_PUBLIC_CONNECTIONS));
        assert_eq!(public(1_024), Ok(306));
        assert_eq!(public(100), Err(TooFewDescriptors { limit: 100, minimum: 540 }));
        assert_eq!(public(540), Ok(64));
    }
}
