//! Schedules reconcile runs: one per tenant at a time, a bounded number at once, retry back-off with jitter. Pure.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use protocol::TenantId;

/// The result of one run for one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Nothing is left to do.
    Settled,
    /// Something changed; run again at once.
    Requeue,
    /// The run failed; retry later. `slow`: an early retry cannot succeed.
    RetryLater { slow: bool },
}

#[derive(Debug, Default)]
pub struct Schedule {
    slots: HashMap<TenantId, Slot>,
    running: usize,
}

#[derive(Debug, Default)]
struct Slot {
    due: Option<Instant>,
    /// The end of the back-off: hints wait for it, requests of an owner do not.
    retry_at: Option<Instant>,
    is_running: bool,
    /// The owner requested something since the last run began.
    is_requested: bool,
    failures: u32,
}

const FIRST_RETRY_DELAY: Duration = Duration::from_millis(500);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);

impl Schedule {
    /// Schedules a run because something may have changed. Does not shorten a back-off.
    pub fn hint(&mut self, id: TenantId, now: Instant) {
        let slot = self.slots.entry(id).or_default();
        let at = slot.retry_at.map_or(now, |retry_at| retry_at.max(now));
        slot.due = Some(slot.due.map_or(at, |due| due.min(at)));
    }

    /// Schedules a run at once: no earlier failure delays a request of the owner.
    pub fn request(&mut self, id: TenantId, now: Instant) {
        let slot = self.slots.entry(id).or_default();
        slot.retry_at = None;
        slot.failures = 0;
        slot.due = Some(now);
        slot.is_requested = true;
    }

    /// Starts due runs, longest due first, up to `room` runs in total, and returns their tenants.
    pub fn take_due(&mut self, now: Instant, room: usize) -> Vec<TenantId> {
        let free = room.saturating_sub(self.running);
        let ready = |s: &Slot| s.due.filter(|due| *due <= now && !s.is_running);
        let mut due: Vec<_> =
            self.slots.iter().filter_map(|(id, s)| Some((ready(s)?, *id))).collect();
        due.sort_unstable();
        due.truncate(free);
        for (_, id) in &due {
            if let Some(slot) = self.slots.get_mut(id) {
                slot.is_running = true;
                slot.is_requested = false;
                slot.due = None;
                self.running += 1;
            }
        }
        due.into_iter().map(|(_, id)| id).collect()
    }

    /// Records the end of a run. `jitter` is 0 to 1.
    pub fn finish(&mut self, id: TenantId, outcome: Outcome, now: Instant, jitter: f64) {
        let Some(slot) = self.slots.get_mut(&id) else { return };
        if std::mem::take(&mut slot.is_running) {
            self.running -= 1;
        }
        match outcome {
            Outcome::Settled if slot.due.is_none() => {
                self.slots.remove(&id);
            }
            Outcome::Settled => (slot.failures, slot.retry_at) = (0, None),
            Outcome::Requeue => (slot.retry_at, slot.due) = (None, Some(now)),
            Outcome::RetryLater { slow } => {
                slot.failures = slot.failures.saturating_add(1);
                let delay = if slow { MAX_RETRY_DELAY } else { retry_delay(slot.failures) };
                let at = now + delay.mul_f64(0.5 + jitter / 2.0);
                // A request during the run is due at once; a hint during the run waits for the back-off.
                if !slot.is_requested {
                    (slot.retry_at, slot.due) = (Some(at), Some(at));
                }
            }
        }
    }

    /// The time at which the next run is due.
    pub fn next_due(&self) -> Option<Instant> {
        self.slots.values().filter(|s| !s.is_running).filter_map(|s| s.due).min()
    }
}

fn retry_delay(failures: u32) -> Duration {
    FIRST_RETRY_DELAY.saturating_mul(1 << failures.min(8)).min(MAX_RETRY_DELAY / 2)
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
    fn one_run_per_tenant_and_no_hint_is_lost() {
        let (now, mut schedule) = (start(), Schedule::default());
        schedule.hint(tenant(1), now);
        assert_eq!(schedule.take_due(now, 8), [tenant(1)]);
        schedule.hint(tenant(1), now);
        assert_eq!(schedule.take_due(now, 8), [], "a run is in progress");
        schedule.finish(tenant(1), Outcome::Settled, now, 0.0);
        assert_eq!(schedule.take_due(now, 8), [tenant(1)], "hinted during the run");
        schedule.finish(tenant(1), Outcome::Settled, now, 0.0);
        assert_eq!((schedule.take_due(now, 8), schedule.next_due()), (vec![], None));
    }

    #[test]
    fn the_number_of_runs_is_bounded() {
        let (now, mut schedule) = (start(), Schedule::default());
        (0..9).for_each(|n| schedule.hint(tenant(n), now));
        let first = schedule.take_due(now, 4);
        assert_eq!(first.len(), 4);
        assert!(schedule.take_due(now, 4).is_empty());
        schedule.finish(first[0], Outcome::Requeue, now, 0.0);
        assert_eq!(schedule.take_due(now, 4).len(), 1);
    }

    #[test]
    fn the_back_off_grows_and_a_request_skips_it() {
        let (now, mut schedule) = (start(), Schedule::default());
        let (mut at, mut waits) = (now, Vec::new());
        schedule.hint(tenant(1), now);
        for _ in 0..8 {
            assert_eq!(schedule.take_due(at, 8), [tenant(1)]);
            schedule.finish(tenant(1), Outcome::RetryLater { slow: false }, at, 1.0);
            schedule.hint(tenant(1), at);
            assert!(schedule.take_due(at, 8).is_empty(), "a hint does not shorten the wait");
            let due = schedule.next_due().unwrap();
            waits.push((due - at).as_secs());
            at = due;
        }
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30, 30]);
        schedule.take_due(at, 8);
        schedule.finish(tenant(1), Outcome::RetryLater { slow: true }, at, 0.0);
        assert_eq!(schedule.next_due().unwrap() - at, MAX_RETRY_DELAY / 2);
        schedule.request(tenant(1), at);
        assert_eq!(schedule.take_due(at, 8), [tenant(1)]);
    }

    #[test]
    fn a_request_during_a_failing_run_is_due_at_once() {
        let (now, mut schedule) = (start(), Schedule::default());
        schedule.hint(tenant(1), now);
        schedule.take_due(now, 8);
        schedule.request(tenant(1), now);
        schedule.finish(tenant(1), Outcome::RetryLater { slow: true }, now, 0.0);
        assert_eq!(schedule.take_due(now, 8), [tenant(1)]);
    }

    #[test]
    fn a_hint_during_a_failing_run_waits_for_the_back_off() {
        let (now, mut schedule) = (start(), Schedule::default());
        schedule.hint(tenant(1), now);
        schedule.take_due(now, 8);
        schedule.hint(tenant(1), now);
        schedule.finish(tenant(1), Outcome::RetryLater { slow: true }, now, 0.0);
        assert!(schedule.take_due(now, 8).is_empty());
        assert_eq!(schedule.next_due(), Some(now + MAX_RETRY_DELAY / 2));
    }
}
