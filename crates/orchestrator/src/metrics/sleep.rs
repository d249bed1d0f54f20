//! Metrics of busy checks, sleep and wake.

use std::time::Duration;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use prometheus_client::registry::Registry;
use protocol::sleep::IdleState;
use service::metrics::{Described, Labels};

use super::CounterFamily;

#[derive(Debug)]
pub(crate) struct SleepMetrics {
    wakes: CounterFamily<2>,
    sleeps: CounterFamily<2>,
    busy_checks: CounterFamily<1>,
    wake_queue_full: Counter,
    state_writes: Counter,
    wake_seconds: Described<Family<Labels<2>, Histogram>>,
}

/// A part of a wake's duration.
#[derive(Clone, Copy, Debug)]
pub(crate) enum WakePart {
    Queue,
    Engine,
    Boot,
    FirstByte,
    Total,
}

/// A tenant's response to a busy check.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BusyResponse {
    Busy,
    Idle,
    None,
}

/// The result of a freeze or a stop for idleness.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SuspendResult {
    Asleep,
    /// A lease was requested meanwhile, or work inside is busy.
    KeptAwake,
    Failed,
}

impl SleepMetrics {
    pub(crate) fn count_wake(&self, from: IdleState, is_ready: bool) {
        let result = if is_ready { "ready" } else { "failed" };
        self.wakes.0.get_or_create(&[("from", label(from)), ("result", result)]).inc();
    }

    pub(crate) fn count_suspend(&self, to: IdleState, result: SuspendResult) {
        let result = match result {
            SuspendResult::Asleep => "asleep",
            SuspendResult::KeptAwake => "kept_awake",
            SuspendResult::Failed => "failed",
        };
        self.sleeps.0.get_or_create(&[("depth", label(to)), ("result", result)]).inc();
    }

    pub(crate) fn count_busy_check(&self, response: BusyResponse) {
        let response = match response {
            BusyResponse::Busy => "busy",
            BusyResponse::Idle => "idle",
            BusyResponse::None => "none",
        };
        self.busy_checks.0.get_or_create(&[("response", response)]).inc();
    }

    pub(crate) fn count_wake_queue_full(&self) {
        self.wake_queue_full.inc();
    }

    pub(crate) fn count_state_write(&self) {
        self.state_writes.inc();
    }

    pub(crate) fn record_wake_time(&self, from: IdleState, part: WakePart, duration: Duration) {
        let part = match part {
            WakePart::Queue => "queue",
            WakePart::Engine => "engine",
            WakePart::Boot => "boot",
            WakePart::FirstByte => "first_byte",
            WakePart::Total => "total",
        };
        let labels = [("from", label(from)), ("phase", part)];
        self.wake_seconds.0.get_or_create(&labels).observe(duration.as_secs_f64());
    }

    pub(super) fn register(&self, registry: &mut Registry) {
        registry.register("wakes", "Wakes by idle state and result", self.wakes.clone());
        let help = "Freezes and stops for idleness by result";
        registry.register("sleeps", help, self.sleeps.clone());
        let help = "Busy checks before sleep by response";
        registry.register("busy_checks", help, self.busy_checks.clone());
        let help = "Lease requests refused because the queue was full";
        registry.register("wake_queue_full", help, self.wake_queue_full.clone());
        let help = "State files written to CIAL_STATE_DIR";
        registry.register("state_writes", help, self.state_writes.clone());
        let help = "Duration of wakes by idle state and phase";
        registry.register("wake_seconds", help, self.wake_seconds.clone());
    }
}

impl Default for SleepMetrics {
    fn default() -> Self {
        Self {
            wakes: CounterFamily::default(),
            sleeps: CounterFamily::default(),
            busy_checks: CounterFamily::default(),
            wake_queue_full: Counter::default(),
            state_writes: Counter::default(),
            wake_seconds: Described(Family::new_with_constructor(|| Histogram::new(BOUNDS))),
        }
    }
}

const fn label(state: IdleState) -> &'static str {
    match state {
        IdleState::Frozen => "frozen",
        IdleState::Sleeping => "sleeping",
    }
}

/// Upper bounds in seconds, from a thaw's milliseconds to the boot timeout.
const BOUNDS: [f64; 13] =
    [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 45.0];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text() {
        let metrics = SleepMetrics::default();
        metrics.count_wake(IdleState::Sleeping, true);
        metrics.count_wake(IdleState::Sleeping, true);
        metrics.count_suspend(IdleState::Frozen, SuspendResult::Asleep);
        metrics.count_busy_check(BusyResponse::None);
        metrics.count_wake_queue_full();
        metrics.count_state_write();
        metrics.record_wake_time(IdleState::Sleeping, WakePart::Engine, Duration::from_millis(180));
        metrics.record_wake_time(IdleState::Sleeping, WakePart::Engine, Duration::from_secs(60));
        insta::assert_snapshot!(text(&metrics));
        // A family exports its label sets in no order.
        metrics.count_wake(IdleState::Frozen, false);
        metrics.count_suspend(IdleState::Sleeping, SuspendResult::KeptAwake);
        let text = text(&metrics);
        for sample in [
            "cial_wakes_total{from=\"frozen\",result=\"failed\"} 1\n",
            "cial_wakes_total{from=\"sleeping\",result=\"ready\"} 2\n",
            "cial_sleeps_total{depth=\"sleeping\",result=\"kept_awake\"} 1\n",
        ] {
            assert!(text.contains(sample), "{text}");
        }
    }

    fn text(metrics: &SleepMetrics) -> String {
        let mut registry = Registry::with_prefix("cial");
        metrics.register(&mut registry);
        service::metrics::render(&registry)
    }
}
