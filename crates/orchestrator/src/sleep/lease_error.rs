//! The errors of a lease request, as routers receive them.

use std::time::Duration;

use protocol::problem::Code;

use crate::driver::DriverError;

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LeaseError {
    pub code: Code,
    /// A sentence for a person.
    pub detail: String,
    pub retry_after: Option<Duration>,
    /// The number of wakes, or requests, before this one; `None` where the request does not wait.
    pub queue_position: Option<usize>,
}

/// The shortest time until a refused caller requests again.
const MIN_RETRY_AFTER: Duration = Duration::from_secs(1);

const STOPPED: &str = "Its owner stopped it. No request wakes it: start it in the admin.";

impl LeaseError {
    fn new(code: Code, detail: impl Into<String>) -> Self {
        Self { code, detail: detail.into(), retry_after: None, queue_position: None }
    }

    pub(super) fn unknown_tenant(error: DriverError) -> Self {
        Self::new(Code::NoSuchTenant, error.detail)
    }

    pub(super) fn not_listed(error: DriverError) -> Self {
        let retry_after = Some(MIN_RETRY_AFTER);
        Self { retry_after, ..Self::new(error.code.problem_code(), error.detail) }
    }

    pub(super) fn shutting_down() -> Self {
        let detail = "The orchestrator is being restarted. Request again.";
        Self { retry_after: Some(MIN_RETRY_AFTER), ..Self::new(Code::Leaving, detail) }
    }

    pub(super) fn stopped() -> Self {
        Self::new(Code::TenantStopped, STOPPED)
    }

    pub(super) fn not_running(reason: String) -> Self {
        Self::new(Code::TenantNotRunning, reason)
    }

    pub(super) fn wake_required() -> Self {
        let detail = "It sleeps, and this request does not wake it. Open it in a browser, or call it with Authorization.";
        Self::new(Code::WakeRequired, detail)
    }

    pub(super) fn waking(queue_position: usize) -> Self {
        let detail = format!("It is being woken; {queue_position} wakes are before it.");
        Self {
            retry_after: Some(retry_delay(queue_position, 0)),
            queue_position: Some(queue_position),
            ..Self::new(Code::Waking, detail)
        }
    }

    pub(super) fn wake_queue_full(waiters: usize, seed: u64) -> Self {
        let detail = format!("{waiters} requests wait for a wake already. Try again later.");
        Self {
            retry_after: Some(retry_delay(waiters, seed)),
            queue_position: Some(waiters),
            ..Self::new(Code::WakeQueueFull, detail)
        }
    }

    pub(super) fn wake_failed(reason: String) -> Self {
        Self::new(Code::WakeFailed, reason)
    }

    pub(super) fn readiness_timeout(timeout: Duration) -> Self {
        let seconds = timeout.as_secs();
        Self::wake_failed(format!(
            "It was started, and its services have not all responded within {seconds} s. Look at its log."
        ))
    }

    /// The sentence for a tenant that its owner stopped.
    pub(super) fn stopped_reason() -> String {
        STOPPED.to_owned()
    }
}

/// Returns a delay that grows with the requests before, with a jitter by `seed`: callers must not all retry at once.
fn retry_delay(before: usize, seed: u64) -> Duration {
    const JITTER_SECONDS: u64 = 5;
    let queue_seconds = u64::try_from(before / 10).unwrap_or(u64::MAX).min(20);
    // Neighbours in the order of refusal get different times.
    MIN_RETRY_AFTER + Duration::from_secs(queue_seconds + seed.wrapping_mul(7) % JITTER_SECONDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_retry_delay_grows_with_the_queue_and_has_a_jitter() {
        let seconds = |before, seed| retry_delay(before, seed).as_secs();
        assert_eq!((seconds(0, 0), seconds(100, 0), seconds(100_000, 0)), (1, 11, 21));
        let five: std::collections::BTreeSet<_> = (0..5).map(|seed| seconds(0, seed)).collect();
        assert_eq!(five.len(), 5);
    }
}
