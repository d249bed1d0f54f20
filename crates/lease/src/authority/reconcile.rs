//! The deciding half of [`Authority`]. Level-triggered: a decision depends on the current state, never on the order of events.

use protocol::orchestrator::Phase;

use crate::Authority;
use crate::authority::command::{CallId, Command, EngineCall, Grant, LeaseResponse, WakeError};
use crate::authority::sleep_state::{SleepPolicy, SuspendKind};
use crate::authority::suspend::Decision;
use crate::authority::wake_queue::{Waiter, WakeKind};
use crate::time::{Millis, Moment};

const MIN_LINGER: Millis = 100;
const MAX_LINGER: Millis = 10_000;

impl<T: Copy + Ord, H: Copy + Ord, W: Copy + Eq> Authority<T, H, W> {
    /// Returns the response to a lease request if there is one at once; `None` queues the waiter.
    pub(crate) fn respond_or_queue(
        &mut self,
        now: Moment,
        tenant: T,
        is_visit: bool,
        waiter: Waiter<H, W>,
    ) -> Option<LeaseResponse> {
        let Some(entry) = self.tenants.get_mut(&tenant) else {
            return Some(LeaseResponse::Unknown);
        };
        let state = &mut entry.state;
        let is_waking = self.wakes.pending_wake(tenant).is_some();
        if state.is_stop_requested() {
            return Some(LeaseResponse::Stopped);
        }
        if state.accepts_leases() && !is_waking {
            let expires_in = self.settings.lease_duration;
            state.grant_lease(now, waiter.holder, waiter.number, expires_in);
            let linger = linger_for(state.policy(), expires_in);
            return Some(LeaseResponse::Granted(Grant { expires_in, linger, woke: false }));
        }
        let is_changing = is_waking || state.is_suspending();
        match state.phase() {
            // A start from before this orchestrator's own start is waited for while earlier leases
            // could be live.
            Phase::Starting if !is_changing && self.earliest_suspend <= now => {
                return Some(LeaseResponse::NotRunning);
            }
            Phase::Created | Phase::Exited | Phase::Stopped if !is_changing => {
                return Some(LeaseResponse::NotRunning);
            }
            Phase::Sleeping if !is_changing && !is_visit && !state.policy().wake_on_any => {
                return Some(LeaseResponse::WakeRequired);
            }
            Phase::Created
            | Phase::Exited
            | Phase::Starting
            | Phase::Ready
            | Phase::Frozen
            | Phase::Sleeping
            | Phase::Stopped => {}
        }
        state.record_use(now);
        let from = state.phase();
        self.wakes.add_waiter(now, tenant, from, waiter).err().map(|_| {
            self.queue_full_responses += 1;
            LeaseResponse::QueueFull { seed: self.queue_full_responses }
        })
    }

    pub(crate) fn try_begin_call(&mut self, now: Moment, tenant: T, call_id: CallId) -> bool {
        let Some(entry) = self.tenants.get_mut(&tenant) else {
            self.wakes.clear_call(tenant);
            return false;
        };
        if let Some((_, generation)) = entry.suspend.filter(|(id, _)| *id == call_id) {
            let begun = entry.state.begin_suspend(now, generation);
            if !begun {
                entry.suspend = None;
            }
            return begun;
        }
        let Some(call) = self.wakes.call(tenant).filter(|call| call.id == call_id.0) else {
            return false;
        };
        let is_wanted =
            self.wakes.pending_wake(tenant).is_some() && !entry.state.is_stop_requested();
        let is_suspended = match call.kind {
            WakeKind::Thaw => entry.state.phase() == Phase::Frozen,
            WakeKind::Start => entry.state.phase() == Phase::Sleeping,
        };
        if is_wanted && is_suspended {
            self.wakes.mark_running(now, tenant, entry.state.phase());
        } else {
            self.wakes.clear_call(tenant);
        }
        is_wanted && is_suspended
    }

    /// Advances one tenant from its current state as far as it gets without another event.
    pub(crate) fn reconcile_tenant(&mut self, now: Moment, tenant: T) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.state.remove_expired_leases(now);
            // The tenant was suspended from outside, or a call from before a restart took effect
            // late: its holders send no request.
            let must_wake = entry.state.rewake_at().is_some_and(|at| at <= now);
            if must_wake && self.wakes.pending_wake(tenant).is_none() {
                self.wakes.open_wake(now, tenant, entry.state.phase());
            }
        }
        for waiter in self.wakes.take_overdue_waiters(now, tenant) {
            let queue_position = self.wakes.queue_position(tenant).unwrap_or(0);
            self.respond(waiter.id, LeaseResponse::Waking { queue_position });
        }
        if self.wakes.pending_wake(tenant).is_some() {
            self.advance_wake(now, tenant);
        }
        if self.wakes.pending_wake(tenant).is_none()
            && let Some(entry) = self.tenants.get_mut(&tenant)
        {
            let decision = entry.state.next_decision(now);
            self.apply_decision(tenant, decision);
        }
        self.issue_wake_calls();
        self.set_timer(tenant);
    }

    pub(crate) fn respond(&mut self, waiter: W, response: LeaseResponse) {
        self.commands.push_back(Command::Respond { waiter, response });
    }

    pub(crate) fn apply_decision(&mut self, tenant: T, decision: Decision) {
        match decision {
            Decision::Nothing => {}
            Decision::QueryBusy { generation } => {
                self.commands.push_back(Command::QueryBusy { tenant, generation });
            }
            Decision::Suspend { generation, kind } => {
                self.last_call_id += 1;
                let call_id = CallId(self.last_call_id);
                if let Some(entry) = self.tenants.get_mut(&tenant) {
                    entry.suspend = Some((call_id, generation));
                }
                let call = match kind {
                    SuspendKind::Freeze => EngineCall::Freeze,
                    SuspendKind::Stop => EngineCall::Stop,
                    SuspendKind::ThawThenStop => EngineCall::ThawThenStop,
                };
                self.commands.push_back(Command::CallEngine { tenant, call, call_id });
            }
        }
    }

    /// Advances a pending wake by one step.
    fn advance_wake(&mut self, now: Moment, tenant: T) {
        let Some(entry) = self.tenants.get(&tenant) else {
            return self.close_wake(tenant, LeaseResponse::Unknown);
        };
        let (phase, call) = (entry.state.phase(), self.wakes.call(tenant));
        if entry.state.is_stop_requested() {
            return self.close_wake(tenant, LeaseResponse::Stopped);
        }
        if entry.state.is_suspending() {
            return;
        }
        if phase == Phase::Ready {
            return self.complete_wake(now, tenant);
        }
        if call.is_some() {
            return;
        }
        let has_returned =
            self.wakes.pending_wake(tenant).is_some_and(|wake| wake.returned_at.is_some());
        match phase {
            Phase::Frozen => self.wakes.enqueue_call(tenant, WakeKind::Thaw),
            Phase::Sleeping if !has_returned => self.wakes.enqueue_call(tenant, WakeKind::Start),
            Phase::Starting if !has_returned => self.wakes.mark_returned(now, tenant),
            Phase::Starting => {
                if self.wakes.readiness_deadline(tenant).is_some_and(|until| until <= now) {
                    self.fail_wake(now, tenant, WakeError::ReadinessTimeout);
                }
            }
            Phase::Created | Phase::Exited | Phase::Sleeping | Phase::Stopped if has_returned => {
                self.fail_wake(now, tenant, WakeError::Exited);
            }
            Phase::Created | Phase::Exited | Phase::Stopped => {
                self.close_wake(tenant, LeaseResponse::NotRunning);
            }
            Phase::Ready | Phase::Sleeping => {}
        }
    }

    /// Grants a lease to every waiter: the tenant is ready.
    fn complete_wake(&mut self, now: Moment, tenant: T) {
        let Some(wake) = self.wakes.close_wake(tenant) else { return };
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let woke = wake.was_woken();
        if woke {
            let timings = wake.timings(now);
            self.commands.push_back(Command::RecordWake { tenant, timings });
        }
        for waiter in wake.waiters {
            let expires_in = self.settings.lease_duration;
            entry.state.grant_lease(now, waiter.holder, waiter.number, expires_in);
            let linger = linger_for(entry.state.policy(), expires_in);
            let response = LeaseResponse::Granted(Grant { expires_in, linger, woke });
            self.commands.push_back(Command::Respond { waiter: waiter.id, response });
        }
    }

    pub(crate) fn fail_wake(&mut self, now: Moment, tenant: T, error: WakeError) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.state.set_retry_at(now.plus(self.settings.retry_delay));
        }
        self.close_wake(tenant, LeaseResponse::Failed(error));
    }

    /// Ends a wake with the same response to all its waiters.
    pub(crate) fn close_wake(&mut self, tenant: T, response: LeaseResponse) {
        let wake = self.wakes.close_wake(tenant);
        for waiter in wake.into_iter().flat_map(|wake| wake.waiters) {
            self.respond(waiter.id, response);
        }
    }

    /// Issues queued calls while slots are free.
    pub(crate) fn issue_wake_calls(&mut self) {
        while let Some((tenant, call)) = self.wakes.take_next_call(self.last_call_id + 1) {
            self.last_call_id += 1;
            let call_id = CallId(call.id);
            let call = match call.kind {
                WakeKind::Thaw => EngineCall::Thaw,
                WakeKind::Start => EngineCall::Start,
            };
            self.commands.push_back(Command::CallEngine { tenant, call, call_id });
        }
    }

    fn set_timer(&mut self, tenant: T) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let at = match self.wakes.pending_wake(tenant) {
            Some(_) => self.wakes.next_deadline(tenant),
            None => entry.state.next_deadline(),
        };
        if at == entry.timer {
            return;
        }
        if let Some(old) = std::mem::replace(&mut entry.timer, at) {
            self.timers.remove(&(old, tenant));
        }
        self.timers.extend(at.map(|at| (at, tenant)));
    }
}

/// Returns how long a lease may be kept without use: well below the time until the tenant is first suspended, and short
/// enough that a holder that finds its lease in use again at the end of that time can still renew it.
fn linger_for(policy: SleepPolicy, lease_duration: Millis) -> Millis {
    let first = [policy.freeze_after, policy.sleep_after].into_iter().flatten().min();
    let linger = first.map_or(MAX_LINGER, |first| (first / 4).clamp(MIN_LINGER, MAX_LINGER));
    linger.min(lease_duration * 2 / 3)
}
