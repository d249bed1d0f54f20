//! The authority's state of one tenant: its leases, its idle time, and how far it is on the way to being suspended.

use std::collections::BTreeMap;

use protocol::orchestrator::Phase;

use crate::authority::reason::{BusyReport, SleepRecord};
use crate::time::{Millis, Moment};

/// When a tenant is suspended; `None` is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct SleepPolicy {
    pub freeze_after: Option<Millis>,
    pub sleep_after: Option<Millis>,
    /// How long work inside may keep the tenant awake without a break. A visit meanwhile is no break.
    pub max_awake: Option<Millis>,
    /// Every request wakes the tenant from sleep, not only visits.
    pub wake_on_any: bool,
}

/// How a tenant is suspended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum SuspendKind {
    Freeze,
    Stop,
    /// Thaws a frozen tenant before the stop: stopping a paused container ends in SIGKILL.
    ThawThenStop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct GrantedLease {
    pub(crate) number: u64,
    pub(crate) until: Moment,
    pub(crate) requests: u32,
    pub(crate) streams: u32,
}

/// A holder's report of how it uses a tenant: `leases::LeaseUsage` without the tenant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct HolderUsage {
    pub number: u64,
    pub idle: Millis,
    pub requests: u32,
    pub streams: u32,
}

/// How far a tenant is on the way to being suspended. Any use before [`SuspendStep::Suspending`] returns it to
/// [`SuspendStep::Settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum SuspendStep {
    Settled,
    /// The tenant is being queried whether it is busy.
    QueryingBusy {
        generation: u64,
        until: Moment,
    },
    /// The suspend is decided; the engine was not called yet.
    Decided {
        generation: u64,
        kind: SuspendKind,
        report: BusyReport,
    },
    /// The engine is being called. Lease requests wait until the call has finished.
    Suspending {
        generation: u64,
        kind: SuspendKind,
        report: BusyReport,
    },
}

/// Work inside that kept the tenant awake at the last query. `since` is the first busy report in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct BusyPeriod {
    pub(crate) since: Moment,
    pub(crate) reported_at: Moment,
    pub(crate) until: Moment,
}

/// Leases and idle time of one tenant. `H` identifies a holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TenantSleepState<H> {
    pub(crate) phase: Phase,
    /// The tenant was starting when it was added: its readiness is a new phase, and no use.
    pub(crate) was_starting_when_added: bool,
    /// The owner wants the tenant stopped: the authority neither suspends nor wakes the tenant.
    pub(crate) is_stop_requested: bool,
    pub(crate) leases: BTreeMap<H, GrantedLease>,
    /// Grows with every use and with every other event that a decision must not survive.
    pub(crate) generation: u64,
    pub(crate) last_use: Moment,
    pub(crate) policy: SleepPolicy,
    /// No suspend before this moment: leases from before the orchestrator's restart may be live.
    pub(crate) earliest_suspend: Moment,
    /// Until then the tenant is neither suspended nor woken again under a live lease: the engine refused a call, or the
    /// last wake failed. A new lease request starts a wake at once.
    pub(crate) retry_at: Moment,
    pub(crate) busy: Option<BusyPeriod>,
    pub(crate) step: SuspendStep,
    pub(crate) last_sleep: Option<SleepRecord>,
}

impl SleepPolicy {
    /// Converts the wire's form: seconds, 0 is never.
    pub const fn from_seconds(freeze: u32, sleep: u32, max_awake: u32, wake_on_any: bool) -> Self {
        const fn after(seconds: u32) -> Option<Millis> {
            if seconds == 0 { None } else { Some(seconds as Millis * 1_000) }
        }
        let (freeze_after, sleep_after) = (after(freeze), after(sleep));
        Self { freeze_after, sleep_after, max_awake: after(max_awake), wake_on_any }
    }
}

impl<H: Copy + Ord> TenantSleepState<H> {
    /// `last_use` may come from before a restart, and lies ahead of `now` where the machine's clock was set back.
    pub fn new(
        now: Moment,
        phase: Phase,
        policy: SleepPolicy,
        last_use: Moment,
        earliest_suspend: Moment,
    ) -> Self {
        Self {
            phase,
            was_starting_when_added: phase == Phase::Starting,
            is_stop_requested: phase == Phase::Stopped,
            leases: BTreeMap::new(),
            generation: 0,
            last_use: last_use.min(now),
            policy,
            earliest_suspend,
            retry_at: Moment(0),
            busy: None,
            step: SuspendStep::Settled,
            last_sleep: None,
        }
    }

    pub const fn phase(&self) -> Phase {
        self.phase
    }

    pub const fn policy(&self) -> SleepPolicy {
        self.policy
    }

    /// Returns the last use, which the caller persists across restarts.
    pub const fn last_use(&self) -> Moment {
        self.last_use
    }

    pub const fn last_sleep(&self) -> Option<SleepRecord> {
        self.last_sleep
    }

    pub const fn is_stop_requested(&self) -> bool {
        self.is_stop_requested
    }

    /// Whether a call to the engine that suspends the tenant is in flight.
    pub const fn is_suspending(&self) -> bool {
        matches!(self.step, SuspendStep::Suspending { .. })
    }

    /// Whether a lease may be granted at this moment.
    pub fn accepts_leases(&self) -> bool {
        matches!(self.phase, Phase::Ready) && !self.is_stop_requested && !self.is_suspending()
    }

    pub fn set_policy(&mut self, policy: SleepPolicy) {
        self.policy = policy;
        self.invalidate_decision();
    }

    /// Sets the owner's intent, as soon as it is known.
    pub fn set_stop_requested(&mut self, is_stop_requested: bool) {
        self.is_stop_requested = is_stop_requested;
        self.invalidate_decision();
    }

    /// Takes the phase that the engine shows. Ignored while a call that suspends the tenant is in
    /// flight.
    pub fn on_phase_observed(&mut self, now: Moment, phase: Phase) {
        if self.phase == phase || self.is_suspending() {
            return;
        }
        let was_starting_when_added = std::mem::take(&mut self.was_starting_when_added);
        if phase == Phase::Ready {
            // A refusal from before the start does not count.
            self.retry_at = Moment(0);
            if !was_starting_when_added {
                self.record_use(now);
            }
        }
        (self.phase, self.busy) = (phase, None);
        self.invalidate_decision();
    }

    /// Resets the idle time and voids a decision to suspend.
    pub fn record_use(&mut self, at: Moment) {
        self.last_use = self.last_use.max(at);
        self.invalidate_decision();
    }

    pub(crate) fn invalidate_decision(&mut self) {
        self.generation += 1;
        if !self.is_suspending() {
            self.step = SuspendStep::Settled;
        }
    }

    /// Grants a lease. Call only while [`accepts_leases`](Self::accepts_leases).
    pub fn grant_lease(&mut self, now: Moment, holder: H, number: u64, duration: Millis) {
        let old = self.leases.get(&holder).map_or(0, |lease| lease.number);
        let (number, until) = (number.max(old), now.plus(duration));
        self.leases.insert(holder, GrantedLease { number, until, requests: 0, streams: 0 });
        self.record_use(now);
    }

    /// Extends a live lease. Returns `false` when there is none, or when the tenant accepts no leases.
    pub fn renew_lease(
        &mut self,
        now: Moment,
        holder: H,
        usage: HolderUsage,
        duration: Millis,
    ) -> bool {
        self.record_reported_use(now, usage);
        if !self.accepts_leases() {
            return false;
        }
        let Some(lease) = self.leases.get_mut(&holder).filter(|lease| lease.until > now) else {
            return false;
        };
        // An older release that is still in flight must not end the lease that this renewal extends.
        lease.number = lease.number.max(usage.number);
        lease.until = now.plus(duration);
        (lease.requests, lease.streams) = (usage.requests, usage.streams);
        self.invalidate_decision();
        true
    }

    /// Ends a lease, unless it was granted for a newer request than the released one.
    pub fn release_lease(&mut self, now: Moment, holder: H, usage: HolderUsage) {
        self.record_reported_use(now, usage);
        if self.leases.get(&holder).is_some_and(|lease| lease.number <= usage.number) {
            self.leases.remove(&holder);
        }
    }

    fn record_reported_use(&mut self, now: Moment, usage: HolderUsage) {
        let at = now.minus(usage.idle);
        if at > self.last_use {
            self.record_use(at);
        }
    }

    pub fn has_lease(&self, now: Moment) -> bool {
        self.leases.values().any(|lease| lease.until > now)
    }

    /// Returns when to wake a tenant that is suspended under a live lease; its holders send no new request.
    pub(crate) fn rewake_at(&self) -> Option<Moment> {
        let is_suspended = matches!(self.phase, Phase::Frozen | Phase::Sleeping);
        let must_wake = is_suspended
            && !self.is_stop_requested
            && !self.is_suspending()
            && !self.leases.is_empty();
        must_wake.then_some(self.retry_at)
    }

    /// Starts the retry back-off after a failed wake or a refusal of the engine: until `at`, the tenant is neither suspended nor
    /// woken again under a live lease.
    pub(crate) fn set_retry_at(&mut self, at: Moment) {
        self.retry_at = at;
    }

    pub fn remove_expired_leases(&mut self, now: Moment) {
        self.leases.retain(|_, lease| lease.until > now);
    }
}
