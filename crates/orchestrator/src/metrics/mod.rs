//! Figures in Prometheus's text form.

pub(crate) mod sleep;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use protocol::orchestrator::{ObservedTenant, Phase};

use crate::driver::Refusal;

#[derive(Debug, Default)]
pub struct Counters {
    applies: AtomicU64,
    deletes: AtomicU64,
    readied: AtomicU64,
    sweeps: AtomicU64,
    pub(crate) engine_up: AtomicU64,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    pub sleep: sleep::SleepCounters,
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

impl Counters {
    pub(crate) fn applied<T>(&self, outcome: &Result<T, Refusal>) {
        self.applies.fetch_add(1, Ordering::Relaxed);
        self.refused(outcome);
    }

    pub(crate) fn deleted<T>(&self, outcome: &Result<T, Refusal>) {
        self.deletes.fetch_add(1, Ordering::Relaxed);
        self.refused(outcome);
    }

    pub(crate) fn ready(&self) {
        self.readied.fetch_add(1, Ordering::Relaxed);
    }

    pub(crate) fn swept(&self) {
        self.sweeps.fetch_add(1, Ordering::Relaxed);
    }

    fn refused<T>(&self, outcome: &Result<T, Refusal>) {
        if let Err(refusal) = outcome {
            let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
            *refusals.entry(refusal.code.as_str()).or_default() += 1;
        }
    }

    pub fn text(&self, tenants: &[ObservedTenant]) -> String {
        let mut text = String::new();
        let mut figure = |name: &str, kind: &str, help: &str, rows: &[(String, u64)]| {
            // Writing to a String does not fail.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
            for (labels, value) in rows {
                let _ = writeln!(text, "{name}{labels} {value}");
            }
        };
        let read = |counter: &AtomicU64| vec![(String::new(), counter.load(Ordering::Relaxed))];
        figure("cial_engine_up", "gauge", "1 while the engine answers.", &read(&self.engine_up));
        let phases = PHASES.map(|(phase, word)| {
            let count = tenants.iter().filter(|t| t.phase == phase).count();
            (format!("{{phase=\"{word}\"}}"), u64::try_from(count).unwrap_or(u64::MAX))
        });
        figure("cial_tenants", "gauge", "Tenants by phase.", &phases);
        figure("cial_applies_total", "counter", "Applies answered.", &read(&self.applies));
        figure("cial_deletes_total", "counter", "Deletes answered.", &read(&self.deletes));
        figure("cial_ready_total", "counter", "Starts that got ready.", &read(&self.readied));
        figure(
            "cial_sweeps_total",
            "counter",
            "Complete lists of the engine.",
            &read(&self.sweeps),
        );
        let refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
        let refusals: Vec<_> =
            refusals.iter().map(|(code, n)| (format!("{{code=\"{code}\"}}"), *n)).collect();
        figure("cial_refusals_total", "counter", "Operations refused, by code.", &refusals);
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::driver::Code;

    #[test]
    fn the_whole_text() {
        let counters = Counters::default();
        counters.applied::<()>(&Err(Refusal::new(Code::ImageMissing, "")));
        counters.swept();
        insta::assert_snapshot!(counters.text(&[]));
    }
}
