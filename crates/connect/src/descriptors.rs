//! The error of a process that may open too few descriptors.

use std::fmt;

/// The limit of open files is too low to serve at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TooFewDescriptors {
    pub limit: usize,
    pub minimum: usize,
}

impl fmt::Display for TooFewDescriptors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { limit, minimum } = self;
        write!(
            f,
            "the limit of open files is {limit}, and at least {minimum} are needed; raise it with `ulimit -n {minimum}`, or `ulimits: nofile` of its container"
        )
    }
}

impl std::error::Error for TooFewDescriptors {}
