//! The budget of file descriptors, from `RLIMIT_NOFILE`.
//!
//! The engine's calls, busy checks and readiness probes come first. The rest is for connections to the API: however many
//! callers connect, tenants still sleep and wake.

use service::descriptors::{
    TooFewDescriptors, connection_limit, open_files, raise_open_file_limit,
};

use crate::commands::CommandKind;
use crate::metrics::BoundedGauge;
use crate::operations::{MAX_BUSY_CHECKS, MAX_OTHER_CALLS};
use crate::sleep::SleepSettings;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescriptorBudget {
    /// `RLIMIT_NOFILE`.
    pub(crate) limit: usize,
    /// Concurrent connections to the API.
    pub(crate) connections: usize,
}

/// Standard streams, listener, epoll, inotify, the stream of engine events, state files, followed logs.
const FIXED_DESCRIPTORS: usize = 64;
impl DescriptorBudget {
    /// Raises the soft limit to the hard limit, and divides it.
    ///
    /// # Errors
    /// When the hard limit is below the minimum.
    pub(crate) fn from_process(settings: &SleepSettings) -> Result<Self, TooFewDescriptors> {
        Self::new(raise_open_file_limit(), settings)
    }

    fn new(limit: usize, settings: &SleepSettings) -> Result<Self, TooFewDescriptors> {
        let engine_calls = settings.concurrent_starts
            + settings.concurrent_thaws
            + settings.concurrent_suspends
            + MAX_OTHER_CALLS;
        // A call holds its connection to the engine, and one to the tenant. A busy check holds a path and a connection.
        // A command holds its connection to the engine.
        let commands = CommandKind::Person.limit() + CommandKind::Task.limit();
        let reserved = FIXED_DESCRIPTORS + 2 * engine_calls + 2 * MAX_BUSY_CHECKS + commands;
        let connections = connection_limit(limit, reserved, 1)?;
        Ok(Self { limit, connections })
    }
}

/// The descriptors that this process has open, and its limit; `None` where the system does not report them.
pub(crate) fn gauge() -> Option<BoundedGauge> {
    let (limit, current) = open_files();
    current.map(|current| BoundedGauge::new("descriptors", "Open file descriptors", current, limit))
}

#[cfg(test)]
mod tests {
    use service::descriptors::MIN_CONNECTIONS;

    use super::*;

    #[test]
    fn connections_get_the_rest_and_a_low_limit_is_refused() {
        let settings = SleepSettings::DEFAULT;
        let error = DescriptorBudget::new(100, &settings).unwrap_err();
        let minimum = error.minimum;
        assert_eq!((error.limit, minimum), (100, 492));
        assert_eq!(DescriptorBudget::new(minimum - 1, &settings).unwrap_err().minimum, minimum);
        let budget = DescriptorBudget::new(minimum, &settings).unwrap();
        assert_eq!((budget.limit, budget.connections), (minimum, MIN_CONNECTIONS));
        let more = SleepSettings { concurrent_starts: 12, ..settings };
        assert_eq!(DescriptorBudget::new(minimum, &more).unwrap_err().minimum, minimum + 20);
    }
}
