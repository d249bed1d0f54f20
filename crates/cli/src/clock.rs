//! The clocks of this machine. Everything else takes the time as an argument.

use std::time::{Instant, SystemTime};

use protocol::Timestamp;

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn now() -> Timestamp {
    SystemTime::now().into()
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
pub(crate) fn instant() -> Instant {
    Instant::now()
}
