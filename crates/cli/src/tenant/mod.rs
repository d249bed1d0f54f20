//! Commands that take longer than one call: waiting for a state, following a log, running a command.

pub(crate) mod exec;
pub(crate) mod logs;
pub(crate) mod wait;
pub(crate) mod watch;
