//! Metrics in Prometheus's text format.

pub(crate) mod sleep;
pub(crate) mod tenants;

use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use protocol::orchestrator::{ObservedTenant, Phase};
use service::metrics::{self, Bounded, Described, Labels, Samples};

use crate::driver::DriverError;

/// Counters of operations and of the engine.
#[derive(Debug, Default)]
pub(crate) struct Metrics {
    applies: Counter,
    deletes: Counter,
    ready_starts: Counter,
    resyncs: Counter,
    engine_is_up: Gauge,
    errors: CounterFamily<1>,
    pub(crate) sleep: sleep::SleepMetrics,
}

type CounterFamily<const N: usize> = Described<Family<Labels<N>, Counter>>;

/// Values that are read at the moment of a scrape.
#[derive(Clone, Debug, Default)]
pub(crate) struct Gauges {
    /// Live leases.
    pub(crate) leases: usize,
    /// Starts under way at the engine for wakes.
    pub(crate) starts: usize,
    /// Calls at the engine by their kind.
    pub(crate) engine_calls: Vec<(&'static str, Bounded)>,
    pub(crate) bounded: Vec<BoundedGauge>,
}

/// A bounded resource that has a metric of its own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct BoundedGauge {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) value: Bounded,
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
        self.applies.inc();
        self.count_error(outcome);
    }

    pub(crate) fn count_delete<T>(&self, outcome: &Result<T, DriverError>) {
        self.deletes.inc();
        self.count_error(outcome);
    }

    pub(crate) fn count_ready(&self) {
        self.ready_starts.inc();
    }

    pub(crate) fn count_resync(&self) {
        self.resyncs.inc();
    }

    pub(crate) fn set_engine_up(&self, is_up: bool) {
        self.engine_is_up.set(is_up.into());
    }

    fn count_error<T>(&self, outcome: &Result<T, DriverError>) {
        if let Err(error) = outcome {
            self.errors.0.get_or_create(&[("code", error.code.as_str())]).inc();
        }
    }

    pub(crate) fn text(&self, tenants: &[ObservedTenant], gauges: &Gauges) -> String {
        let mut registry = Registry::with_prefix("cial");
        let help = "1 while the container engine responds";
        registry.register("engine_up", help, self.engine_is_up.clone());
        let phases = PHASES.map(|(phase, label)| {
            ([("phase", label)], tenants.iter().filter(|t| t.phase == phase).count())
        });
        registry.register("tenants", "Tenants by phase", Samples::gauges(phases));
        for (name, help, counter) in [
            ("applies", "Apply requests completed", &self.applies),
            ("deletes", "Delete requests completed", &self.deletes),
            ("ready", "Starts that became ready", &self.ready_starts),
            ("resyncs", "Complete listings of the engine's containers", &self.resyncs),
        ] {
            registry.register(name, help, counter.clone());
        }
        let help = "Operations that failed, by error code";
        registry.register("operation_errors", help, self.errors.clone());
        gauges.register(&mut registry);
        self.sleep.register(&mut registry);
        metrics::render(&registry)
    }
}

impl Gauges {
    fn register(&self, registry: &mut Registry) {
        registry.register("leases", "Live leases", ConstGauge::new(self.leases));
        let help = "Starts under way at the engine for wakes";
        registry.register("starts_in_flight", help, ConstGauge::new(self.starts));
        let calls = self.engine_calls.iter().map(|(kind, calls)| ([("kind", *kind)], *calls));
        let calls: Vec<_> = calls.collect();
        Bounded::register_family(registry, "engine_calls", "Calls at the engine", &calls);
        for BoundedGauge { name, help, value } in &self.bounded {
            value.register(registry, name, help);
        }
    }
}

impl BoundedGauge {
    pub(crate) const fn new(
        name: &'static str,
        help: &'static str,
        current: usize,
        limit: usize,
    ) -> Self {
        Self { name, help, value: Bounded { current, limit } }
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
        let gauges = Gauges {
            leases: 3,
            starts: 1,
            engine_calls: vec![
                ("start", Bounded { current: 1, limit: 4 }),
                ("thaw", Bounded { current: 0, limit: 4 }),
            ],
            bounded: vec![BoundedGauge::new("wake_queue", "Queued wakes", 1, 512)],
        };
        insta::assert_snapshot!(metrics.text(&[], &gauges));
    }
}
