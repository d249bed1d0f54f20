//! Timeouts without one timer each: a single pass over all deadlines per tick, and no ticks while none is armed.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;

/// All deadlines of one thread. Time is counted in ticks, and stands still while no deadline is armed.
pub(crate) struct Timers {
    tick: Duration,
    now: Cell<u64>,
    /// How often a party fell silent.
    silences: Cell<u64>,
    slots: RefCell<Vec<Rc<TimerSlot>>>,
    armed: Cell<usize>,
    armed_notify: Notify,
}

/// A duration converted to ticks once, so that no request has to convert it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks(u64);

struct TimerSlot {
    due: Cell<u64>,
    /// The order in which parties fell silent; `NEVER` while the party must not be evicted. Ticks are too coarse: a flood
    /// would evict the clients that just came.
    silent_since: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// The index among the slots, so that removal needs no search.
    place: Cell<usize>,
}

/// A waiting party with at most one deadline at a time.
pub(crate) struct Deadline {
    slot: Rc<TimerSlot>,
    timers: Rc<Timers>,
}

const NEVER: u64 = u64::MAX;

impl Timers {
    pub(crate) fn new(tick: Duration) -> Rc<Self> {
        Rc::new(Self {
            tick: tick.max(Duration::from_millis(1)),
            now: Cell::new(0),
            silences: Cell::new(0),
            slots: RefCell::default(),
            armed: Cell::new(0),
            armed_notify: Notify::new(),
        })
    }

    pub(crate) fn deadline(self: &Rc<Self>) -> Deadline {
        let mut slots = self.slots.borrow_mut();
        let slot = Rc::new(TimerSlot {
            due: Cell::new(NEVER),
            silent_since: Cell::new(NEVER),
            waker: RefCell::default(),
            place: Cell::new(slots.len()),
        });
        slots.push(slot.clone());
        Deadline { slot, timers: self.clone() }
    }

    /// The number of ticks that last at least `timeout`.
    pub(crate) fn ticks(&self, timeout: Duration) -> Ticks {
        let ticks = timeout.as_nanos().div_ceil(self.tick.as_nanos());
        Ticks(u64::try_from(ticks).unwrap_or(NEVER - 2).min(NEVER - 2) + 1)
    }

    /// The current tick.
    pub(crate) fn now(&self) -> u64 {
        self.now.get()
    }

    /// The tick at which `timeout` has passed.
    pub(crate) fn due(&self, timeout: Ticks) -> u64 {
        self.now.get().saturating_add(timeout.0)
    }

    /// Keeps time running for another reason than a deadline, until [`Timers::disarm`].
    pub(crate) fn arm(&self) {
        self.armed.set(self.armed.get() + 1);
        if self.armed.get() == 1 {
            self.armed_notify.notify_one();
        }
    }

    pub(crate) fn disarm(&self) {
        self.armed.set(self.armed.get() - 1);
    }

    /// Advances the time and calls `on_tick` at each tick. Never returns.
    pub(crate) async fn run(&self, on_tick: impl Fn(u64)) {
        loop {
            while self.armed.get() == 0 {
                self.armed_notify.notified().await;
            }
            tokio::time::sleep(self.tick).await;
            let now = self.now.get() + 1;
            self.now.set(now);
            self.wake(|slot| slot.due.get() <= now);
            on_tick(now);
        }
    }

    /// Ends the deadlines of the `count` parties that are silent for the longest time. Returns how many there were.
    pub(crate) fn evict_longest_silent(&self, count: usize) -> usize {
        let slots = self.slots.borrow();
        let mut silent: Vec<_> =
            slots.iter().filter(|slot| slot.silent_since.get() != NEVER).collect();
        let count = count.min(silent.len());
        if count < silent.len() {
            silent.select_nth_unstable_by_key(count, |slot| slot.silent_since.get());
        }
        for slot in &silent[..count] {
            slot.silent_since.set(NEVER);
            // Armed already: a silent party has a deadline.
            slot.due.set(0);
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        }
        count
    }

    /// Wakes every waiting party after a change that all of them watch for.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(&TimerSlot) -> bool) {
        for slot in self.slots.borrow().iter().filter(|slot| which(slot)) {
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl Deadline {
    /// Sets the deadline to `timeout` from now and replaces an earlier one.
    pub(crate) fn set(&self, timeout: Duration) {
        self.set_ticks(self.timers.ticks(timeout));
    }

    /// Like [`Deadline::set_ticks`] for a party that waits for input of the other end, and that may
    /// be evicted.
    pub(crate) fn set_evictable(&self, timeout: Ticks) {
        self.set_ticks(timeout);
        self.slot.silent_since.set(self.timers.silences.get());
        self.timers.silences.set(self.timers.silences.get() + 1);
    }

    /// Like [`Deadline::set`] with a converted duration.
    pub(crate) fn set_ticks(&self, timeout: Ticks) {
        self.slot.silent_since.set(NEVER);
        if self.slot.due.replace(self.timers.due(timeout)) == NEVER {
            self.timers.arm();
        }
    }

    pub(crate) fn clear(&self) {
        self.slot.silent_since.set(NEVER);
        if self.slot.due.replace(NEVER) != NEVER {
            self.timers.disarm();
        }
    }

    /// Whether the deadline passed. Otherwise registers the task to be woken at the deadline or by `wake_all`.
    pub(crate) fn has_passed(&self, cx: &mut Context<'_>) -> bool {
        if self.slot.due.get() <= self.timers.now.get() {
            return true;
        }
        let mut waker = self.slot.waker.borrow_mut();
        if !waker.as_ref().is_some_and(|w| w.will_wake(cx.waker())) {
            *waker = Some(cx.waker().clone());
        }
        false
    }
}

impl Drop for Deadline {
    fn drop(&mut self) {
        self.clear();
        let mut slots = self.timers.slots.borrow_mut();
        let place = self.slot.place.get();
        slots.swap_remove(place);
        if let Some(moved) = slots.get(place) {
            moved.place.set(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::task::Poll;

    use super::*;

    async fn passed(deadline: &Deadline) {
        poll_fn(|cx| if deadline.has_passed(cx) { Poll::Ready(()) } else { Poll::Pending }).await;
    }

    #[expect(clippy::disallowed_methods, reason = "the clock of a test is the paused one")]
    #[tokio::test(start_paused = true)]
    async fn a_deadline_passes_never_early_and_two_ticks_late_at_most() {
        let tick = Duration::from_millis(100);
        let timers = Timers::new(tick);
        let start = tokio::time::Instant::now();
        for timeout in [0, 1, 99, 100, 101, 250].map(Duration::from_millis) {
            let deadline = timers.deadline();
            let begun = start.elapsed();
            deadline.set(timeout);
            tokio::select! {
                () = passed(&deadline) => {}
                () = timers.run(|_| {}) => {}
            }
            let took = start.elapsed() - begun;
            assert!(took >= timeout && took <= timeout + tick * 2, "{timeout:?}: {took:?}");
        }
        assert_eq!(timers.armed.get(), 0);
        assert!(timers.slots.borrow().is_empty());
    }

    #[test]
    fn slots_are_taken_out_in_any_order() {
        let timers = Timers::new(Duration::from_millis(1));
        let mut all: Vec<_> = (0..6).map(|_| timers.deadline()).collect();
        all.iter().for_each(|d| d.set(Duration::ZERO));
        for place in [3, 0, 2] {
            all.swap_remove(place);
        }
        assert_eq!((timers.slots.borrow().len(), timers.armed.get()), (3, 3));
        drop(all);
        assert_eq!((timers.slots.borrow().len(), timers.armed.get()), (0, 0));
    }

    #[test]
    fn the_longest_silent_are_evicted_first_and_no_other_party() {
        let timers = Timers::new(Duration::from_millis(1));
        let all: Vec<_> = (0..5).map(|_| timers.deadline()).collect();
        let minute = timers.ticks(Duration::from_secs(60));
        all.iter().for_each(|deadline| deadline.set_evictable(minute));
        // The oldest party has sent data since.
        all[0].set_ticks(minute);
        let has_ended = |deadline: &Deadline| deadline.slot.due.get() == 0;
        assert_eq!(timers.evict_longest_silent(2), 2);
        let ended: Vec<_> = all.iter().map(has_ended).collect();
        assert_eq!(ended, [false, true, true, false, false]);
        assert_eq!(timers.evict_longest_silent(9), 2, "nobody is evicted twice");
        assert!(!has_ended(&all[0]));
        drop(all);
        assert_eq!((timers.slots.borrow().len(), timers.armed.get()), (0, 0));
    }
}
