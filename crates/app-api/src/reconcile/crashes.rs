//! Counts the exits of a tenant: within five minutes five without readiness in between are enough, or ten of any kind.
//!
//! Counted here and kept with the tenant, since a start by hand resets the engine's own count. Only the engine
//! side's times are compared, with each other.

use std::time::Duration;

use protocol::Timestamp;
use protocol::orchestrator::{ObservedTenant, Phase};
use serde::{Deserialize, Serialize};

const ENOUGH: usize = 5;
const TOO_MANY: usize = 10;
const WITHIN: Duration = Duration::from_secs(300);

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Crashes {
    /// The container that `exits` belongs to.
    container: String,
    exits: u32,
    /// The last exits without readiness, oldest first.
    at: Vec<Timestamp>,
    /// The last exits of any kind: what gets ready and dies again and again is a loop, too.
    any: Vec<Timestamp>,
}

impl Crashes {
    /// The count after a look at the engine.
    #[must_use]
    pub fn after(&self, seen: &ObservedTenant) -> Self {
        let mut next = self.clone();
        let known = if self.container == seen.container_id { self.exits } else { 0 };
        // A smaller number is a new count, not a negative one.
        let fresh = seen.exits.checked_sub(known).unwrap_or(seen.exits);
        next.container.clone_from(&seen.container_id);
        next.exits = seen.exits;
        if let Some(exit) = seen.last_exit.as_ref().filter(|_| fresh > 0) {
            if exit.was_ready {
                next.at.clear();
            } else {
                count(&mut next.at, exit.at, fresh, ENOUGH);
            }
            count(&mut next.any, exit.at, fresh, TOO_MANY);
        }
        match seen.phase {
            Phase::Ready | Phase::Frozen | Phase::Sleeping => next.at.clear(),
            Phase::Created | Phase::Starting | Phase::Stopped | Phase::Exited => {}
        }
        next
    }

    /// The count begins again; what was counted stays counted.
    #[must_use]
    pub fn forgiven(&self) -> Self {
        Self { at: Vec::new(), any: Vec::new(), ..self.clone() }
    }

    pub fn are_enough(&self) -> bool {
        self.never_ready() || are_so_many(&self.any, TOO_MANY)
    }

    /// Enough without readiness in between.
    pub fn never_ready(&self) -> bool {
        are_so_many(&self.at, ENOUGH)
    }
}

/// Adds `fresh` exits, the last of them at `at`, and keeps the last `most`.
fn count(exits: &mut Vec<Timestamp>, at: Timestamp, fresh: u32, most: usize) {
    if exits.last().is_none_or(|last| *last < at) {
        exits.extend(std::iter::repeat_n(at, (fresh as usize).min(most)));
    }
    let surplus = exits.len().saturating_sub(most);
    exits.drain(..surplus);
}

fn are_so_many(exits: &[Timestamp], most: usize) -> bool {
    let (Some(first), Some(last)) = (exits.first(), exits.last()) else { return false };
    exits.len() >= most && (*last - *first).to_std().unwrap_or_default() <= WITHIN
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::plan::tests::observed;
    use protocol::orchestrator::Exit;

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

    fn counted(looks: &[ObservedTenant]) -> bool {
        looks.iter().fold(Crashes::default(), |held, seen| held.after(seen)).are_enough()
    }

    #[test]
    fn five_within_five_minutes_are_enough() {
        let every = |gap: i64| (1..=5).map(move |n| exited("c", n, i64::from(n) * gap, false));
        assert!(counted(&every(75).collect::<Vec<_>>()));
        assert!(!counted(&every(76).collect::<Vec<_>>()), "over more than five minutes");
        assert!(!counted(&every(10).take(4).collect::<Vec<_>>()));
        assert!(counted(&[exited("c", 5, 1, false)]), "five at one look");
    }

    #[test]
    fn looking_twice_counts_once() {
        let same = vec![exited("c", 1, 1, false); 9];
        assert!(!counted(&same));
    }

    #[test]
    fn readiness_in_between_begins_anew() {
        let mut looks: Vec<_> = (1..=4).map(|n| exited("c", n, i64::from(n), false)).collect();
        looks.push(exited("c", 5, 5, true));
        assert!(!counted(&looks));
        looks.pop();
        looks.push(ObservedTenant { phase: Phase::Ready, ..exited("c", 4, 4, false) });
        looks.push(exited("c", 5, 6, false));
        assert!(!counted(&looks));
    }

    #[test]
    fn what_gets_ready_and_dies_ten_times_within_five_minutes_is_a_loop_too() {
        let every = |gap: i64| {
            let exits = (1..=10).map(move |n| exited("c", n, i64::from(n) * gap, true));
            exits.flat_map(|exit| [exit.clone(), ObservedTenant { phase: Phase::Ready, ..exit }])
        };
        assert!(counted(&every(30).collect::<Vec<_>>()));
        assert!(!counted(&every(34).collect::<Vec<_>>()), "over more than five minutes");
        assert!(!counted(&every(10).take(18).collect::<Vec<_>>()), "nine");
        let all = every(10).fold(Crashes::default(), |held, seen| held.after(&seen));
        assert!(!all.forgiven().are_enough());
    }

    #[test]
    fn a_new_count_or_container_goes_on_counting() {
        let restarted: Vec<_> = [(1, 1), (2, 2), (1, 3), (2, 4), (3, 5)]
            .map(|(n, at)| exited("c", n, at, false))
            .into();
        assert!(counted(&restarted));
        let renamed: Vec<_> = ["a", "b", "c", "d", "e"]
            .iter()
            .zip(1..)
            .map(|(name, at)| exited(name, 1, at, false))
            .collect();
        assert!(counted(&renamed));
    }
}
