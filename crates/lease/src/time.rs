/// Milliseconds.
pub type Millis = u64;

/// Milliseconds since an epoch of the shell's choosing. The keeper's shell takes 1970 as its epoch and moves on from there by a
/// monotonic clock, so that moments can be kept across a restart; a holder's epoch is its own.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Moment(pub Millis);

impl Moment {
    #[must_use]
    pub const fn plus(self, time: Millis) -> Self {
        Self(self.0.saturating_add(time))
    }

    #[must_use]
    pub const fn minus(self, time: Millis) -> Self {
        Self(self.0.saturating_sub(time))
    }

    /// 0 when `earlier` is in fact later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        self.0.saturating_sub(earlier.0)
    }
}
