//! Commands that take longer than one call: waiting for a state, following a log.

pub(crate) mod logs;
pub(crate) mod wait;
