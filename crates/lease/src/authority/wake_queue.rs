//! Wakes of all tenants: one pending wake per tenant, its waiters, and the queue for the engine's
//! start and thaw slots.
//!
//! A `PendingWake` records that a tenant is *wanted*; a `WakeCall` records the call that the
//! engine *received*. They are separate because a tenant can be ready before the engine's call has
//! returned, and no second call may start until then.

use std::collections::{BTreeMap, VecDeque};

use protocol::orchestrator::Phase;

use crate::time::{Millis, Moment};

/// The bounds of the wake queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WakeLimits {
    /// Engine calls that start a tenant, at once.
    pub concurrent_starts: usize,
    /// Engine calls that thaw a tenant, at once.
    pub concurrent_thaws: usize,
    /// Pending wakes that wait for an engine call of either kind.
    pub queued_wakes: usize,
    pub waiters_per_tenant: usize,
    /// Waiters of all tenants together.
    pub waiters: usize,
    /// The limit from the return of the engine's call to readiness.
    pub readiness_timeout: Millis,
}

/// A lease request without a response. `W` identifies it to the caller.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter<H, W> {
    pub id: W,
    pub holder: H,
    /// `leases::LeaseRequest::number`.
    pub number: u64,
    /// The waiter gets its response by then, whatever happens.
    pub deadline: Moment,
}

/// How a tenant is woken: from frozen or from sleeping.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum WakeKind {
    Thaw,
    Start,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum WakeCallState {
    /// The command was issued; the call waits for the tenant's lock.
    Issued,
    /// Another operation holds the tenant's lock: the call takes no slot until it begins.
    Deferred,
    Running,
}

/// An engine call that wakes a tenant: issued or running.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WakeCall {
    pub(crate) id: u64,
    pub(crate) kind: WakeKind,
    pub(crate) state: WakeCallState,
}

impl WakeCall {
    pub(crate) fn is_running(self) -> bool {
        self.state == WakeCallState::Running
    }
}

/// A tenant that is wanted and not ready, with the requests that wait for it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PendingWake<H, W> {
    pub(crate) waiters: Vec<Waiter<H, W>>,
    pub(crate) from: Phase,
    pub(crate) requested_at: Moment,
    pub(crate) begun_at: Option<Moment>,
    /// When the engine's call returned.
    pub(crate) returned_at: Option<Moment>,
}

/// How long a wake took, by its parts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct WakeTimings {
    pub ready_at: Moment,
    /// [`Phase::Frozen`] or [`Phase::Sleeping`]; [`Phase::Starting`] for a start that this orchestrator did not begin.
    pub from: Phase,
    pub total: Millis,
    /// The time behind other wakes, or behind the tenant's own suspend.
    pub queue: Millis,
    /// The engine's call.
    pub engine: Millis,
    /// The time from the return of the engine's call to readiness.
    pub boot: Millis,
}

/// The wake queue has no room for another waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct QueueFullError;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct WakeQueue<T, H, W> {
    pub(crate) limits: WakeLimits,
    pub(crate) pending: BTreeMap<T, PendingWake<H, W>>,
    pub(crate) calls: BTreeMap<T, WakeCall>,
    pub(crate) queued_thaws: VecDeque<T>,
    pub(crate) queued_starts: VecDeque<T>,
    pub(crate) waiter_count: usize,
}

impl<T: Copy + Ord, H: Copy, W: Copy + Eq> WakeQueue<T, H, W> {
    pub fn new(limits: WakeLimits) -> Self {
        Self {
            limits,
            pending: BTreeMap::new(),
            calls: BTreeMap::new(),
            queued_thaws: VecDeque::new(),
            queued_starts: VecDeque::new(),
            waiter_count: 0,
        }
    }

    /// Adds a waiter to the tenant's pending wake, or opens one.
    ///
    /// # Errors
    /// [`QueueFullError`] beyond one of the [`WakeLimits`].
    pub fn add_waiter(
        &mut self,
        now: Moment,
        tenant: T,
        from: Phase,
        waiter: Waiter<H, W>,
    ) -> Result<(), QueueFullError> {
        let waiting = self.pending.get(&tenant).map(|wake| wake.waiters.len());
        if self.waiter_count >= self.limits.waiters
            || waiting.is_some_and(|waiting| waiting >= self.limits.waiters_per_tenant)
            || waiting.is_none() && self.queued_count() >= self.limits.queued_wakes
        {
            return Err(QueueFullError);
        }
        self.waiter_count += 1;
        self.open_wake(now, tenant, from).waiters.push(waiter);
        Ok(())
    }

    /// Returns the tenant's pending wake, opened without a waiter if there is none.
    pub(crate) fn open_wake(
        &mut self,
        now: Moment,
        tenant: T,
        from: Phase,
    ) -> &mut PendingWake<H, W> {
        self.pending.entry(tenant).or_insert_with(|| PendingWake {
            waiters: Vec::new(),
            from,
            requested_at: now,
            begun_at: None,
            returned_at: None,
        })
    }

    /// Removes a waiter. The wake goes on, because a client wanted the tenant.
    pub fn remove_waiter(&mut self, tenant: T, waiter: W) {
        if let Some(wake) = self.pending.get_mut(&tenant) {
            let before = wake.waiters.len();
            wake.waiters.retain(|w| w.id != waiter);
            self.waiter_count -= before - wake.waiters.len();
        }
    }

    /// Removes and returns the waiters past their deadline. The wake goes on.
    pub fn take_overdue_waiters(&mut self, now: Moment, tenant: T) -> Vec<Waiter<H, W>> {
        let Some(wake) = self.pending.get_mut(&tenant) else { return Vec::new() };
        let overdue: Vec<_> = wake.waiters.iter().filter(|w| w.deadline <= now).copied().collect();
        wake.waiters.retain(|w| w.deadline > now);
        self.waiter_count -= overdue.len();
        overdue
    }

    /// Queues an engine call for the tenant.
    pub(crate) fn enqueue_call(&mut self, tenant: T, kind: WakeKind) {
        let queue = match kind {
            WakeKind::Thaw => &mut self.queued_thaws,
            WakeKind::Start => &mut self.queued_starts,
        };
        if !queue.contains(&tenant) {
            queue.push_back(tenant);
        }
    }

    /// Takes the next queued call for which a slot is free, and issues it under `id`.
    pub(crate) fn take_next_call(&mut self, id: u64) -> Option<(T, WakeCall)> {
        let kind =
            [WakeKind::Thaw, WakeKind::Start].into_iter().find(|kind| self.has_free_slot(*kind))?;
        let queue = match kind {
            WakeKind::Thaw => &mut self.queued_thaws,
            WakeKind::Start => &mut self.queued_starts,
        };
        let calls = &self.calls;
        let is_free = |tenant: &T| !calls.contains_key(tenant);
        let position = queue.iter().position(is_free)?;
        let tenant = queue.remove(position)?;
        let call = WakeCall { id, kind, state: WakeCallState::Issued };
        self.calls.insert(tenant, call);
        Some((tenant, call))
    }

    fn has_free_slot(&self, kind: WakeKind) -> bool {
        let (queue, limit) = match kind {
            WakeKind::Thaw => (&self.queued_thaws, self.limits.concurrent_thaws),
            WakeKind::Start => (&self.queued_starts, self.limits.concurrent_starts),
        };
        self.active_calls(kind) < limit && queue.iter().any(|t| !self.calls.contains_key(t))
    }

    pub(crate) fn call(&self, tenant: T) -> Option<WakeCall> {
        self.calls.get(&tenant).copied()
    }

    pub(crate) fn mark_running(&mut self, now: Moment, tenant: T, from: Phase) {
        if let Some(call) = self.calls.get_mut(&tenant) {
            call.state = WakeCallState::Running;
        }
        if let Some(wake) = self.pending.get_mut(&tenant) {
            (wake.begun_at, wake.returned_at) = (Some(now), None);
            wake.from = from;
        }
    }

    pub(crate) fn defer_call(&mut self, tenant: T) {
        if let Some(call) = self.calls.get_mut(&tenant) {
            call.state = WakeCallState::Deferred;
        }
    }

    /// Clears a call that has returned, or that is not wanted any more.
    pub(crate) fn clear_call(&mut self, tenant: T) {
        self.calls.remove(&tenant);
    }

    /// Starts the readiness timeout: the tenant runs.
    pub(crate) fn mark_returned(&mut self, now: Moment, tenant: T) {
        if let Some(wake) = self.pending.get_mut(&tenant) {
            wake.returned_at.get_or_insert(now);
        }
    }

    pub(crate) fn pending_wake(&self, tenant: T) -> Option<&PendingWake<H, W>> {
        self.pending.get(&tenant)
    }

    /// Removes the tenant's wake. The caller responds to its waiters.
    pub(crate) fn close_wake(&mut self, tenant: T) -> Option<PendingWake<H, W>> {
        self.queued_starts.retain(|t| *t != tenant);
        self.queued_thaws.retain(|t| *t != tenant);
        let wake = self.pending.remove(&tenant)?;
        self.waiter_count -= wake.waiters.len();
        Some(wake)
    }

    /// Returns how many wakes are before the tenant's wake; `None` when that wake does not wait for
    /// a call.
    pub fn queue_position(&self, tenant: T) -> Option<usize> {
        let position = |queue: &VecDeque<T>| queue.iter().position(|t| *t == tenant);
        position(&self.queued_starts).or_else(|| position(&self.queued_thaws))
    }

    pub const fn waiter_count(&self) -> usize {
        self.waiter_count
    }

    pub fn queued_count(&self) -> usize {
        self.queued_starts.len() + self.queued_thaws.len()
    }

    /// Returns how many calls of `kind` hold a slot.
    pub fn active_calls(&self, kind: WakeKind) -> usize {
        let holds_slot =
            |call: &&WakeCall| call.kind == kind && call.state != WakeCallState::Deferred;
        self.calls.values().filter(holds_slot).count()
    }

    pub(crate) fn readiness_deadline(&self, tenant: T) -> Option<Moment> {
        let returned_at = self.pending_wake(tenant)?.returned_at;
        returned_at.map(|at| at.plus(self.limits.readiness_timeout))
    }

    pub(crate) fn next_deadline(&self, tenant: T) -> Option<Moment> {
        let wake = self.pending_wake(tenant)?;
        let waiters = wake.waiters.iter().map(|w| w.deadline);
        waiters.chain(self.readiness_deadline(tenant)).min()
    }
}

impl<H, W> PendingWake<H, W> {
    pub(crate) fn elapsed(&self, now: Moment) -> Millis {
        now.since(self.requested_at)
    }

    /// Whether the engine was called for this wake, or the tenant was found starting.
    pub(crate) fn was_woken(&self) -> bool {
        self.begun_at.is_some() || self.returned_at.is_some()
    }

    pub(crate) fn timings(&self, now: Moment) -> WakeTimings {
        let begun_at = self.begun_at.unwrap_or(self.requested_at);
        let returned_at = self.returned_at.unwrap_or(now);
        WakeTimings {
            ready_at: now,
            from: self.from,
            total: now.since(self.requested_at),
            queue: begun_at.since(self.requested_at),
            engine: returned_at.since(begun_at),
            boot: now.since(returned_at),
        }
    }
}
