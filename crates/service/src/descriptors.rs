//! The limit of open files of a process, and its division. What must always work is reserved first; connections of
//! callers get the rest.

pub use connect::TooFewDescriptors;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// Fewer connections of callers are not worth a start.
pub const MIN_CONNECTIONS: usize = 64;

/// Raises the soft limit to the hard limit and returns the limit in force. Child processes inherit the limit.
pub fn raise_open_file_limit() -> usize {
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    let current = match setrlimit(Resource::Nofile, raised) {
        Ok(()) => limit.maximum,
        Err(_error) => {
            #[cfg(feature = "control")]
            tracing::warn!(error = %_error, ?limit, "raising the open file limit failed");
            limit.current
        }
    };
    current.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// Returns the limit of open files, and the number of open ones where the system reports it.
pub fn open_files() -> (usize, Option<usize>) {
    let limit = getrlimit(Resource::Nofile).current;
    let limit = limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX);
    let entries = std::fs::read_dir("/proc/self/fd").ok();
    // One entry is the directory that is being read.
    (limit, entries.map(|entries| entries.count().saturating_sub(1)))
}

/// Returns how many connections fit beside `reserved` descriptors, when each holds `per_connection` of them.
///
/// # Errors
/// When fewer than [`MIN_CONNECTIONS`] fit.
pub fn connection_limit(
    limit: usize,
    reserved: usize,
    per_connection: usize,
) -> Result<usize, TooFewDescriptors> {
    let connections = limit.saturating_sub(reserved) / per_connection.max(1);
    if connections < MIN_CONNECTIONS {
        let minimum = reserved + MIN_CONNECTIONS * per_connection.max(1);
        return Err(TooFewDescriptors { limit, minimum });
    }
    Ok(connections)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_get_the_rest_and_a_low_limit_is_refused() {
        let error = connection_limit(100, 40, 2).unwrap_err();
        assert_eq!((error.limit, error.minimum), (100, 168));
        insta::assert_snapshot!(error, @"the limit of open files is 100, and at least 168 are needed; raise it with `ulimit -n 168`, or `ulimits: nofile` of its container");
        assert_eq!(connection_limit(168, 40, 2), Ok(MIN_CONNECTIONS));
        assert_eq!(connection_limit(1_040, 40, 2), Ok(500));
    }

    #[test]
    fn a_low_soft_limit_is_raised_to_the_hard_limit() {
        let maximum = getrlimit(Resource::Nofile).maximum;
        setrlimit(Resource::Nofile, Rlimit { current: Some(256), maximum }).unwrap();
        raise_open_file_limit();
        assert_eq!(getrlimit(Resource::Nofile).current, maximum);
    }

    #[test]
    fn the_open_files_are_within_the_limit() {
        let limit = raise_open_file_limit();
        let (reported, open) = open_files();
        assert_eq!(reported, limit);
        assert!((1..=limit).contains(&open.unwrap()));
    }
}
