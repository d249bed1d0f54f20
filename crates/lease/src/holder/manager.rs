//! The holder's side of all leases of one router process: events in, commands out, one timer.
//!
//! Decides which lease requests are sent (one per tenant at a time), and which waiters wait for
//! them. Also decides how long a refusal is reused, when to renew and release, and how requests are
//! treated while the orchestrator is unreachable.

use std::collections::{BTreeMap, VecDeque};

use crate::holder::command::{
    CurrentUsage, ManagerCommand, ManagerSettings, RequestOutcome, RouteStatus, TenantRequest,
};
use crate::holder::entry::LeaseEntry;
use crate::holder::error::LeaseError;
use crate::holder::lease::{DueAction, LeaseCall};
use crate::holder::outage::{CallHealth, OrchestratorStatus, Outage};
use crate::time::{Millis, Moment};

/// How long one lease request may wait for a wake at the orchestrator. Shorter than a lease, which counts from when the
/// request was sent. Waiters that wait longer get a second request.
pub const REQUEST_WAIT: Millis = 10_000;
/// No event reports the end of a tenant's last request: the manager checks a tenant in use at least
/// this often.
const USAGE_CHECK_INTERVAL: Millis = 1_000;
const MIN_USAGE_CHECK_INTERVAL: Millis = 50;
/// Minimum time between two ticks, and while the orchestrator is unreachable.
pub(crate) const MIN_TICK_INTERVAL: Millis = 20;
const MIN_TICK_INTERVAL_UNREACHABLE: Millis = 100;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseManager<T, W> {
    pub(crate) settings: ManagerSettings,
    pub(crate) tenants: BTreeMap<T, LeaseEntry<W>>,
    pub(crate) outage: Outage,
    /// The number of the last lease request, for any tenant.
    pub(crate) last_number: u64,
    /// When to call [`LeaseManager::tick`].
    pub(crate) due: Option<Moment>,
    pub(crate) commands: VecDeque<ManagerCommand<T, W>>,
}

impl<T: Copy + Ord, W: Copy + Eq> LeaseManager<T, W> {
    pub fn new(settings: ManagerSettings) -> Self {
        let (tenants, outage, commands) = (BTreeMap::new(), Outage::default(), VecDeque::new());
        Self { settings, tenants, outage, last_number: 0, due: None, commands }
    }

    // Events. Each may produce commands: call `next_command` until there are none.

    /// Serves, refuses or queues a request, and sends a lease request where one is needed.
    pub fn request_tenant(&mut self, now: Moment, tenant: T, request: TenantRequest<W>) {
        let TenantRequest { intent, route, retries_failure, waiter } = request;
        let entry = self.tenants.entry(tenant).or_default();
        entry.route = route;
        if retries_failure {
            (entry.failure, entry.not_running_until) = (None, Moment(0));
        }
        if entry.holder.may_send(now) {
            let serve = waiter.map(|waiter| ManagerCommand::ServeLeased { tenant, waiter });
            return self.commands.extend(serve);
        }
        if let Some(error) = entry.known_error(now, intent) {
            return self.refuse(waiter, error);
        }
        if let Some(id) = waiter {
            let may_request = entry.request.is_none();
            let is_outage_long = self.outage.is_longer_than(now, self.settings.outage_grace);
            if is_outage_long && !entry.is_running() {
                self.refuse(waiter, LeaseError::OrchestratorUnavailable);
                if may_request && self.outage.take_retry(now) {
                    self.send_request(now, tenant, intent);
                }
                return;
            }
            if entry.waiters.len() >= self.settings.waiters_per_tenant {
                return self.refuse(waiter, LeaseError::RouterQueueFull);
            }
            entry.waiters.push((id, intent));
        }
        if entry.may_request() {
            self.send_request(now, tenant, intent);
        }
    }

    /// Removes a waiter that needs no result any more.
    pub fn remove_waiter(&mut self, now: Moment, tenant: T, waiter: W) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.waiters.retain(|(id, _)| *id != waiter);
        }
        self.forget_if_unneeded(now, tenant);
    }

    /// Drops the lease: the tenant is at another address than the leased one, or does not answer there.
    pub fn discard_lease(&mut self, tenant: T) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.holder.discard_lease();
        }
    }

    /// Sets the status of one tenant in the route table.
    pub fn on_route_changed(&mut self, now: Moment, tenant: T, route: RouteStatus) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        (entry.route, entry.not_running_until) = (route, Moment(0));
        self.forget_if_unneeded(now, tenant);
    }

    /// Handles a finished lease request.
    pub fn on_request_finished(
        &mut self,
        now: Moment,
        tenant: T,
        call: LeaseCall,
        outcome: RequestOutcome,
    ) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let Some(request) = entry.request.take_if(|request| request.call == call) else { return };
        self.commands.push_back(ManagerCommand::SetQueuePosition { tenant, queue_position: None });
        match outcome {
            RequestOutcome::Granted { terms, woke } => {
                self.set_reachable(now);
                self.on_granted(now, tenant, call, terms, woke);
            }
            RequestOutcome::UnknownRoute => {
                self.set_reachable(now);
                self.refuse_waiters(tenant, &LeaseError::NotRunning);
            }
            RequestOutcome::Refused(error) => {
                self.set_reachable(now);
                self.on_refused(now, tenant, request, error);
            }
            RequestOutcome::CallFailed(health) => {
                self.on_call_health(now, health);
                match health {
                    CallHealth::NoResponse => {}
                    CallHealth::OutOfResources => {
                        self.refuse_waiters(tenant, &LeaseError::OutOfResources);
                    }
                    CallHealth::Failed { .. } | CallHealth::Responded => {
                        self.refuse_waiters(tenant, &LeaseError::OrchestratorUnavailable);
                    }
                }
            }
        }
        self.forget_if_unneeded(now, tenant);
    }

    /// Handles the response to a renewal: `leases::RenewedLease::expires_in_ms`; `None` ends the lease.
    pub fn on_renewed(
        &mut self,
        now: Moment,
        tenant: T,
        call: LeaseCall,
        expires_in: Option<Millis>,
    ) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        entry.holder.on_renewed(call, expires_in);
        let valid_until = entry.holder.valid_until();
        self.commands.push_back(ManagerCommand::Publish { tenant, valid_until });
        self.forget_if_unneeded(now, tenant);
    }

    /// Updates the status of the orchestrator by the outcome of a call.
    pub fn on_call_health(&mut self, now: Moment, health: CallHealth) {
        match health {
            CallHealth::Responded => self.set_reachable(now),
            CallHealth::NoResponse => {
                if self.outage.set_unreachable(now) {
                    self.commands
                        .push_back(ManagerCommand::SetStatus(OrchestratorStatus::Unreachable));
                }
                self.serve_all_without_orchestrator(now);
            }
            CallHealth::Failed { rejects_calls } => {
                let was_unreachable = self.outage.is_unreachable();
                let changed = self.outage.set_faulty(now, rejects_calls);
                self.report_status(now, changed, was_unreachable);
            }
            CallHealth::OutOfResources => {}
        }
    }

    pub fn on_probe_finished(&mut self, now: Moment, health: CallHealth) {
        self.outage.is_probing = false;
        self.on_call_health(now, health);
        if let Some(at) = self.next_wait_deadline() {
            self.schedule_by(at);
        }
    }

    /// Handles every deadline up to `now`. `usage` returns how a tenant is used at this moment.
    pub fn tick(&mut self, now: Moment, mut usage: impl FnMut(T) -> CurrentUsage) {
        self.probe_if_silent(now);
        let (mut unleased, mut deadline) = (Vec::new(), None::<Moment>);
        for (tenant, entry) in &mut self.tenants {
            let tenant = *tenant;
            let CurrentUsage { in_use, last_used } = usage(tenant);
            match entry.holder.due_action(now, in_use, last_used) {
                DueAction::Nothing => {}
                DueAction::Renew => {
                    let call = entry.holder.begin_renewal(now);
                    let send = call.map(|call| ManagerCommand::SendRenewal { tenant, call });
                    self.commands.extend(send);
                }
                DueAction::Release => {
                    self.commands.push_back(ManagerCommand::Release { tenant, last_used });
                    continue;
                }
                DueAction::Request if entry.may_request() => unleased.push(tenant),
                DueAction::Request => {}
            }
            let next = entry.holder.next_deadline(in_use, last_used).map(|at| {
                let pause = entry.linger.clamp(MIN_USAGE_CHECK_INTERVAL, USAGE_CHECK_INTERVAL);
                if in_use { at.min(now.plus(pause)) } else { at }
            });
            deadline = deadline.into_iter().chain(next).min();
        }
        self.send_due_requests(now, unleased);
        let is_unreachable = self.outage.is_unreachable();
        let pause = if is_unreachable { MIN_TICK_INTERVAL_UNREACHABLE } else { MIN_TICK_INTERVAL };
        let next = deadline.into_iter().chain(self.next_wait_deadline()).min();
        // A deadline may lie in the past: that of a request in flight, or of a tenant without
        // requests while unreachable.
        self.due = next.map(|at| at.max(now.plus(pause)));
    }

    /// Ends the lease and returns the number to release. Call with the published lease cleared.
    pub fn begin_release(&mut self, now: Moment, tenant: T) -> Option<u64> {
        let released = self.tenants.get_mut(&tenant)?.holder.begin_release();
        self.forget_if_unneeded(now, tenant);
        released
    }

    /// Keeps a lease that was about to be released, because the tenant is in use again. Returns until when requests may be
    /// sent: the caller publishes that at once, because until then requests find no lease.
    #[must_use]
    pub fn keep_lease(&mut self, now: Moment, tenant: T) -> Moment {
        self.schedule_by(now.plus(MIN_TICK_INTERVAL));
        self.valid_until(tenant)
    }

    pub fn next_command(&mut self) -> Option<ManagerCommand<T, W>> {
        self.commands.pop_front()
    }

    /// Returns when to call [`LeaseManager::tick`], if no event comes first.
    pub const fn next_deadline(&self) -> Option<Moment> {
        self.due
    }

    // Read-only views.

    /// Returns the tenants that the manager holds state of.
    pub fn tenants(&self) -> impl Iterator<Item = T> + '_ {
        self.tenants.keys().copied()
    }

    /// Returns until when requests may be sent to the tenant; the epoch without a lease.
    pub fn valid_until(&self, tenant: T) -> Moment {
        self.tenants.get(&tenant).map_or(Moment(0), |entry| entry.holder.valid_until())
    }

    pub fn live_leases(&self, now: Moment) -> usize {
        self.tenants.values().filter(|entry| entry.holder.may_send(now)).count()
    }

    pub const fn status(&self) -> OrchestratorStatus {
        self.outage.status
    }
}
