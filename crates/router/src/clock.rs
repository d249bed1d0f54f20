//! The router's only clock: milliseconds since it started.

use std::sync::LazyLock;
use std::time::Instant;

use lease::Moment;

static START: LazyLock<Instant> = LazyLock::new(read);

/// Never 0: a moment of 0 is "never".
pub(crate) fn now() -> Moment {
    let passed = read().saturating_duration_since(*START);
    Moment(passed.as_secs() * 1_000 + u64::from(passed.subsec_millis()) + 1)
}

#[expect(clippy::disallowed_methods, reason = "the shell's one look at the clock")]
fn read() -> Instant {
    Instant::now()
}
