//! Detects a crash loop: five exits without readiness in between, however slowly each fails, or ten of any kind within five
//! minutes. Pure.
//!
//! The count is stored with the tenant because a manual start resets the engine's own count. Only times of the
//! engine are compared with each other.

use std::time::Duration;

use protocol::Timestamp;
use protocol::orchestrator::{ObservedTenant, Phase};
use serde::{Deserialize, Serialize};

const MAX_UNREADY_EXITS: usize = 5;
const MAX_EXITS: usize = 10;
const CRASH_WINDOW: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Crashes {
    /// The container whose exits the field `exits` counts.
    container: String,
    exits: u32,
    /// The last exits without readiness, oldest first.
    #[serde(rename = "at")]
    unready: Vec<Timestamp>,
    /// The last exits of any kind: a tenant that becomes ready and exits again and again is in a crash loop, too.
    #[serde(rename = "any")]
    all: Vec<Timestamp>,
}

impl Crashes {
    /// The count after an observation.
    #[must_use]
    pub fn observe(&self, observed: &ObservedTenant) -> Self {
        let mut next = self.clone();
        let known = if self.container == observed.container_id { self.exits } else { 0 };
        // A smaller number means that the engine started a new count.
        let fresh = observed.exits.checked_sub(known).unwrap_or(observed.exits);
        next.container.clone_from(&observed.container_id);
        next.exits = observed.exits;
        if let Some(exit) = observed.last_exit.as_ref().filter(|_| fresh > 0) {
            if exit.was_ready {
                next.unready.clear();
            } else {
                add_exits(&mut next.unready, exit.at, fresh, MAX_UNREADY_EXITS);
            }
            add_exits(&mut next.all, exit.at, fresh, MAX_EXITS);
        }
        match observed.phase {
            Phase::Ready | Phase::Frozen | Phase::Sleeping => next.unready.clear(),
            Phase::Created | Phase::Starting | Phase::Stopped | Phase::Exited => {}
        }
        next
    }

    /// Starts a new count. Exits that were counted before are not counted again.
    #[must_use]
    pub fn reset(&self) -> Self {
        Self { unready: Vec::new(), all: Vec::new(), ..self.clone() }
    }

    pub fn is_crash_loop(&self) -> bool {
        self.is_never_ready() || is_burst(&self.all)
    }

    /// Whether the crash loop had no readiness in between.
    pub fn is_never_ready(&self) -> bool {
        self.unready.len() >= MAX_UNREADY_EXITS
    }
}

/// Adds `fresh` exits, the last of them at `at`, and keeps the last `most` exits.
fn add_exits(exits: &mut Vec<Timestamp>, at: Timestamp, fresh: u32, most: usize) {
    if exits.last().is_none_or(|last| *last < at) {
        exits.extend(std::iter::repeat_n(at, (fresh as usize).min(most)));
    }
    let surplus = exits.len().saturating_sub(most);
    exits.drain(..surplus);
}

fn is_burst(exits: &[Timestamp]) -> bool {
    let (Some(first), Some(last)) = (exits.first(), exits.last()) else { return false };
    exits.len() >= MAX_EXITS && (*last - *first).to_std().unwrap_or_default() <= CRASH_WINDOW
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::orchestrator::Exit;

    fn observed(phase: Phase) -> ObservedTenant {
        ObservedTenant {
            id: protocol::TenantId::new(uuid::Uuid::nil()),
            generation: 1,
            phase,
            container_id: "c".into(),
            container_port: None,
            upstream: None,
            lacks_spec: false,
            image_outdated: false,
            drift: std::collections::BTreeSet::new(),
            exits: 0,
            last_exit: None,
            reason: None,
            last_lines: None,
        }
    }

    fn exited(container: &str, exits: u32, at_second: i64, was_ready: bool) -> ObservedTenant {
        let at = Timestamp::from_timestamp(1_700_000_000 + at_second, 0).unwrap();
        let exit = Exit { at, code: 1, out_of_memory: false, was_ready };
        ObservedTenant {
            container_id: container.into(),
            exits,
            last_exit: Some(exit),
            ..observed(Phase::Exited)
        }
    }

    fn is_loop(observations: &[ObservedTenant]) -> bool {
        observations
            .iter()
            .fold(Crashes::default(), |held, observed| held.observe(observed))
            .is_crash_loop()
    }

    #[test]
    fn five_unready_exits_are_a_crash_loop_however_slow() {
        let every = |gap: i64| (1..=5).map(move |n| exited("c", n, i64::from(n) * gap, false));
        assert!(is_loop(&every(1).collect::<Vec<_>>()));
        assert!(is_loop(&every(3_600).collect::<Vec<_>>()), "a hook may fail after an hour");
        assert!(!is_loop(&every(10).take(4).collect::<Vec<_>>()));
        assert!(is_loop(&[exited("c", 5, 1, false)]), "five at one observation");
    }

    #[test]
    fn a_repeated_observation_counts_once() {
        let same = vec![exited("c", 1, 1, false); 9];
        assert!(!is_loop(&same));
    }

    #[test]
    fn readiness_in_between_resets_the_count() {
        let mut observations: Vec<_> =
            (1..=4).map(|n| exited("c", n, i64::from(n), false)).collect();
        observations.push(exited("c", 5, 5, true));
        assert!(!is_loop(&observations));
        observations.pop();
        observations.push(ObservedTenant { phase: Phase::Ready, ..exited("c", 4, 4, false) });
        observations.push(exited("c", 5, 6, false));
        assert!(!is_loop(&observations));
    }

    #[test]
    fn ten_exits_after_readiness_within_five_minutes_are_a_crash_loop() {
        let every = |gap: i64| {
            let exits = (1..=10).map(move |n| exited("c", n, i64::from(n) * gap, true));
            exits.flat_map(|exit| [exit.clone(), ObservedTenant { phase: Phase::Ready, ..exit }])
        };
        assert!(is_loop(&every(30).collect::<Vec<_>>()));
        assert!(!is_loop(&every(34).collect::<Vec<_>>()), "over more than five minutes");
        assert!(!is_loop(&every(10).take(18).collect::<Vec<_>>()), "nine");
        let all = every(10).fold(Crashes::default(), |held, observed| held.observe(&observed));
        assert!(!all.reset().is_crash_loop());
    }

    #[test]
    fn a_new_engine_count_or_container_continues_the_count() {
        let restarted: Vec<_> = [(1, 1), (2, 2), (1, 3), (2, 4), (3, 5)]
            .map(|(n, at)| exited("c", n, at, false))
            .into();
        assert!(is_loop(&restarted));
        let renamed: Vec<_> = ["a", "b", "c", "d", "e"]
            .iter()
            .zip(1..)
            .map(|(name, at)| exited(name, 1, at, false))
            .collect();
        assert!(is_loop(&renamed));
    }
}
