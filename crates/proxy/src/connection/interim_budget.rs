//! Bounds the interim (1xx) heads of one response by their rate, not by their number: a request may take long.

/// A token bucket of bytes, refilled by ticks of the timers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct InterimBudget {
    bytes_left: usize,
    refilled_at_tick: u64,
}

/// Bytes that may arrive at once.
const BURST_BYTES: usize = 64 << 10;
/// Refill per timer tick: 16 KiB a second at the default tick.
const REFILL_BYTES: usize = 4 << 10;
/// The least cost of a head, so that tiny heads are bounded as well.
const MIN_HEAD_BYTES: usize = 256;

impl InterimBudget {
    pub(crate) fn new(tick: u64) -> Self {
        Self { bytes_left: BURST_BYTES, refilled_at_tick: tick }
    }

    /// Takes the cost of one head. `false` when the heads arrive too fast.
    pub(crate) fn spend(&mut self, head_bytes: usize, tick: u64) -> bool {
        let ticks =
            usize::try_from(tick.saturating_sub(self.refilled_at_tick)).unwrap_or(usize::MAX);
        self.refilled_at_tick = tick;
        let refilled = self.bytes_left.saturating_add(ticks.saturating_mul(REFILL_BYTES));
        let cost = head_bytes.max(MIN_HEAD_BYTES);
        match refilled.min(BURST_BYTES).checked_sub(cost) {
            Some(left) => {
                self.bytes_left = left;
                true
            }
            None => false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_ends_and_a_steady_rate_never_does() {
        let mut budget = InterimBudget::new(7);
        let burst = (0..1_000).take_while(|_| budget.spend(30, 7)).count();
        assert_eq!(burst, BURST_BYTES / MIN_HEAD_BYTES);
        assert!((8..10_000).all(|tick| budget.spend(REFILL_BYTES, tick)));
        assert!(!budget.spend(BURST_BYTES + 1, u64::MAX), "no head is larger than a burst");
    }
}
