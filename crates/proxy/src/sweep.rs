//! Timeouts without a timer each: one look at all of them every tick, and no look while there are none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::task::{Context, Waker};
use std::time::Duration;

use tokio::sync::Notify;

/// All deadlines of one thread. Time is counted in ticks, and stands still while nobody waits for it.
pub(crate) struct Sweep {
    tick: Duration,
    now: Cell<u64>,
    slots: RefCell<Vec<Rc<Slot>>>,
    armed: Cell<usize>,
    bell: Notify,
}

/// A time that was counted once, so that no request has to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Ticks(u64);

struct Slot {
    due: Cell<u64>,
    waker: RefCell<Option<Waker>>,
    /// Its place among the slots, so that it can be taken out without a search.
    place: Cell<usize>,
}

/// One party that may have to wait: at most one deadline at a time.
pub(crate) struct Deadline {
    slot: Rc<Slot>,
    sweep: Rc<Sweep>,
}

const NEVER: u64 = u64::MAX;

impl Sweep {
    pub(crate) fn new(tick: Duration) -> Rc<Self> {
        Rc::new(Self {
            tick: tick.max(Duration::from_millis(1)),
            now: Cell::new(0),
            slots: RefCell::default(),
            armed: Cell::new(0),
            bell: Notify::new(),
        })
    }

    pub(crate) fn deadline(self: &Rc<Self>) -> Deadline {
        let mut slots = self.slots.borrow_mut();
        let slot = Rc::new(Slot {
            due: Cell::new(NEVER),
            waker: RefCell::default(),
            place: Cell::new(slots.len()),
        });
        slots.push(slot.clone());
        Deadline { slot, sweep: self.clone() }
    }

    /// So many ticks are as long, for sure.
    pub(crate) fn ticks(&self, patience: Duration) -> Ticks {
        let ticks = patience.as_nanos().div_ceil(self.tick.as_nanos());
        Ticks(u64::try_from(ticks).unwrap_or(NEVER - 2).min(NEVER - 2) + 1)
    }

    /// The tick at which so many have passed.
    pub(crate) fn due(&self, patience: Ticks) -> u64 {
        self.now.get().saturating_add(patience.0)
    }

    /// Something else waits for time to pass, until [`Sweep::disarm`].
    pub(crate) fn arm(&self) {
        self.armed.set(self.armed.get() + 1);
        if self.armed.get() == 1 {
            self.bell.notify_one();
        }
    }

    pub(crate) fn disarm(&self) {
        self.armed.set(self.armed.get() - 1);
    }

    /// Lets time pass, and calls `also` at each tick. Never ends.
    pub(crate) async fn run(&self, also: impl Fn(u64)) {
        loop {
            while self.armed.get() == 0 {
                self.bell.notified().await;
            }
            tokio::time::sleep(self.tick).await;
            let now = self.now.get() + 1;
            self.now.set(now);
            self.wake(|slot| slot.due.get() <= now);
            also(now);
        }
    }

    /// Wakes everyone: something that all watch for has changed.
    pub(crate) fn wake_all(&self) {
        self.wake(|_| true);
    }

    fn wake(&self, which: impl Fn(&Slot) -> bool) {
        for slot in self.slots.borrow().iter().filter(|slot| which(slot)) {
            if let Some(waker) = slot.waker.borrow_mut().take() {
                waker.wake();
            }
        }
    }
}

impl Deadline {
    /// From now on; an earlier deadline is forgotten.
    pub(crate) fn set(&self, patience: Duration) {
        self.within(self.sweep.ticks(patience));
    }

    /// The same, counted before.
    pub(crate) fn within(&self, patience: Ticks) {
        if self.slot.due.replace(self.sweep.due(patience)) == NEVER {
            self.sweep.arm();
        }
    }

    pub(crate) fn clear(&self) {
        if self.slot.due.replace(NEVER) != NEVER {
            self.sweep.disarm();
        }
    }

    /// Whether it has passed; if not, the task is woken when it has, or when all are.
    pub(crate) fn has_passed(&self, cx: &mut Context<'_>) -> bool {
        if self.slot.due.get() <= self.sweep.now.get() {
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
        let mut slots = self.sweep.slots.borrow_mut();
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
        let sweep = Sweep::new(tick);
        let start = tokio::time::Instant::now();
        for patience in [0, 1, 99, 100, 101, 250].map(Duration::from_millis) {
            let deadline = sweep.deadline();
            let begun = start.elapsed();
            deadline.set(patience);
            tokio::select! {
                () = passed(&deadline) => {}
                () = sweep.run(|_| {}) => {}
            }
            let took = start.elapsed() - begun;
            assert!(took >= patience && took <= patience + tick * 2, "{patience:?}: {took:?}");
        }
        assert_eq!(sweep.armed.get(), 0);
        assert!(sweep.slots.borrow().is_empty());
    }

    #[test]
    fn slots_are_taken_out_in_any_order() {
        let sweep = Sweep::new(Duration::from_millis(1));
        let mut all: Vec<_> = (0..6).map(|_| sweep.deadline()).collect();
        all.iter().for_each(|d| d.set(Duration::ZERO));
        for place in [3, 0, 2] {
            all.swap_remove(place);
        }
        assert_eq!((sweep.slots.borrow().len(), sweep.armed.get()), (3, 3));
        drop(all);
        assert_eq!((sweep.slots.borrow().len(), sweep.armed.get()), (0, 0));
    }
}
