//! Decisions of [`LeaseManager`] that follow a finished call: grants, refusals with their back-off, renewals, and the retries
//! during an outage of the orchestrator.

use protocol::leases::RequestIntent;

use crate::holder::command::{ManagerCommand, RouteStatus};
use crate::holder::entry::{LeaseEntry, PendingRequest};
use crate::holder::error::LeaseError;
use crate::holder::lease::{LeaseCall, LeaseTerms};
use crate::holder::manager::{LeaseManager, MIN_TICK_INTERVAL};
use crate::holder::outage::SILENCE_TIMEOUT;
use crate::time::{Millis, Moment};

/// The refusal of a background request for a sleeping tenant also answers later ones for this long.
const SLEEPING_REFUSAL_TTL: Millis = 1_000;
/// The refusal of a request for a tenant that does not run also answers later ones for this long.
const NOT_RUNNING_REFUSAL_TTL: Millis = 1_000;
/// The retry back-off after a failed wake: until it is over no request starts the tenant again, unless a visitor presses
/// Retry.
const WAKE_FAILURE_BACKOFF: Millis = 10_000;
/// Minimum time between two lease requests for one tenant while the orchestrator is unreachable.
const OUTAGE_RETRY_DELAY: Millis = 1_000;
/// Lease requests per tick while the orchestrator is unreachable: enough to notice that it is back.
const MAX_REQUESTS_PER_TICK_IN_OUTAGE: usize = 4;

impl<T: Copy + Ord, W: Copy + Eq> LeaseManager<T, W> {
    pub(crate) fn refuse(&mut self, waiter: Option<W>, error: LeaseError) {
        self.commands.extend(waiter.map(|waiter| ManagerCommand::Refuse { waiter, error }));
    }

    pub(crate) fn refuse_waiters(&mut self, tenant: T, error: &LeaseError) {
        let entry = self.tenants.get_mut(&tenant);
        for (waiter, _) in entry.map(|entry| std::mem::take(&mut entry.waiters)).unwrap_or_default()
        {
            self.refuse(Some(waiter), error.clone());
        }
    }

    /// Forgets a tenant that the route table does not list and that nothing needs any more.
    pub(crate) fn forget_if_unneeded(&mut self, now: Moment, tenant: T) {
        let entry = self.tenants.get(&tenant);
        let is_forgotten = entry
            .is_some_and(|entry| entry.route == RouteStatus::Unlisted && !entry.is_needed(now));
        if is_forgotten {
            self.tenants.remove(&tenant);
            self.commands.push_back(ManagerCommand::Forget { tenant });
        }
    }

    pub(crate) fn schedule_by(&mut self, at: Moment) {
        self.due = Some(self.due.map_or(at, |due| due.min(at)));
    }

    pub(crate) fn send_request(&mut self, now: Moment, tenant: T, intent: RequestIntent) {
        self.last_number += 1;
        let entry = self.tenants.entry(tenant).or_default();
        let call = entry.holder.begin_request(now, self.last_number);
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

    pub(crate) fn on_granted(
        &mut self,
        now: Moment,
        tenant: T,
        call: LeaseCall,
        terms: LeaseTerms,
        woke: bool,
    ) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        entry.holder.on_granted(call, terms);
        if !entry.holder.may_send(now) {
            // The grant came too late: the next tick releases the lease.
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

    pub(crate) fn on_refused(
        &mut self,
        now: Moment,
        tenant: T,
        request: PendingRequest,
        error: LeaseError,
    ) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        match &error {
            LeaseError::WakeRequired => {
                entry.sleeping_until = now.plus(SLEEPING_REFUSAL_TTL);
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
                if now.since(request.call.sent_at) >= self.settings.request_wait / 2 {
                    return self.request_for_waiters(now, tenant);
                }
            }
            LeaseError::WakeFailed(reason) => {
                entry.failure = Some((now.plus(WAKE_FAILURE_BACKOFF), reason.clone()));
            }
            LeaseError::NotRunning => entry.not_running_until = now.plus(NOT_RUNNING_REFUSAL_TTL),
            LeaseError::Stopped
            | LeaseError::WakeQueueFull { .. }
            | LeaseError::OrchestratorUnavailable
            | LeaseError::OutOfResources
            | LeaseError::RouterQueueFull => {}
        }
        self.refuse_waiters(tenant, &error);
    }

    // While the orchestrator is unreachable.

    pub(crate) fn set_reachable(&mut self, now: Moment) {
        let was_unreachable = self.outage.is_unreachable();
        let changed = self.outage.set_reachable(now);
        self.report_status(now, changed, was_unreachable);
    }

    pub(crate) fn report_status(&mut self, now: Moment, changed: bool, was_unreachable: bool) {
        if changed {
            self.commands.push_back(ManagerCommand::SetStatus(self.outage.status));
        }
        if was_unreachable && !self.outage.is_unreachable() {
            // The requests that wait for the orchestrator's return go out at once.
            self.schedule_by(now);
        }
    }

    pub(crate) fn serve_all_without_orchestrator(&mut self, now: Moment) {
        for (tenant, entry) in
            self.tenants.iter_mut().filter(|(_, entry)| !entry.waiters.is_empty())
        {
            if entry.is_running() {
                let tenant = *tenant;
                let serve = |(waiter, _)| ManagerCommand::ServeUnleased { tenant, waiter };
                self.commands.extend(entry.waiters.drain(..).map(serve));
            } else if entry.may_request() {
                // All others wait on: a restart ends before their deadlines.
                entry.retry_at = Some(now.plus(OUTAGE_RETRY_DELAY));
            }
        }
        self.schedule_by(now.plus(MIN_TICK_INTERVAL));
    }

    /// Sends requests for waiters whose retry is due, and for tenants in use without a lease (`unleased`).
    pub(crate) fn send_due_requests(&mut self, now: Moment, unleased: Vec<T>) {
        let is_unreachable = self.outage.is_unreachable();
        let limit = if is_unreachable { MAX_REQUESTS_PER_TICK_IN_OUTAGE } else { usize::MAX };
        let is_due = |entry: &LeaseEntry<W>| {
            entry.request.is_none() && entry.retry_at.is_some_and(|at| at <= now || !is_unreachable)
        };
        let due = self.tenants.iter().filter(|(_, entry)| is_due(entry));
        let due: Vec<T> = due.map(|(tenant, _)| *tenant).take(limit).collect();
        due.into_iter().for_each(|tenant| self.request_for_waiters(now, tenant));
        for tenant in unleased.into_iter().take(limit) {
            self.send_request(now, tenant, RequestIntent::Background);
        }
    }

    /// A lease request may stay unanswered for long, because a tenant wakes or because the
    /// orchestrator is unreachable. A probe, which the orchestrator always answers at once, distinguishes
    /// the two.
    pub(crate) fn probe_if_silent(&mut self, now: Moment) {
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
    pub(crate) fn next_wait_deadline(&self) -> Option<Moment> {
        let idle = self.tenants.values().filter(|entry| entry.request.is_none());
        let retry = idle.filter_map(|entry| entry.retry_at).min();
        retry.into_iter().chain(self.next_probe()).min()
    }
}
