//! The clock of tests and benches.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

#[expect(clippy::disallowed_methods, reason = "tests and benches measure real time")]
pub fn now() -> Instant {
    Instant::now()
}

/// Time since 1970.
#[expect(clippy::disallowed_methods, reason = "tokens and engine events carry real time")]
pub fn unix_time() -> Duration {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default()
}
