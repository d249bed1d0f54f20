//! Metrics of busy checks, sleep and wake.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use protocol::sleep::IdleState;

use super::exposition::{Exposition, Kind};

#[derive(Debug, Default)]
pub(crate) struct SleepMetrics(Mutex<Inner>);

#[derive(Debug, Default)]
struct Inner {
    /// By family and labels.
    counts: BTreeMap<(Family, String), u64>,
    /// By labels, without braces.
    wake_seconds: BTreeMap<String, Histogram>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Family {
    Wakes,
    Sleeps,
    BusyChecks,
    WakeQueueFull,
    StateWrites,
}

impl Family {
    const ALL: [Self; 5] =
        [Self::Wakes, Self::Sleeps, Self::BusyChecks, Self::WakeQueueFull, Self::StateWrites];

    const fn name_and_help(self) -> (&'static str, &'static str) {
        match self {
            Self::Wakes => ("cial_wakes_total", "Wakes by idle state and result."),
            Self::Sleeps => ("cial_sleeps_total", "Freezes and stops for idleness by result."),
            Self::BusyChecks => ("cial_busy_checks_total", "Busy checks before sleep by response."),
            Self::WakeQueueFull => {
                ("cial_wake_queue_full_total", "Lease requests refused because the queue was full.")
            }
            Self::StateWrites => {
                ("cial_state_writes_total", "State files written to CIAL_STATE_DIR.")
            }
        }
    }
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
        self.count(Family::Wakes, format!("{{from=\"{}\",result=\"{result}\"}}", label(from)));
    }

    pub(crate) fn count_suspend(&self, to: IdleState, result: SuspendResult) {
        let result = match result {
            SuspendResult::Asleep => "asleep",
            SuspendResult::KeptAwake => "kept_awake",
            SuspendResult::Failed => "failed",
        };
        self.count(Family::Sleeps, format!("{{depth=\"{}\",result=\"{result}\"}}", label(to)));
    }

    pub(crate) fn count_busy_check(&self, response: BusyResponse) {
        let response = match response {
            BusyResponse::Busy => "busy",
            BusyResponse::Idle => "idle",
            BusyResponse::None => "none",
        };
        self.count(Family::BusyChecks, format!("{{response=\"{response}\"}}"));
    }

    pub(crate) fn count_wake_queue_full(&self) {
        self.count(Family::WakeQueueFull, String::new());
    }

    pub(crate) fn count_state_write(&self) {
        self.count(Family::StateWrites, String::new());
    }

    pub(crate) fn record_wake_time(&self, from: IdleState, part: WakePart, duration: Duration) {
        let part = match part {
            WakePart::Queue => "queue",
            WakePart::Engine => "engine",
            WakePart::Boot => "boot",
            WakePart::FirstByte => "first_byte",
            WakePart::Total => "total",
        };
        let labels = format!("from=\"{}\",phase=\"{part}\"", label(from));
        self.with(|inner| inner.wake_seconds.entry(labels).or_default().add(duration));
    }

    pub(super) fn write(&self, text: &mut Exposition) {
        self.with(|inner| {
            for family in Family::ALL {
                let (name, help) = family.name_and_help();
                text.family(name, Kind::Counter, help);
                let of_family = inner.counts.iter().filter(|((f, _), _)| *f == family);
                for ((_, labels), count) in of_family {
                    text.sample(name, labels, count);
                }
            }
            let name = "cial_wake_seconds";
            text.family(name, Kind::Histogram, "Duration of wakes by idle state and phase.");
            for (labels, histogram) in &inner.wake_seconds {
                histogram.write(text, name, labels);
            }
        });
    }

    fn count(&self, family: Family, labels: String) {
        self.with(|inner| *inner.counts.entry((family, labels)).or_default() += 1);
    }

    fn with<R>(&self, work: impl FnOnce(&mut Inner) -> R) -> R {
        work(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
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

#[derive(Debug, Default)]
struct Histogram {
    /// Cumulative: the number of durations up to the bound at the same index.
    buckets: [u64; BOUNDS.len()],
    count: u64,
    sum: Duration,
}

impl Histogram {
    fn add(&mut self, duration: Duration) {
        let seconds = duration.as_secs_f64();
        for (bucket, bound) in self.buckets.iter_mut().zip(BOUNDS) {
            *bucket += u64::from(seconds <= bound);
        }
        self.count += 1;
        self.sum += duration;
    }

    fn write(&self, text: &mut Exposition, name: &str, labels: &str) {
        let bucket = format!("{name}_bucket");
        for (count, bound) in self.buckets.iter().zip(BOUNDS) {
            text.sample(&bucket, &format!("{{{labels},le=\"{bound}\"}}"), count);
        }
        text.sample(&bucket, &format!("{{{labels},le=\"+Inf\"}}"), self.count);
        text.sample(&format!("{name}_sum"), &format!("{{{labels}}}"), self.sum.as_secs_f64());
        text.sample(&format!("{name}_count"), &format!("{{{labels}}}"), self.count);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_whole_text() {
        let metrics = SleepMetrics::default();
        metrics.count_wake(IdleState::Sleeping, true);
        metrics.count_wake(IdleState::Sleeping, true);
        metrics.count_wake(IdleState::Frozen, false);
        metrics.count_suspend(IdleState::Frozen, SuspendResult::Asleep);
        metrics.count_suspend(IdleState::Sleeping, SuspendResult::KeptAwake);
        metrics.count_busy_check(BusyResponse::None);
        metrics.count_wake_queue_full();
        metrics.count_state_write();
        metrics.record_wake_time(IdleState::Sleeping, WakePart::Engine, Duration::from_millis(180));
        metrics.record_wake_time(IdleState::Sleeping, WakePart::Engine, Duration::from_secs(60));
        let mut text = Exposition::default();
        metrics.write(&mut text);
        insta::assert_snapshot!(text.finish());
    }
}
