//! The router's only clock: milliseconds since the process started.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use lease::{Millis, Moment};

static START: LazyLock<Instant> = LazyLock::new(read_clock);

/// Never 0: `Moment(0)` means "never".
pub(crate) fn now() -> Moment {
    let passed = read_clock().saturating_duration_since(*START);
    Moment(passed.as_secs() * 1_000 + u64::from(passed.subsec_millis()) + 1)
}

#[expect(clippy::disallowed_methods, reason = "the one place where the router reads the clock")]
fn read_clock() -> Instant {
    Instant::now()
}

/// Returns a duration in whole milliseconds.
pub(crate) fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}
