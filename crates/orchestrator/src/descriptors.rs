//! The budget of file descriptors, from `RLIMIT_NOFILE`.
//!
//! The engine's calls, busy checks and readiness probes come first. The rest is for connections to the API: however many
//! callers connect, tenants still sleep and wake.

use std::fmt;

use nix::sys::resource::{Resource, getrlimit, setrlimit};

use crate::metrics::Bounded;
use crate::operations::{MAX_BUSY_CHECKS, MAX_OTHER_CALLS};
use crate::sleep::SleepSettings;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescriptorBudget {
    /// `RLIMIT_NOFILE`.
    pub(crate) limit: usize,
    /// Concurrent connections to the API.
    pub(crate) connections: usize,
}

/// The limit is too low to serve at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct DescriptorError {
    limit: usize,
    minimum: usize,
}

/// Standard streams, listener, epoll, inotify, the stream of engine events, state files, followed logs.
const FIXED_DESCRIPTORS: usize = 64;
/// The least number of API connections that is worth a start: app-api, some routers, health checks.
const MIN_CONNECTIONS: usize = 64;

impl DescriptorBudget {
    /// Raises the soft limit to the hard limit, and divides it.
    ///
    /// # Errors
    /// [`DescriptorError`] when the hard limit is below the minimum; the system's error when it cannot be read.
    pub(crate) fn from_process(settings: &SleepSettings) -> anyhow::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let raised = soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok();
        let limit = if raised { hard } else { soft };
        Ok(Self::new(usize::try_from(limit).unwrap_or(usize::MAX), settings)?)
    }

    fn new(limit: usize, settings: &SleepSettings) -> Result<Self, DescriptorError> {
        let engine_calls = settings.concurrent_starts
            + settings.concurrent_thaws
            + settings.concurrent_suspends
            + MAX_OTHER_CALLS;
        // A call holds its connection to the engine, and one to the tenant. A busy check holds a path and a connection.
        let reserved = FIXED_DESCRIPTORS + 2 * engine_calls + 2 * MAX_BUSY_CHECKS;
        let connections = limit.saturating_sub(reserved);
        if connections < MIN_CONNECTIONS {
            return Err(DescriptorError { limit, minimum: reserved + MIN_CONNECTIONS });
        }
        Ok(Self { limit, connections })
    }
}

impl fmt::Display for DescriptorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, minimum } = self;
        write!(
            f,
            "the limit of open files is {limit}, and at least {minimum} are needed; raise it with `ulimit -n {minimum}`, or `ulimits: nofile` in compose.yml"
        )
    }
}

impl std::error::Error for DescriptorError {}

/// The descriptors that this process has open, and its limit; `None` where the system does not report them.
pub(crate) fn gauge() -> Option<Bounded> {
    let (limit, _) = getrlimit(Resource::RLIMIT_NOFILE).ok()?;
    let entries = std::fs::read_dir("/proc/self/fd").ok()?;
    // One entry is the directory that is being read.
    let current = entries.count().saturating_sub(1);
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    Some(Bounded::new("cial_descriptors", "Open file descriptors", current, limit))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_the_rest_and_a_low_limit_is_refused() {
        let settings = SleepSettings::DEFAULT;
        let error = DescriptorBudget::new(100, &settings).unwrap_err();
        let minimum = error.minimum;
        assert_eq!(DescriptorBudget::new(minimum - 1, &settings).unwrap_err().minimum, minimum);
        let budget = DescriptorBudget::new(minimum, &settings).unwrap();
        assert_eq!((budget.limit, budget.connections), (minimum, MIN_CONNECTIONS));
        let more = SleepSettings { concurrent_starts: 12, ..settings };
        assert_eq!(DescriptorBudget::new(minimum, &more).unwrap_err().minimum, minimum + 20);
        insta::assert_snapshot!(error.to_string(), @"the limit of open files is 100, and at least 332 are needed; raise it with `ulimit -n 332`, or `ulimits: nofile` in compose.yml");
    }
}
