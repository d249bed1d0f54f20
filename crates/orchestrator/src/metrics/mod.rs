//! Metrics in Prometheus's text format.

mod exposition;
pub(crate) mod sleep;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use protocol::orchestrator::{ObservedTenant, Phase};

pub(crate) use self::exposition::Bounded;
use self::exposition::{Exposition, Kind};
use crate::driver::DriverError;

/// Counters of operations and of the engine.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    applies: AtomicU64,
    deletes: AtomicU64,
    ready_starts: AtomicU64,
    resyncs: AtomicU64,
    engine_is_up: AtomicU64,
    errors: Mutex<BTreeMap<&'static str, u64>>,
    pub(crate) sleep: sleep::SleepMetrics,
}

/// Values that are read at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    /// Live leases.
    pub(crate) leases: usize,
    /// Starts under way at the engine for wakes.
    pub(crate) starts: usize,
    pub(crate) bounded: Vec<Bounded>,
}

const PHASES: [(Phase, &str); 7] = [
    (Phase::Created, "created"),
    (Phase::Starting, "starting"),
    (Phase::Ready, "ready"),
    (Phase::Frozen, "frozen"),
    (Phase::Sleeping, "sleeping"),
    (Phase::Stopped, "stopped"),
    (Phase::Exited, "exited"),
];

impl Metrics {
    pub(crate) fn count_apply<T>(&self, outcome: &Result<T, DriverError>) {
        self.applies.fetch_add(1, Ordering::Relaxed);
        self.count_error(outcome);
    }

    pub(crate) fn count_delete<T>(&self, outcome: &Result<T, DriverError>) {
        self.deletes.fetch_add(1, Ordering::Relaxed);
        self.count_error(outcome);
    }

    pub(crate) fn count_ready(&self) {
        self.ready_starts.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn count_resync(&self) {
        self.resyncs.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn set_engine_up(&self, is_up: bool) {
        self.engine_is_up.store(u64::from(is_up), Ordering::Relaxed);
    }

    fn count_error<T>(&self, outcome: &Result<T, DriverError>) {
        if let Err(error) = outcome {
            let mut errors = self.errors.lock().unwrap_or_else(PoisonError::into_inner);
            *errors.entry(error.code.as_str()).or_default() += 1;
        }
    }

    pub(crate) fn text(&self, tenants: &[ObservedTenant], gauges: &Gauges) -> String {
        let mut text = Exposition::default();
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        text.gauge(
            "cial_engine_up",
            "1 while the container engine responds.",
            read(&self.engine_is_up),
        );
        text.family("cial_tenants", Kind::Gauge, "Tenants by phase.");
        for (phase, word) in PHASES {
            let count = tenants.iter().filter(|t| t.phase == phase).count();
            text.sample("cial_tenants", &format!("{{phase=\"{word}\"}}"), count);
        }
        let counters = [
            ("cial_applies_total", "Apply requests completed.", &self.applies),
            ("cial_deletes_total", "Delete requests completed.", &self.deletes),
            ("cial_ready_total", "Starts that became ready.", &self.ready_starts),
            ("cial_resyncs_total", "Complete listings of the engine's containers.", &self.resyncs),
        ];
        for (name, help, counter) in counters {
            text.family(name, Kind::Counter, help);
            text.sample(name, "", read(counter));
        }
        let name = "cial_operation_errors_total";
        text.family(name, Kind::Counter, "Operations that failed, by error code.");
        for (code, count) in self.errors.lock().unwrap_or_else(PoisonError::into_inner).iter() {
            text.sample(name, &format!("{{code=\"{code}\"}}"), count);
        }
        text.gauge("cial_leases", "Live leases.", gauges.leases);
        text.gauge(
            "cial_starts_in_flight",
            "Starts under way at the engine for wakes.",
            gauges.starts,
        );
        text.bounded(&gauges.bounded);
        self.sleep.write(&mut text);
        text.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::DriverErrorCode;

    #[test]
    fn the_whole_text() {
        let metrics = Metrics::default();
        metrics.count_apply::<()>(&Err(DriverError::new(DriverErrorCode::ImageMissing, "")));
        metrics.count_resync();
        let calls = |kind, current| Bounded::engine_calls(kind, current, 4);
        let queue = Bounded::new("cial_wake_queue", "Queued wakes", 1, 512);
        let bounded = vec![calls("start", 1), calls("thaw", 0), queue];
        insta::assert_snapshot!(metrics.text(&[], &Gauges { leases: 3, starts: 1, bounded }));
    }
}
