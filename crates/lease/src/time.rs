/// A span of time in milliseconds.
pub type Millis = u64;

/// A point in time: milliseconds since an epoch that the caller chooses.
///
/// The orchestrator counts from 1970 by a monotonic clock, so that moments survive a restart. A holder's epoch is its own
/// start. Moments of two processes are never compared.
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

    /// Returns the time since `earlier`; 0 when `earlier` lies later.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Millis {
        self.0.saturating_sub(earlier.0)
    }
}
