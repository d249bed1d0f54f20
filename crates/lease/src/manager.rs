//! The holder's side of all leases of one router process: events in, commands out, one timer.
//!
//! Decides which lease requests are sent (one per tenant at a time), and which waiters wait for
//! them. Also decides how long a refusal is reused, when to renew and release, and how requests are
//! treated while the orchestrator is away.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use protocol::leases::RequestIntent;

use crate::holder::{DueAction, Holder, LeaseCall, LeaseTerms};
use crate::lease_error::LeaseError;
use crate::outage::{CallHealth, OrchestratorStatus, Outage, SILENCE_TIMEOUT};
use crate::time::{Millis, Moment};

/// How long one lease request may wait for a wake at the orchestrator. Shorter than a lease, which counts from when the
/// request was sent. Waiters that wait longer get a second request.
pub const REQUEST_WAIT: Millis = 10_000;
/// How long a refusal is reused for later requests, by its reason.
const SLEEPING_REUSE: Millis = 1_000;
const NOT_RUNNING_REUSE: Millis = 1_000;
const FAILURE_REUSE: Millis = 10_000;
/// No event reports the end of a tenant's last request: the manager checks a tenant in use at least
/// this often.
const USAGE_CHECK_INTERVAL: Millis = 1_000;
const MIN_USAGE_CHECK_INTERVAL: Millis = 50;
/// Minimum time between two ticks, and while the orchestrator is away.
const MIN_TICK_INTERVAL: Millis = 20;
const MIN_TICK_INTERVAL_AWAY: Millis = 100;
/// Minimum time between two lease requests for one tenant while the orchestrator is away.
const RETRY_DELAY_AWAY: Millis = 1_000;
/// Lease requests per tick while the orchestrator is away: enough to notice that it is back.
const MAX_REQUESTS_PER_TICK_AWAY: usize = 4;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ManagerSettings {
    pub waiters_per_tenant: usize,
    /// A restart of the orchestrator takes at most this long. Requests for a tenant that does not run wait that long, and
    /// are refused at once after that.
    pub outage_grace: Millis,
}

/// A request that wants a tenant. `W` identifies its waiter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct TenantRequest<W> {
    pub intent: RequestIntent,
    /// The route table shows that the tenant runs, with an address.
    pub is_running: bool,
    /// The sender knows that the last wake failed, and requests another wake.
    pub retries_failure: bool,
    /// `None`: no waiter needs the result.
    pub waiter: Option<W>,
}

/// How a lease request ended.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestOutcome {
    Granted {
        terms: LeaseTerms,
        /// The tenant was woken for this lease.
        woke: bool,
    },
    /// The lease is for a tenant that the route table does not know.
    UnknownRoute,
    /// The orchestrator refused the lease.
    Refused(LeaseError),
    /// The call failed: everything but [`CallHealth::Answered`].
    CallFailed(CallHealth),
}

/// How a tenant is used at this moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct CurrentUsage {
    /// A request is in flight, or a stream had data within the last linger time.
    pub in_use: bool,
    /// The end of the last request, or the last data of a stream.
    pub last_used: Moment,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum ManagerCommand<T, W> {
    /// Send a lease request, then call [`LeaseManager::on_request_finished`].
    SendRequest {
        tenant: T,
        call: LeaseCall,
        intent: RequestIntent,
    },
    /// Renew the lease, together with others, then call [`LeaseManager::on_renewed`].
    SendRenewal {
        tenant: T,
        call: LeaseCall,
    },
    /// Clear the published lease, then check that no request has used the tenant after `last_used`.
    /// If so call [`LeaseManager::begin_release`] and send the release, otherwise
    /// [`LeaseManager::keep_lease`].
    Release {
        tenant: T,
        last_used: Moment,
    },
    /// Make a call that the orchestrator always answers at once, then call
    /// [`LeaseManager::on_probe_finished`].
    SendProbe,
    /// The tenant is leased at the address of the last grant that the manager received.
    AdoptGrant {
        tenant: T,
        valid_until: Moment,
        woke: bool,
        is_awaited: bool,
    },
    /// Requests may be sent until this moment; the epoch stops them.
    Publish {
        tenant: T,
        valid_until: Moment,
    },
    /// Let the waiter send its request under the lease.
    ServeLeased {
        tenant: T,
        waiter: W,
    },
    /// Let the waiter send its request without a lease: the orchestrator is away, and the tenant runs.
    ServeUnleased {
        tenant: T,
        waiter: W,
    },
    Refuse {
        waiter: W,
        error: LeaseError,
    },
    /// The number of wakes before that of the tenant; `None` once the number is unknown.
    SetQueuePosition {
        tenant: T,
        queue_position: Option<u32>,
    },
    /// The status of the orchestrator changed.
    SetStatus(OrchestratorStatus),
    /// The tenant has become unknown, and the manager holds no more state of it.
    Forget {
        tenant: T,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PendingRequest {
    pub(crate) call: LeaseCall,
    pub(crate) intent: RequestIntent,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct LeaseEntry<W> {
    pub(crate) holder: Holder,
    pub(crate) linger: Millis,
    pub(crate) is_running: bool,
    /// The one lease request in flight, for all waiters.
    pub(crate) request: Option<PendingRequest>,
    pub(crate) waiters: Vec<(W, RequestIntent)>,
    /// The orchestrator was away: when to send the next request for the waiters.
    pub(crate) retry_at: Option<Moment>,
    /// The manager refuses background requests until then: the tenant sleeps.
    pub(crate) sleeping_until: Moment,
    /// The manager refuses requests until then: the tenant does not run.
    pub(crate) not_running_until: Moment,
    /// The manager refuses requests until then, with this reason: the last wake failed.
    pub(crate) failure: Option<(Moment, Arc<str>)>,
}

impl<W> Default for LeaseEntry<W> {
    fn default() -> Self {
        Self {
            holder: Holder::default(),
            linger: 0,
            is_running: false,
            request: None,
            waiters: Vec::new(),
            retry_at: None,
            sleeping_until: Moment(0),
            not_running_until: Moment(0),
            failure: None,
        }
    }
}

impl<W> LeaseEntry<W> {
    /// Returns the refusal that the manager knows without a call.
    fn known_error(&self, now: Moment, intent: RequestIntent) -> Option<LeaseError> {
        match &self.failure {
            // The tenant runs: earlier refusals are outdated.
            _ if self.is_running => None,
            Some((until, reason)) if *until > now => Some(LeaseError::WakeFailed(reason.clone())),
            _ if self.not_running_until > now => Some(LeaseError::NotRunning),
            _ if intent == RequestIntent::Background && self.sleeping_until > now => {
                Some(LeaseError::WakeRequired)
            }
            Some(_) | None => None,
        }
    }

    fn may_request(&self) -> bool {
        self.request.is_none() && self.retry_at.is_none()
    }
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct LeaseManager<T, W> {
    pub(crate) settings: ManagerSettings,
    pub(crate) tenants: BTreeMap<T, LeaseEntry<W>>,
    pub(crate) outage: Outage,
    /// When to call [`LeaseManager::tick`].
    pub(crate) due: Option<Moment>,
    pub(crate) commands: VecDeque<ManagerCommand<T, W>>,
}

impl<T: Copy + Ord, W: Copy + Eq> LeaseManager<T, W> {
    pub fn new(settings: ManagerSettings) -> Self {
        let (tenants, outage) = (BTreeMap::new(), Outage::default());
        Self { settings, tenants, outage, due: None, commands: VecDeque::new() }
    }

    // Events. Each may produce commands: call `next_command` until there are none.

    /// Serves, refuses or queues a request, and sends a lease request where one is needed.
    pub fn request_tenant(&mut self, now: Moment, tenant: T, request: TenantRequest<W>) {
        let TenantRequest { intent, is_running, retries_failure, waiter } = request;
        let entry = self.tenants.entry(tenant).or_default();
        entry.is_running = is_running;
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
            if !is_running && self.outage.is_longer_than(now, self.settings.outage_grace) {
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
    pub fn remove_waiter(&mut self, tenant: T, waiter: W) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.waiters.retain(|(id, _)| *id != waiter);
        }
    }

    /// Drops the lease: the tenant is at another address than the leased one, or does not answer there.
    pub fn discard_lease(&mut self, tenant: T) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.holder.discard_lease();
        }
    }

    /// Takes a new route table. `is_running` returns `None` for a tenant that the table does not contain.
    pub fn on_routes_changed(
        &mut self,
        now: Moment,
        mut is_running: impl FnMut(T) -> Option<bool>,
    ) {
        let commands = &mut self.commands;
        self.tenants.retain(|tenant, entry| {
            entry.not_running_until = Moment(0);
            let running = is_running(*tenant);
            entry.is_running = running.unwrap_or(false);
            let is_needed =
                entry.holder.may_send(now) || !entry.waiters.is_empty() || entry.request.is_some();
            let stays = running.is_some() || is_needed;
            if !stays {
                commands.push_back(ManagerCommand::Forget { tenant: *tenant });
            }
            stays
        });
    }

    /// Takes the end of a lease request.
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
            RequestOutcome::CallFailed(CallHealth::NoAnswer) => {
                self.set_away(now);
                self.serve_without_orchestrator(now, tenant);
            }
            RequestOutcome::CallFailed(CallHealth::OutOfResources) => {
                self.refuse_waiters(tenant, &LeaseError::OutOfResources);
            }
            RequestOutcome::CallFailed(
                health @ (CallHealth::Fault { .. } | CallHealth::Answered),
            ) => {
                self.on_call_health(now, health);
                self.refuse_waiters(tenant, &LeaseError::OrchestratorUnavailable);
            }
        }
    }

    /// Takes the response to a renewal: `leases::RenewedLease::expires_in_ms`; `None` ends the lease.
    pub fn on_renewed(&mut self, tenant: T, call: LeaseCall, expires_in: Option<Millis>) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.holder.on_renewed(call, expires_in);
            let valid_until = entry.holder.valid_until();
            self.commands.push_back(ManagerCommand::Publish { tenant, valid_until });
        }
    }

    /// Takes the health of the orchestrator from a call that concerns no single tenant.
    pub fn on_call_health(&mut self, now: Moment, health: CallHealth) {
        match health {
            CallHealth::Answered => self.set_reachable(now),
            CallHealth::NoAnswer => {
                self.set_away(now);
                self.serve_all_without_orchestrator(now);
            }
            CallHealth::Fault { rejects_calls } => {
                let was_away = self.outage.is_away();
                let changed = self.outage.set_faulty(now, rejects_calls);
                self.report_status(now, changed, was_away);
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
        let is_away = self.outage.is_away();
        let pause = if is_away { MIN_TICK_INTERVAL_AWAY } else { MIN_TICK_INTERVAL };
        let next = deadline.into_iter().chain(self.next_wait_deadline()).min();
        // A deadline may lie in the past: that of a request in flight, or of a tenant without
        // requests while away.
        self.due = next.map(|at| at.max(now.plus(pause)));
    }

    /// Ends the lease and returns the number to release. Call with the published lease cleared.
    pub fn begin_release(&mut self, tenant: T) -> Option<u64> {
        self.tenants.get_mut(&tenant)?.holder.begin_release()
    }

    /// Keeps a lease that was about to be released: the tenant is in use again.
    pub fn keep_lease(&mut self, now: Moment, tenant: T) {
        let valid_until = self.valid_until(tenant);
        self.commands.push_back(ManagerCommand::Publish { tenant, valid_until });
        self.schedule_by(now.plus(MIN_TICK_INTERVAL));
    }

    pub fn next_command(&mut self) -> Option<ManagerCommand<T, W>> {
        self.commands.pop_front()
    }

    /// Returns when to call [`LeaseManager::tick`], if no event comes first.
    pub const fn next_deadline(&self) -> Option<Moment> {
        self.due
    }

    // Read-only views.

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

    // Decisions.

    fn refuse(&mut self, waiter: Option<W>, error: LeaseError) {
        self.commands.extend(waiter.map(|waiter| ManagerCommand::Refuse { waiter, error }));
    }

    fn refuse_waiters(&mut self, tenant: T, error: &LeaseError) {
        let entry = self.tenants.get_mut(&tenant);
        for (waiter, _) in entry.map(|entry| std::mem::take(&mut entry.waiters)).unwrap_or_default()
        {
            self.refuse(Some(waiter), error.clone());
        }
    }

    pub(crate) fn schedule_by(&mut self, at: Moment) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    fn send_request(&mut self, now: Moment, tenant: T, intent: RequestIntent) {
        let entry = self.tenants.entry(tenant).or_default();
        let call = entry.holder.begin_request(now);
        entry.request = Some(PendingRequest { call, intent });
        entry.retry_at = None;
        self.commands.push_back(ManagerCommand::SendRequest { tenant, call, intent });
        self.schedule_by(now.plus(SILENCE_TIMEOUT));
    }

    /// Sends the next request for the waiters that remain.
    fn request_for_waiters(&mut self, now: Moment, tenant: T) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        entry.retry_at = None;
        if entry.waiters.is_empty() || entry.request.is_some() {
            return;
        }
        let is_visit = entry.waiters.iter().any(|(_, intent)| *intent == RequestIntent::Visit);
        let intent = if is_visit { RequestIntent::Visit } else { RequestIntent::Background };
        self.send_request(now, tenant, intent);
    }

    fn on_granted(
        &mut self,
        now: Moment,
        tenant: T,
        call: LeaseCall,
        terms: LeaseTerms,
        woke: bool,
    ) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        if !entry.holder.on_granted(call, terms) || !entry.holder.may_send(now) {
            // The holder releases a grant that came too late.
            self.schedule_by(now.plus(MIN_TICK_INTERVAL));
            return self.request_for_waiters(now, tenant);
        }
        (entry.linger, entry.failure) = (terms.linger, None);
        (entry.sleeping_until, entry.not_running_until) = (Moment(0), Moment(0));
        let valid_until = entry.holder.valid_until();
        let is_awaited = !entry.waiters.is_empty();
        let waiters = std::mem::take(&mut entry.waiters);
        self.commands.push_back(ManagerCommand::AdoptGrant {
            tenant,
            valid_until,
            woke,
            is_awaited,
        });
        let serve = |(waiter, _)| ManagerCommand::ServeLeased { tenant, waiter };
        self.commands.extend(waiters.into_iter().map(serve));
        self.schedule_by(now.plus(MIN_TICK_INTERVAL));
    }

    fn on_refused(&mut self, now: Moment, tenant: T, request: PendingRequest, error: LeaseError) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        match &error {
            LeaseError::WakeRequired => {
                entry.sleeping_until = now.plus(SLEEPING_REUSE);
                let joined_later = |(_, intent): &(W, RequestIntent)| {
                    *intent == RequestIntent::Visit && request.intent == RequestIntent::Background
                };
                let waiters = std::mem::take(&mut entry.waiters);
                let (visits, others): (Vec<_>, _) = waiters.into_iter().partition(joined_later);
                entry.waiters = visits;
                for (waiter, _) in others {
                    self.refuse(Some(waiter), error.clone());
                }
                return self.request_for_waiters(now, tenant);
            }
            LeaseError::Waking { queue_position } => {
                let queue_position = *queue_position;
                self.commands
                    .push_back(ManagerCommand::SetQueuePosition { tenant, queue_position });
                // Some waiters may wait for longer than this request did. A request that did not
                // wait at all is not repeated.
                if now.since(request.call.sent_at) >= REQUEST_WAIT / 2 {
                    return self.request_for_waiters(now, tenant);
                }
            }
            LeaseError::WakeFailed(reason) => {
                entry.failure = Some((now.plus(FAILURE_REUSE), reason.clone()));
            }
            LeaseError::NotRunning => entry.not_running_until = now.plus(NOT_RUNNING_REUSE),
            LeaseError::Stopped
            | LeaseError::WakeQueueFull { .. }
            | LeaseError::OrchestratorUnavailable
            | LeaseError::OutOfResources
            | LeaseError::RouterQueueFull => {}
        }
        self.refuse_waiters(tenant, &error);
    }

    // While the orchestrator is away.

    fn set_reachable(&mut self, now: Moment) {
        let was_away = self.outage.is_away();
        let changed = self.outage.set_reachable(now);
        self.report_status(now, changed, was_away);
    }

    fn report_status(&mut self, now: Moment, changed: bool, was_away: bool) {
        if changed {
            self.commands.push_back(ManagerCommand::SetStatus(self.outage.status));
        }
        if was_away && !self.outage.is_away() {
            // The requests that wait for the orchestrator's return go out at once.
            self.schedule_by(now);
        }
    }

    fn set_away(&mut self, now: Moment) {
        if self.outage.set_away(now) {
            self.commands.push_back(ManagerCommand::SetStatus(OrchestratorStatus::Away));
            self.serve_all_without_orchestrator(now);
        }
    }

    fn serve_all_without_orchestrator(&mut self, now: Moment) {
        let awaited = self.tenants.iter().filter(|(_, entry)| !entry.waiters.is_empty());
        let awaited: Vec<T> = awaited.map(|(tenant, _)| *tenant).collect();
        awaited.into_iter().for_each(|tenant| self.serve_without_orchestrator(now, tenant));
    }

    /// Serves waiters of a running tenant without a lease. All others wait on: a restart ends
    /// before their deadlines.
    fn serve_without_orchestrator(&mut self, now: Moment, tenant: T) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        if entry.is_running {
            let serve = |(waiter, _)| ManagerCommand::ServeUnleased { tenant, waiter };
            self.commands.extend(entry.waiters.drain(..).map(serve));
        } else if entry.may_request() && !entry.waiters.is_empty() {
            entry.retry_at = Some(now.plus(RETRY_DELAY_AWAY));
        }
        self.schedule_by(now.plus(MIN_TICK_INTERVAL));
    }

    /// Sends requests for waiters whose retry is due, and for tenants in use without a lease (`unleased`).
    fn send_due_requests(&mut self, now: Moment, unleased: Vec<T>) {
        let is_away = self.outage.is_away();
        let limit = if is_away { MAX_REQUESTS_PER_TICK_AWAY } else { usize::MAX };
        let is_due = |entry: &LeaseEntry<W>| {
            entry.request.is_none() && entry.retry_at.is_some_and(|at| at <= now || !is_away)
        };
        let due = self.tenants.iter().filter(|(_, entry)| is_due(entry));
        let due: Vec<T> = due.map(|(tenant, _)| *tenant).take(limit).collect();
        due.into_iter().for_each(|tenant| self.request_for_waiters(now, tenant));
        for tenant in unleased.into_iter().take(limit) {
            self.send_request(now, tenant, RequestIntent::Background);
        }
    }

    /// A lease request may stay unanswered for long, because a tenant wakes or because the
    /// orchestrator is away. A probe, which the orchestrator always answers at once, distinguishes
    /// the two.
    fn probe_if_silent(&mut self, now: Moment) {
        if self.next_probe().is_some_and(|at| at <= now) {
            (self.outage.is_probing, self.outage.last_probe_at) = (true, now);
            self.commands.push_back(ManagerCommand::SendProbe);
        }
    }

    fn next_probe(&self) -> Option<Moment> {
        let requests = self.tenants.values().filter_map(|entry| entry.request);
        self.outage.probe_at(requests.map(|request| request.call.sent_at).min())
    }

    /// Returns when to tick for the sake of the waiters.
    fn next_wait_deadline(&self) -> Option<Moment> {
        let idle = self.tenants.values().filter(|entry| entry.request.is_none());
        let retry = idle.filter_map(|entry| entry.retry_at).min();
        retry.into_iter().chain(self.next_probe()).min()
    }
}
