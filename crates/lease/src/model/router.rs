//! A router around the shipped core: one tenant, its clients, and the published copy of the lease.

use super::call::{CallKind, REQUEST_WAIT};
use super::system::{System, UNIT};
use crate::holder::command::{
    CurrentUsage, ManagerCommand, ManagerSettings, RouteStatus, TenantRequest,
};
use crate::holder::entry::LeaseEntry;
use crate::holder::lease::LeaseCall;
use crate::holder::manager::LeaseManager;
use crate::holder::outage::OrchestratorStatus;
use crate::time::Moment;
use protocol::leases::RequestIntent;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Router {
    pub(super) tenant: usize,
    /// Each start of the router has a new id.
    pub(super) holder: u8,
    pub(super) manager: LeaseManager<usize, u8>,
    /// The status of the tenant in the router's route table.
    pub(super) route: RouteStatus,
    /// The copy of the lease that serving threads read.
    pub(super) published: Moment,
    /// Requests are in flight to the tenant.
    pub(super) in_use: bool,
    pub(super) last_used: Moment,
    /// Requests that wait for a lease.
    pub(super) waiters: Vec<u8>,
    /// A release that the core requested; `last_used` as the core knew it.
    pub(super) releasing: Option<Moment>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum RequestKind {
    Visit,
    Background,
    /// A visitor's retry after a failed wake; nothing waits for the result.
    Retry,
}

const SETTINGS: ManagerSettings =
    ManagerSettings { waiters_per_tenant: 2, request_wait: REQUEST_WAIT, outage_grace: UNIT };
/// Requests that wait at one router.
const WAITERS: usize = 2;

impl Router {
    pub(super) fn new(router: usize, tenant: usize, route: RouteStatus) -> Self {
        Self {
            tenant,
            holder: u8::try_from(router * 8).unwrap_or(u8::MAX),
            manager: LeaseManager::new(SETTINGS),
            route,
            published: Moment(0),
            in_use: false,
            last_used: Moment(0),
            waiters: Vec::new(),
            releasing: None,
        }
    }

    pub(super) fn entry(&self) -> Option<&LeaseEntry<u8>> {
        self.manager.tenants.get(&self.tenant)
    }

    /// Whether the loop ticks before the next unit of time.
    pub(super) fn ticks_soon(&self, now: Moment) -> bool {
        self.releasing.is_none()
            && self.manager.next_deadline().is_some_and(|at| at < now.plus(UNIT))
    }

    pub(super) fn may_request(&self, now: Moment) -> bool {
        let is_idle = self.releasing.is_none() && self.waiters.len() < WAITERS;
        match self.published > now {
            true => !self.in_use,
            false => is_idle && self.route != RouteStatus::Unlisted,
        }
    }

    pub(super) fn check(&self, now: Moment) -> Result<(), String> {
        let known = self.entry().map(|entry| &entry.waiters[..]).unwrap_or_default();
        if self.waiters.iter().any(|id| known.iter().all(|(known, _)| known != id)) {
            return Err("a waiter is forgotten".to_owned());
        }
        if known.len() != self.waiters.len() {
            return Err("a waiter waits on after its response".to_owned());
        }
        let is_served =
            |entry: &LeaseEntry<u8>| entry.request.is_some() || entry.retry_at.is_some();
        if !known.is_empty() && !self.entry().is_some_and(is_served) {
            return Err("a waiter waits, and no lease request is due".to_owned());
        }
        if self.published > now && self.published > self.manager.valid_until(self.tenant) {
            return Err("the published lease outlives the lease".to_owned());
        }
        let is_unlisted = self.entry().is_some_and(|entry| {
            entry.route == RouteStatus::Unlisted && !entry.is_needed(now) && !self.in_use
        });
        if is_unlisted && self.releasing.is_none() && self.manager.next_deadline().is_none() {
            return Err("an unlisted tenant is kept for ever".to_owned());
        }
        Ok(())
    }
}

impl System {
    pub(super) fn request(&mut self, index: usize, kind: RequestKind) -> Result<(), String> {
        let now = self.now;
        self.budget.requests -= 1;
        let router = &mut self.routers[index];
        if router.published > now {
            router.in_use = true;
            return Ok(());
        }
        let intent = match kind {
            RequestKind::Visit | RequestKind::Retry => RequestIntent::Visit,
            RequestKind::Background => RequestIntent::Background,
        };
        let retries_failure = kind == RequestKind::Retry;
        let free = (0..).find(|id| !router.waiters.contains(id));
        let waiter = free.filter(|_| !retries_failure);
        router.waiters.extend(waiter);
        let request = TenantRequest { intent, route: router.route, retries_failure, waiter };
        router.manager.request_tenant(now, router.tenant, request);
        self.execute(index)
    }

    /// The last request in flight ends.
    pub(super) fn finish(&mut self, index: usize) {
        let router = &mut self.routers[index];
        (router.in_use, router.last_used) = (false, self.now);
    }

    pub(super) fn tick_router(&mut self, index: usize) -> Result<(), String> {
        let (now, router) = (self.now, &mut self.routers[index]);
        let usage = CurrentUsage { in_use: router.in_use, last_used: router.last_used };
        router.manager.tick(now, |_| usage);
        if router.manager.next_deadline().is_some_and(|at| at <= now) {
            return Err("the router's timer is in the past: the loop would spin".to_owned());
        }
        self.execute(index)
    }

    /// Clears the published lease, counts uses again, and releases the lease or keeps it.
    pub(super) fn finish_release(&mut self, index: usize) -> Result<(), String> {
        let (now, router) = (self.now, &mut self.routers[index]);
        let Some(last_used) = router.releasing.take() else { return Ok(()) };
        router.published = Moment(0);
        if router.in_use || router.last_used > last_used {
            router.published = router.manager.keep_lease(now, router.tenant);
        } else if let Some(number) = router.manager.begin_release(now, router.tenant) {
            let idle = now.since(router.last_used);
            let call = LeaseCall { number, sent_at: now };
            self.send(index, CallKind::Release { idle }, call);
        }
        self.execute(index)
    }

    pub(super) fn waiter_leaves(&mut self, index: usize) -> Result<(), String> {
        self.budget.leaves -= 1;
        let (now, router) = (self.now, &mut self.routers[index]);
        let waiter = router.waiters.remove(0);
        router.manager.remove_waiter(now, router.tenant, waiter);
        self.execute(index)
    }

    pub(super) fn change_route(&mut self, index: usize, route: RouteStatus) -> Result<(), String> {
        self.budget.route_changes -= 1;
        let (now, router) = (self.now, &mut self.routers[index]);
        router.route = route;
        router.manager.on_route_changed(now, router.tenant, route);
        self.execute(index)
    }

    /// The tenant did not answer under the lease: the lease is discarded, and the request retried.
    pub(super) fn lease_fails(&mut self, index: usize) -> Result<(), String> {
        self.budget.failed_leases -= 1;
        let (now, router) = (self.now, &mut self.routers[index]);
        router.published = Moment(0);
        router.manager.discard_lease(router.tenant);
        let request = TenantRequest {
            intent: RequestIntent::Background,
            route: router.route,
            retries_failure: false,
            waiter: None,
        };
        router.manager.request_tenant(now, router.tenant, request);
        self.execute(index)
    }

    pub(super) fn crash_router(&mut self, index: usize) -> Result<(), String> {
        self.budget.router_crashes -= 1;
        self.close_calls_of(index);
        let router = &mut self.routers[index];
        let fresh = Router::new(index, router.tenant, router.route);
        *router = Router { holder: router.holder + 1, ..fresh };
        self.pump()
    }

    /// Executes the core's commands as the router's loop does.
    pub(super) fn execute(&mut self, index: usize) -> Result<(), String> {
        let now = self.now;
        while let Some(command) = self.routers[index].manager.next_command() {
            let router = &mut self.routers[index];
            match command {
                ManagerCommand::SendRequest { call, intent, .. } => {
                    let is_visit = intent == RequestIntent::Visit;
                    self.send(index, CallKind::Request { is_visit }, call);
                }
                ManagerCommand::SendRenewal { call, .. } => {
                    let idle = if router.in_use { 0 } else { now.since(router.last_used) };
                    self.send(index, CallKind::Renewal { idle }, call);
                }
                ManagerCommand::SendProbe => {
                    self.send(index, CallKind::Probe, LeaseCall { number: 0, sent_at: now });
                }
                ManagerCommand::Release { last_used, .. } => router.releasing = Some(last_used),
                ManagerCommand::AdoptGrant { valid_until, .. }
                | ManagerCommand::Publish { valid_until, .. } => router.published = valid_until,
                ManagerCommand::ServeLeased { waiter, .. } => {
                    if router.published <= now {
                        return Err("a request is sent under a lease that is over".to_owned());
                    }
                    router.serve(waiter)?;
                }
                ManagerCommand::ServeUnleased { waiter, .. } => {
                    let is_unreachable = router.manager.status() == OrchestratorStatus::Unreachable;
                    if !is_unreachable || router.route != RouteStatus::Running {
                        return Err("a request is sent without a lease for no reason".to_owned());
                    }
                    router.serve(waiter)?;
                }
                ManagerCommand::Refuse { waiter, .. } => router.remove_waiter(waiter)?,
                ManagerCommand::Forget { .. } => router.published = Moment(0),
                ManagerCommand::SetQueuePosition { .. } | ManagerCommand::SetStatus(_) => {}
            }
        }
        Ok(())
    }
}

impl Router {
    fn serve(&mut self, waiter: u8) -> Result<(), String> {
        self.in_use = true;
        self.remove_waiter(waiter)
    }

    fn remove_waiter(&mut self, waiter: u8) -> Result<(), String> {
        let position = self.waiters.iter().position(|id| *id == waiter);
        let position = position.ok_or(format!("waiter {waiter} gets a second response"))?;
        self.waiters.remove(position);
        Ok(())
    }
}
