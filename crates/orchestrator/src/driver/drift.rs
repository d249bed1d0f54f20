//! The ways in which a container can differ from its spec, and a sentence that describes them.
//! Pure.

use std::collections::BTreeSet;

use protocol::orchestrator::Drift;
use protocol::spec::Limits;

/// Limits in the engine's units, as an inspection shows them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppliedLimits {
    /// Billionths of a CPU.
    pub nano_cpus: i64,
    pub memory_bytes: i64,
    /// Memory and swap together.
    pub memory_swap_bytes: i64,
    pub pids: i64,
}

impl From<Limits> for AppliedLimits {
    fn from(limits: Limits) -> Self {
        let memory_bytes = i64::try_from(limits.memory_bytes).unwrap_or(i64::MAX);
        Self {
            nano_cpus: i64::from(limits.cpu_millis) * 1_000_000,
            memory_bytes,
            // Equal to memory: a tenant gets no swap.
            memory_swap_bytes: memory_bytes,
            pids: i64::from(limits.pids),
        }
    }
}

/// Describes for a person how a container differs from its spec; `None` when it does not.
pub fn describe_drift(drift: &BTreeSet<Drift>) -> Option<String> {
    let parts: Vec<_> = drift.iter().map(|drift| drift.describe()).collect();
    if parts.is_empty() {
        return None;
    }
    let parts = parts.join("; ");
    Some(format!("Its container differs from its settings: {parts}. The next start corrects this."))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn drift_is_described_in_one_sentence() {
        assert_eq!(describe_drift(&BTreeSet::new()), None);
        let drift = BTreeSet::from([Drift::Limits, Drift::Network]);
        insta::assert_snapshot!(describe_drift(&drift).unwrap(), @"Its container differs from its settings: it is not attached to its own network, or to that network only; its limits were changed on the engine. The next start corrects this.");
    }

    #[test]
    fn swap_is_bounded_by_the_memory_limit() {
        let applied = AppliedLimits::from(Limits::default());
        assert_eq!(applied.memory_bytes, applied.memory_swap_bytes);
    }
}
