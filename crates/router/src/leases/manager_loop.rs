//! The loop around [`lease::LeaseManager`]: passes events in. `execute` carries its commands out. Nothing is decided here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lease::{
    CallHealth, CurrentUsage, LeaseManager, LeaseTerms, ManagerSettings, Millis, Moment,
    RequestOutcome, RouteStatus, TenantRequest,
};
use protocol::TenantId;
use protocol::leases::LeaseGrant;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::calls::{FinishedCall, LeaseCalls};
use super::client::{LeaseCallError, LeaseClient};
use super::handle::{LeaseCommand, QueuedRequest, Waiter};
use super::shared_state::SharedState;
use super::tenant_lease::TenantLease;
use crate::clock;
use crate::metrics::LeaseCounters;
use crate::routes::store::RouteStore;
use crate::routes::table::Availability;

/// Releases that are not sent within this time at shutdown are left to expire.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct ManagerLoop {
    pub(super) routes: Arc<RouteStore>,
    pub(super) shared: Arc<SharedState>,
    pub(super) counters: LeaseCounters,
    pub(super) manager: LeaseManager<TenantId, u64>,
    pub(super) leases: HashMap<TenantId, TenantLease>,
    pub(super) waiters: HashMap<u64, Waiter>,
    pub(super) calls: LeaseCalls,
}

impl ManagerLoop {
    pub(crate) fn new(
        routes: Arc<RouteStore>,
        client: LeaseClient,
        shared: Arc<SharedState>,
        counters: LeaseCounters,
    ) -> Self {
        let manager = LeaseManager::new(ManagerSettings {
            waiters_per_tenant: shared.limits.max_waiters_per_tenant,
            request_wait: lease::REQUEST_WAIT,
            outage_grace: clock::millis(shared.limits.outage_grace),
        });
        let (leases, waiters) = (HashMap::new(), HashMap::new());
        let calls = LeaseCalls::new(client);
        Self { routes, shared, counters, manager, leases, waiters, calls }
    }

    /// Runs until `stop` is cancelled, then releases all leases.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<LeaseCommand>,
        stop: CancellationToken,
    ) {
        let routes = self.routes.clone();
        loop {
            let due = self.manager.next_deadline();
            tokio::select! {
                Some(command) = commands.recv() => self.on_command(command),
                Some(call) = self.calls.next_finished() => self.on_call_finished(call),
                changed = routes.changed_tenants() => self.on_routes_changed(changed),
                () = sleep_until(due) => self.tick(),
                () = stop.cancelled() => break,
            }
            self.execute_commands();
        }
        for tenant in self.leases.keys().copied().collect::<Vec<_>>() {
            let last_used = self.leases[&tenant].usage().last_used;
            self.release_lease(tenant, last_used);
        }
        self.calls.flush();
        let finished = async { while self.calls.next_finished().await.is_some() {} };
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, finished).await;
    }

    fn on_command(&mut self, command: LeaseCommand) {
        match command {
            LeaseCommand::Request(request) => self.on_request(request),
            LeaseCommand::Cancel { tenant, waiter } => {
                self.waiters.remove(&waiter);
                self.manager.remove_waiter(clock::now(), tenant, waiter);
            }
        }
    }

    fn on_request(&mut self, request: QueuedRequest) {
        let QueuedRequest { tenant, intent, failed_lease, retries_failure, waiter, .. } = request;
        let lease = self.leases.entry(tenant).or_default();
        let has_moved = lease.follow_route(self.routes.lease(tenant));
        let has_failed = failed_lease.is_some_and(|failed| lease.end_if_current(&failed));
        if has_moved || has_failed {
            self.manager.discard_lease(tenant);
        }
        let id = waiter.as_ref().map(|waiter| waiter.id);
        self.waiters.extend(waiter.map(|waiter| (waiter.id, waiter)));
        let route = self.route_status(tenant);
        let request = TenantRequest { intent, route, retries_failure, waiter: id };
        self.manager.request_tenant(clock::now(), tenant, request);
    }

    fn on_routes_changed(&mut self, tenants: impl IntoIterator<Item = TenantId>) {
        for tenant in tenants {
            let route = self.route_status(tenant);
            self.manager.on_route_changed(clock::now(), tenant, route);
        }
    }

    fn route_status(&self, tenant: TenantId) -> RouteStatus {
        match self.routes.get(tenant) {
            None => RouteStatus::Unlisted,
            Some(entry)
                if entry.availability() == Availability::Running && entry.lease.is_some() =>
            {
                RouteStatus::Running
            }
            Some(_) => RouteStatus::NotRunning,
        }
    }

    fn tick(&mut self) {
        let (now, leases) = (clock::now(), &self.leases);
        self.manager.tick(now, |tenant| {
            let usage = leases.get(&tenant).map(TenantLease::usage).unwrap_or_default();
            CurrentUsage { in_use: usage.requests > 0, last_used: usage.last_used }
        });
        self.execute_commands();
        self.counters.set_live_leases(self.manager.live_leases(now));
    }

    fn on_call_finished(&mut self, call: FinishedCall) {
        let now = clock::now();
        match call {
            FinishedCall::Request { tenant, call, result } => {
                let outcome = self.request_outcome(result);
                self.manager.on_request_finished(now, tenant, call, outcome);
            }
            FinishedCall::Renewal { calls, result: Ok(response) } => {
                self.manager.on_call_health(now, CallHealth::Responded);
                for ((tenant, call), renewed) in calls.into_iter().zip(response.leases) {
                    if renewed.tenant == tenant {
                        let expires_in = renewed.expires_in_ms.map(Millis::from);
                        self.manager.on_renewed(now, tenant, call, expires_in);
                    }
                }
            }
            FinishedCall::Renewal { result: Err(health), .. } => {
                self.manager.on_call_health(now, health);
            }
            FinishedCall::Probe(health) => self.manager.on_probe_finished(now, health),
            FinishedCall::Release => {}
        }
    }

    /// Sets the target of a grant.
    fn request_outcome(&mut self, result: Result<LeaseGrant, LeaseCallError>) -> RequestOutcome {
        let grant = match result {
            Ok(grant) => grant,
            Err(LeaseCallError::Refused(error)) => return RequestOutcome::Refused(error),
            Err(LeaseCallError::Health(health)) => return RequestOutcome::CallFailed(health),
        };
        let LeaseGrant { tenant, generation, upstream, expires_in_ms, linger_ms, woke } = grant;
        let Some(granted) = self.routes.record_upstream(tenant, generation, &upstream) else {
            return RequestOutcome::UnknownRoute;
        };
        if self.leases.entry(tenant).or_default().move_to(&granted) {
            self.counters.count_target_change();
        }
        let terms = LeaseTerms { expires_in: expires_in_ms.into(), linger: linger_ms.into() };
        RequestOutcome::Granted { terms, woke }
    }
}

async fn sleep_until(due: Option<Moment>) {
    match due {
        Some(at) => tokio::time::sleep(Duration::from_millis(at.since(clock::now()))).await,
        None => std::future::pending().await,
    }
}
