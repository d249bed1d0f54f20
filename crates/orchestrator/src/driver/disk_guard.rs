//! Decides when tenants' volumes are measured and which tenants use more than they may. Pure: time
//! is an argument.
//!
//! Measuring walks every volume and is expensive; reading the free space of the disk is not. A
//! measurement is therefore due when the disk lost a certain amount of free space since the last
//! one, and otherwise only now and then.

use std::collections::HashMap;
use std::time::Duration;

use protocol::TenantId;
use protocol::text::describe_bytes;

/// Room on the disk that holds the engine's data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DiskSpace {
    pub free_bytes: u64,
    pub total_bytes: u64,
}

/// A limit that the filesystem enforces for both volumes of a tenant together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskQuota {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

impl DiskQuota {
    /// Filesystems round a limit up to a whole number of blocks, which are no larger than this.
    const MAX_BLOCK_BYTES: u64 = 64 << 10;

    /// Whether the filesystem enforces this limit and no other.
    pub fn is_of_limit(self, limit_bytes: u64) -> bool {
        let more = self.limit_bytes.checked_sub(limit_bytes);
        more.is_some_and(|more| more < Self::MAX_BLOCK_BYTES)
    }
}

/// A tenant that uses more of the disk than it may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DiskExcess {
    pub used_bytes: u64,
    pub limit_bytes: u64,
}

impl DiskExcess {
    /// Describes for the tenant's owner the cause and the remedy.
    pub fn describe(self) -> String {
        format!(
            "Its files use {} and it may use {}, so it was stopped. Raise its disk limit (limits.disk_bytes), then start it and delete what it does not need.",
            describe_bytes(self.used_bytes),
            describe_bytes(self.limit_bytes),
        )
    }
}

#[derive(Clone, Debug, Default)]
pub struct DiskGuard {
    last: Option<Measurement>,
    /// The start of the last measurement, whether or not it succeeded.
    begun_at: Option<Duration>,
}

#[derive(Clone, Debug)]
struct Measurement {
    /// The time by the caller's clock, as a duration since the clock's own origin.
    at: Duration,
    free_bytes: u64,
    used_bytes: HashMap<TenantId, u64>,
}

impl DiskGuard {
    /// The shortest time from one measurement to the next, however fast the disk fills.
    pub const MIN_INTERVAL: Duration = Duration::from_secs(15);
    /// The interval of measurements while the free space does not change.
    pub const MAX_INTERVAL: Duration = Duration::from_secs(600);
    /// The free space that the disk may lose before a measurement is due. A tenant can exceed its
    /// limit by about this much, plus the bytes that it writes meanwhile.
    pub const GROWTH_BYTES: u64 = 256 << 20;

    pub fn is_measurement_due(&self, now: Duration, space: DiskSpace) -> bool {
        if self.begun_at.is_some_and(|at| now.saturating_sub(at) < Self::MIN_INTERVAL) {
            return false;
        }
        let Some(last) = &self.last else { return true };
        let lost_bytes = last.free_bytes.saturating_sub(space.free_bytes);
        now.saturating_sub(last.at) >= Self::MAX_INTERVAL || lost_bytes >= Self::GROWTH_BYTES
    }

    /// Records the start of a measurement, so that a failed one is not repeated at once.
    pub fn begin(&mut self, now: Duration) {
        self.begun_at = Some(now);
    }

    pub fn record(&mut self, now: Duration, space: DiskSpace, used_bytes: HashMap<TenantId, u64>) {
        self.last = Some(Measurement { at: now, free_bytes: space.free_bytes, used_bytes });
    }

    /// The bytes that a tenant's volumes held when they were last measured.
    pub fn used_bytes(&self, id: TenantId) -> Option<u64> {
        self.last.as_ref()?.used_bytes.get(&id).copied()
    }

    pub fn excess(&self, id: TenantId, limit_bytes: u64) -> Option<DiskExcess> {
        let used_bytes = self.used_bytes(id)?;
        (used_bytes > limit_bytes).then_some(DiskExcess { used_bytes, limit_bytes })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MIB: u64 = 1 << 20;

    fn id() -> TenantId {
        "0192f0c1-2345-7abc-8def-0123456789ab".parse().unwrap()
    }

    fn space(free_bytes: u64) -> DiskSpace {
        DiskSpace { free_bytes, total_bytes: 1 << 40 }
    }

    fn measured(free_bytes: u64, used_bytes: u64) -> DiskGuard {
        let mut guard = DiskGuard::default();
        guard.begin(Duration::ZERO);
        guard.record(Duration::ZERO, space(free_bytes), HashMap::from([(id(), used_bytes)]));
        guard
    }

    #[test]
    fn a_limit_that_the_filesystem_rounded_up_is_the_same_limit() {
        let quota = DiskQuota { used_bytes: 0, limit_bytes: 10 * MIB };
        for (limit_bytes, expected) in [
            (10 * MIB, true),
            (10 * MIB - 4095, true),
            (10 * MIB + 1, false),
            (10 * MIB - (64 << 10), false),
            (20 * MIB, false),
        ] {
            assert_eq!(quota.is_of_limit(limit_bytes), expected, "{limit_bytes}");
        }
    }

    #[test]
    fn a_measurement_is_due_by_growth_and_by_age_but_never_too_often() {
        let seconds = Duration::from_secs;
        assert!(DiskGuard::default().is_measurement_due(Duration::ZERO, space(0)));
        let guard = measured(10_000 * MIB, 0);
        let table = [
            (seconds(1), 0, false, "the disk filled up, but a moment ago it was measured"),
            (seconds(15), 10_000 * MIB, false, "nothing was written"),
            (seconds(15), 9_800 * MIB, false, "little was written"),
            (seconds(15), 9_744 * MIB, true, "256 MiB were written"),
            (seconds(599), 20_000 * MIB, false, "space was freed"),
            (seconds(600), 10_000 * MIB, true, "the last one is old"),
        ];
        for (now, free, due, what) in table {
            assert_eq!(guard.is_measurement_due(now, space(free)), due, "{what}");
        }
    }

    #[test]
    fn a_measurement_that_failed_is_repeated_later() {
        let mut guard = DiskGuard::default();
        guard.begin(Duration::ZERO);
        assert!(!guard.is_measurement_due(Duration::from_secs(14), space(0)));
        assert!(guard.is_measurement_due(DiskGuard::MIN_INTERVAL, space(0)));
    }

    #[test]
    fn a_tenant_over_its_limit_is_named_and_raising_the_limit_undoes_it() {
        let guard = measured(0, 11 << 30);
        let excess = guard.excess(id(), 10 << 30).unwrap();
        insta::assert_snapshot!(excess.describe(), @"Its files use 11.0 GiB and it may use 10.0 GiB, so it was stopped. Raise its disk limit (limits.disk_bytes), then start it and delete what it does not need.");
        for limit in [11 << 30, 12 << 30] {
            assert_eq!(guard.excess(id(), limit), None, "{limit}");
        }
        assert_eq!(DiskGuard::default().excess(id(), 1), None, "nothing was measured yet");
    }

    proptest! {
        /// A writer is measured after it wrote [`DiskGuard::GROWTH_BYTES`] and waited, however the
        /// disk fills.
        #[test]
        fn growth_is_never_missed(start in 0u64..1 << 45, written in 0u64..1 << 45, seconds in 15u64..600) {
            let guard = measured(start, 0);
            let free = start.saturating_sub(written);
            let due = guard.is_measurement_due(Duration::from_secs(seconds), space(free));
            prop_assert_eq!(due, start - free >= DiskGuard::GROWTH_BYTES);
        }
    }
}
