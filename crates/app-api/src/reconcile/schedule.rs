//! Whose turn it is: one run per tenant at a time, a bounded number of tenants at once, backoff with jitter.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::TenantId;

/// How one run for one tenant ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left to do.
    Settled,
    /// Something was done; look again at once.
    Moved,
    /// It came to nothing; later. `slow`: it will not help to hurry.
    SetBack { slow: bool },
}

#[derive(Debug, Default)]
pub struct Schedule {
    slots: HashMap<TenantId, Slot>,
    running: usize,
}

#[derive(Debug, Default)]
struct Slot {
    due: Option<Instant>,
    /// Hints wait until then; an owner's wish does not.
    held: Option<Instant>,
    running: bool,
    /// Its owner asked for something since the last run began.
    asked: bool,
    setbacks: u32,
}

const SLOWEST: Duration = Duration::from_secs(60);

impl Schedule {
    /// Something may have changed.
    pub fn hint(&mut self, id: TenantId, now: Instant) {
        let slot = self.slots.entry(id).or_default();
        let at = slot.held.map_or(now, |held| held.max(now));
        slot.due = Some(slot.due.map_or(at, |due| due.min(at)));
    }

    /// Its owner asked for something: no earlier setback delays that.
    pub fn ask(&mut self, id: TenantId, now: Instant) {
        let slot = self.slots.entry(id).or_default();
        (slot.held, slot.setbacks, slot.due, slot.asked) = (None, 0, Some(now), true);
    }

    /// Those whose turn it is, as many as there is room for, the longest due first.
    pub fn take(&mut self, now: Instant, room: usize) -> Vec<TenantId> {
        let free = room.saturating_sub(self.running);
        let ready = |s: &Slot| s.due.filter(|due| *due <= now && !s.running);
        let mut due: Vec<_> =
            self.slots.iter().filter_map(|(id, s)| Some((ready(s)?, *id))).collect();
        due.sort_unstable();
        due.truncate(free);
        for (_, id) in &due {
            if let Some(slot) = self.slots.get_mut(id) {
                (slot.running, slot.asked, slot.due) = (true, false, None);
                self.running += 1;
            }
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// `chance` is 0 to 1.
    pub fn finished(&mut self, id: TenantId, outcome: Outcome, now: Instant, chance: f64) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if std::mem::take(&mut slot.running) {
            self.running -= 1;
        }
        match outcome {
            Outcome::Settled if slot.due.is_none() => {
                self.slots.remove(&id);
            }
            Outcome::Settled => (slot.setbacks, slot.held) = (0, None),
            Outcome::Moved => (slot.held, slot.due) = (None, Some(now)),
            Outcome::SetBack { slow } => {
                slot.setbacks = slot.setbacks.saturating_add(1);
                let whole = if slow { SLOWEST } else { doubled(slot.setbacks) };
                let at = now + whole.mul_f64(0.5 + chance / 2.0);
                // What its owner asked for during the run is due already, and stays so; a hint of that time waits.
                if !slot.asked {
                    (slot.held, slot.due) = (Some(at), Some(at));
                }
            }
        }
    }

    /// When to look again.
    pub fn next_due(&self) -> Option<Instant> {
        self.slots.values().filter(|s| !s.running).filter_map(|s| s.due).min()
    }
}

fn doubled(setbacks: u32) -> Duration {
    Duration::from_millis(500).saturating_mul(1 << setbacks.min(8)).min(SLOWEST / 2)
}

#[cfg(test)]
mod tests {
    use super::*;
    use uuid::Uuid;

    fn tenant(n: u128) -> TenantId {
        TenantId::new(Uuid::from_u128(n))
    }

    #[expect(clippy::disallowed_methods, reason = "a start to count from")]
    fn start() -> Instant {
        Instant::now()
    }

    #[test]
    fn one_run_a_tenant_and_no_bell_is_lost() {
        let (now, mut schedule) = (start(), Schedule::default());
        schedule.hint(tenant(1), now);
        assert_eq!(schedule.take(now, 8), [tenant(1)]);
        schedule.hint(tenant(1), now);
        assert_eq!(schedule.take(now, 8), [], "it runs already");
        schedule.finished(tenant(1), Outcome::Settled, now, 0.0);
        assert_eq!(schedule.take(now, 8), [tenant(1)], "rung while it ran");
        schedule.finished(tenant(1), Outcome::Settled, now, 0.0);
        assert_eq!((schedule.take(now, 8), schedule.next_due()), (vec![], None));
    }

    #[test]
    fn room_is_bounded() {
        let (now, mut schedule) = (start(), Schedule::default());
        (0..9).for_each(|n| schedule.hint(tenant(n), now));
        let first = schedule.take(now, 4);
        assert_eq!(first.len(), 4);
        assert!(schedule.take(now, 4).is_empty());
        schedule.finished(first[0], Outcome::Moved, now, 0.0);
        assert_eq!(schedule.take(now, 4).len(), 1);
    }

    #[test]
    fn setbacks_grow_and_an_owner_does_not_wait() {
        let (now, mut schedule) = (start(), Schedule::default());
        let (mut at, mut waits) = (now, Vec::new());
        schedule.hint(tenant(1), now);
        for _ in 0..8 {
            assert_eq!(schedule.take(at, 8), [tenant(1)]);
            schedule.finished(tenant(1), Outcome::SetBack { slow: false }, at, 1.0);
            schedule.hint(tenant(1), at);
            assert!(schedule.take(at, 8).is_empty(), "a hint does not shorten the wait");
            let due = schedule.next_due().unwrap();
            waits.push((due - at).as_secs());
            at = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        schedule.take(at, 8);
        schedule.finished(tenant(1), Outcome::SetBack { slow: true }, at, 0.0);
        assert_eq!(schedule.next_due().unwrap() - at, SLOWEST / 2);
        schedule.ask(tenant(1), at);
        assert_eq!(schedule.take(at, 8), [tenant(1)]);
    }

    #[test]
    fn a_wish_during_a_failing_run_is_seen_to_at_once() {
        let (now, mut schedule) = (start(), Schedule::default());
        schedule.hint(tenant(1), now);
        schedule.take(now, 8);
        schedule.ask(tenant(1), now);
        schedule.finished(tenant(1), Outcome::SetBack { slow: true }, now, 0.0);
        assert_eq!(schedule.take(now, 8), [tenant(1)]);
    }

    #[test]
    fn a_hint_during_a_run_that_comes_to_nothing_waits_like_any_other() {
        let (now, mut schedule) = (start(), Schedule::default());
        schedule.hint(tenant(1), now);
        schedule.take(now, 8);
        schedule.hint(tenant(1), now);
        schedule.finished(tenant(1), Outcome::SetBack { slow: true }, now, 0.0);
        assert!(schedule.take(now, 8).is_empty());
        assert_eq!(schedule.next_due(), Some(now + SLOWEST / 2));
    }
}
