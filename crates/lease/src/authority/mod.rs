//! The orchestrator's side of all leases: events in, commands out, one timer. Combines [`TenantSleepState`] and
//! [`WakeQueue`].

pub mod command;
pub mod reason;
mod reconcile;
pub mod sleep_state;
pub mod suspend;
pub mod wake_queue;

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use protocol::orchestrator::Phase;

use crate::authority::command::{
    AuthoritySettings, CallId, CallOutcome, Command, LeaseRequest, LeaseResponse, WakeError,
    WakeProgress,
};
use crate::authority::reason::BusyReport;
use crate::authority::sleep_state::{HolderUsage, SleepPolicy, TenantSleepState};
use crate::authority::wake_queue::WakeQueue;
use crate::time::{Millis, Moment};

/// Grants leases and decides when tenants are suspended and woken. `T` identifies a tenant, `H` a holder, `W` a waiter.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority<T, H, W> {
    pub(crate) settings: AuthoritySettings,
    /// No suspend before: one lease duration after the orchestrator's start.
    pub(crate) earliest_suspend: Moment,
    pub(crate) tenants: BTreeMap<T, TenantEntry<H>>,
    pub(crate) wakes: WakeQueue<T, H, W>,
    pub(crate) timers: BTreeSet<(Moment, T)>,
    pub(crate) commands: VecDeque<Command<T, W>>,
    pub(crate) last_call_id: u64,
    pub(crate) queue_full_responses: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct TenantEntry<H> {
    pub(crate) state: TenantSleepState<H>,
    /// The suspend that was decided last: its call, and the generation it was decided at.
    pub(crate) suspend: Option<(CallId, u64)>,
    pub(crate) timer: Option<Moment>,
}

impl<T: Copy + Ord, H: Copy + Ord, W: Copy + Eq> Authority<T, H, W> {
    /// Creates the authority of an orchestrator that starts now.
    pub fn new(now: Moment, settings: AuthoritySettings) -> Self {
        Self {
            settings,
            earliest_suspend: now.plus(settings.lease_duration),
            tenants: BTreeMap::new(),
            wakes: WakeQueue::new(settings.limits),
            timers: BTreeSet::new(),
            commands: VecDeque::new(),
            last_call_id: 0,
            queue_full_responses: 0,
        }
    }

    // Events. Each may produce commands: call `next_command` until there are none.

    /// Adds a tenant; a known one stays as it is. `last_use` comes from before a restart, or is `now`.
    pub fn add_tenant(
        &mut self,
        now: Moment,
        tenant: T,
        phase: Phase,
        policy: SleepPolicy,
        last_use: Moment,
    ) {
        let state = TenantSleepState::new(now, phase, policy, last_use, self.earliest_suspend);
        self.tenants.entry(tenant).or_insert(TenantEntry { state, suspend: None, timer: None });
        self.reconcile_tenant(now, tenant);
    }

    /// Removes a deleted tenant and responds to its waiters.
    pub fn remove_tenant(&mut self, tenant: T) {
        self.close_wake(tenant, LeaseResponse::Unknown);
        if let Some(TenantEntry { timer: Some(at), .. }) = self.tenants.remove(&tenant) {
            self.timers.remove(&(at, tenant));
        }
        self.issue_wake_calls();
    }

    /// Takes the phase that the engine shows. Must not be called with an observation older than the
    /// last [`Authority::on_call_finished`] of the tenant.
    pub fn on_phase_observed(&mut self, now: Moment, tenant: T, phase: Phase) {
        let is_waking = self.wakes.call(tenant).is_some_and(|call| call.is_running());
        // While a wake's call runs, a phase from before that call is outdated.
        if is_waking && !matches!(phase, Phase::Ready | Phase::Starting) {
            return;
        }
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.state.on_phase_observed(now, phase);
        }
        self.reconcile_tenant(now, tenant);
    }

    /// Sets whether the owner wants the tenant to run. Must be called before the engine is called for the owner.
    pub fn set_owner_intent(&mut self, now: Moment, tenant: T, wants_running: bool) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.state.set_stop_requested(!wants_running);
        }
        self.reconcile_tenant(now, tenant);
    }

    pub fn set_policy(&mut self, now: Moment, tenant: T, policy: SleepPolicy) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.state.set_policy(policy);
        }
        self.reconcile_tenant(now, tenant);
    }

    /// Requests a lease. The response comes as [`Command::Respond`], at once or after a wake.
    pub fn request_lease(&mut self, now: Moment, request: LeaseRequest<T, H, W>) {
        let LeaseRequest { tenant, is_visit, waiter } = request;
        if let Some(response) = self.respond_or_queue(now, tenant, is_visit, waiter) {
            self.respond(waiter.id, response);
        }
        self.reconcile_tenant(now, tenant);
    }

    /// Removes a waiter that needs no response any more.
    pub fn remove_waiter(&mut self, now: Moment, tenant: T, waiter: W) {
        self.wakes.remove_waiter(tenant, waiter);
        self.reconcile_tenant(now, tenant);
    }

    /// Renews a lease. Returns how long it lasts from now on; `None` ends it.
    pub fn renew_lease(
        &mut self,
        now: Moment,
        tenant: T,
        holder: H,
        usage: HolderUsage,
    ) -> Option<Millis> {
        let entry = self.tenants.get_mut(&tenant)?;
        let renewed = entry.state.renew_lease(now, holder, usage, self.settings.lease_duration);
        self.reconcile_tenant(now, tenant);
        renewed.then_some(self.settings.lease_duration)
    }

    pub fn release_lease(&mut self, now: Moment, tenant: T, holder: H, usage: HolderUsage) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.state.release_lease(now, holder, usage);
        }
        self.reconcile_tenant(now, tenant);
    }

    /// Takes the tenant's answer to [`Command::QueryBusy`].
    pub fn on_busy_report(&mut self, now: Moment, tenant: T, generation: u64, report: BusyReport) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let decision = entry.state.on_busy_report(now, generation, report);
        self.apply_decision(tenant, decision);
        self.reconcile_tenant(now, tenant);
    }

    /// Begins an engine call, with the tenant's lock held. Returns `false` when the call is not wanted any more: the caller
    /// must not call the engine.
    pub fn begin_call(&mut self, now: Moment, tenant: T, call_id: CallId) -> bool {
        let begun = self.try_begin_call(now, tenant, call_id);
        self.reconcile_tenant(now, tenant);
        begun
    }

    /// Frees the slot of a call that waits for the tenant's lock, so that other wakes go first.
    pub fn defer_call(&mut self, now: Moment, tenant: T, call_id: CallId) {
        if self.wakes.call(tenant).is_some_and(|call| call.id == call_id.0) {
            self.wakes.defer_call(tenant);
        }
        self.reconcile_tenant(now, tenant);
    }

    /// Decides between the two halves of [`EngineCall::ThawThenStop`](crate::EngineCall::ThawThenStop), with the tenant's
    /// report in between. Returns whether to stop.
    pub fn continue_after_thaw(&mut self, now: Moment, tenant: T, report: BusyReport) -> bool {
        let entry = self.tenants.get_mut(&tenant);
        entry.is_some_and(|entry| entry.state.continue_after_thaw(now, report))
    }

    /// Takes the end of an engine call; `phase` is what the engine shows now.
    pub fn on_call_finished(
        &mut self,
        now: Moment,
        tenant: T,
        call_id: CallId,
        outcome: CallOutcome,
        phase: Phase,
    ) {
        let was_refused = outcome == CallOutcome::Refused;
        let Some(entry) = self.tenants.get_mut(&tenant) else {
            self.wakes.clear_call(tenant);
            return self.issue_wake_calls();
        };
        if entry.suspend.is_some_and(|(id, _)| id == call_id) {
            entry.suspend = None;
            entry.state.on_suspend_finished(now, phase, was_refused, self.settings.retry_delay);
        } else if self.wakes.call(tenant).is_some_and(|call| call.id == call_id.0) {
            self.wakes.clear_call(tenant);
            // The tenant may have been ready before the call returned.
            if !(phase == Phase::Starting && entry.state.phase() == Phase::Ready) {
                entry.state.on_phase_observed(now, phase);
            }
            let is_running = matches!(entry.state.phase(), Phase::Ready | Phase::Starting);
            if was_refused && !is_running {
                self.fail_wake(now, tenant, WakeError::EngineRefused);
            } else {
                self.wakes.mark_returned(now, tenant);
            }
        }
        self.reconcile_tenant(now, tenant);
    }

    /// Handles every deadline up to `now`.
    pub fn tick(&mut self, now: Moment) {
        let due: Vec<_> = self.timers.iter().take_while(|(at, _)| *at <= now).copied().collect();
        for (_, tenant) in due {
            self.reconcile_tenant(now, tenant);
        }
    }

    pub fn next_command(&mut self) -> Option<Command<T, W>> {
        self.commands.pop_front()
    }

    /// Returns when to call [`Authority::tick`], if no event comes first.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at)
    }

    // Read-only views.

    pub fn sleep_state(&self, tenant: T) -> Option<&TenantSleepState<H>> {
        self.tenants.get(&tenant).map(|entry| &entry.state)
    }

    /// Whether leases and engine calls from before the orchestrator's restart may still be live.
    pub fn is_starting_up(&self, now: Moment) -> bool {
        self.earliest_suspend > now
    }

    pub const fn wake_queue(&self) -> &WakeQueue<T, H, W> {
        &self.wakes
    }

    pub fn wake_progress(&self, now: Moment, tenant: T) -> Option<WakeProgress> {
        let phase = self.sleep_state(tenant)?.phase();
        let Some(wake) = self.wakes.pending_wake(tenant) else {
            return Some(WakeProgress::NotWaking(phase));
        };
        let elapsed = wake.elapsed(now);
        let is_running = self.wakes.call(tenant).is_some_and(|call| call.is_running());
        Some(match (wake.returned_at, is_running) {
            (Some(_), _) => WakeProgress::Booting { elapsed },
            (None, true) => WakeProgress::Starting { elapsed },
            (None, false) => {
                let queue_position = self.wakes.queue_position(tenant).unwrap_or(0);
                WakeProgress::Queued { queue_position, elapsed }
            }
        })
    }
}
