//! The loop around [`lease::LeaseManager`]: passes events in and executes commands. Nothing is decided here.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use lease::{
    CallHealth, CurrentUsage, LeaseCall, LeaseManager, LeaseTerms, ManagerCommand, ManagerSettings,
    Millis, Moment, OrchestratorStatus, RequestOutcome, TenantRequest,
};
use protocol::TenantId;
use protocol::leases::{
    LeaseGrant, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse, RequestIntent,
};
use service::client::CallError;
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::client::{CallFailure, LeaseClient, classify_failure};
use super::handle::{LeaseCommand, LeaseQueue, LeaseResult, QueuedRequest, Waiter};
use super::tenant_lease::TenantLease;
use crate::clock;
use crate::leases::CachedLease;
use crate::metrics::LeaseCounters;
use crate::routes::store::RouteStore;
use crate::routes::table::{Availability, RouteEntry};

/// Leases per call, as the orchestrator bounds them.
const MAX_LEASES_PER_CALL: usize = 1_000;
/// Releases that are not sent within this time at shutdown are left to expire.
const SHUTDOWN_TIMEOUT: Duration = Duration::from_secs(1);

pub(crate) struct ManagerLoop {
    routes: Arc<RouteStore>,
    client: LeaseClient,
    queue: Arc<LeaseQueue>,
    counters: Arc<LeaseCounters>,
    manager: LeaseManager<TenantId, u64>,
    leases: HashMap<TenantId, TenantLease>,
    waiters: HashMap<u64, Waiter>,
    calls: JoinSet<FinishedCall>,
}

enum FinishedCall {
    Request { tenant: TenantId, call: LeaseCall, result: Result<LeaseGrant, CallError> },
    Renewal { calls: Vec<(TenantId, LeaseCall)>, result: Result<RenewResponse, CallError> },
    Probe(Result<RenewResponse, CallError>),
    Release,
}

impl ManagerLoop {
    pub(crate) fn new(
        routes: Arc<RouteStore>,
        client: LeaseClient,
        queue: Arc<LeaseQueue>,
        counters: Arc<LeaseCounters>,
    ) -> Self {
        let manager = LeaseManager::new(ManagerSettings {
            waiters_per_tenant: queue.limits.held_for_one,
            outage_grace: clock::millis(queue.limits.restart),
        });
        let (leases, waiters, calls) = (HashMap::new(), HashMap::new(), JoinSet::new());
        Self { routes, client, queue, counters, manager, leases, waiters, calls }
    }

    /// Runs until `stop` is cancelled, then releases all leases.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::UnboundedReceiver<LeaseCommand>,
        stop: CancellationToken,
    ) {
        let mut tables = self.routes.subscribe();
        loop {
            let due = self.manager.next_deadline();
            let due = async {
                match due {
                    Some(at) => {
                        tokio::time::sleep(Duration::from_millis(at.since(clock::now()))).await;
                    }
                    None => std::future::pending().await,
                }
            };
            let (mut grant, mut has_ticked) = (None, false);
            tokio::select! {
                Some(command) = commands.recv() => self.on_command(command),
                Some(call) = self.calls.join_next() => {
                    if let Ok(call) = call {
                        grant = self.on_call_finished(call);
                    }
                }
                Ok(()) = tables.changed() => {
                    let table = tables.borrow_and_update().clone();
                    let is_running = |tenant| table.by_tenant(tenant).map(|entry| is_running(entry));
                    self.manager.on_routes_changed(clock::now(), is_running);
                }
                () = due => {
                    let leases = &self.leases;
                    let usage = |tenant| leases.get(&tenant).map_or(CurrentUsage::default(), current_usage);
                    self.manager.tick(clock::now(), usage);
                    has_ticked = true;
                }
                () = stop.cancelled() => break,
            }
            self.execute_commands(grant.as_ref());
            if has_ticked {
                self.counters.live(self.manager.live_leases(clock::now()));
            }
        }
        let tenants: Vec<TenantId> = self.leases.keys().copied().collect();
        let release = |tenant| {
            let last_used = self.leases.get(&tenant)?.usage().last_used;
            self.release_lease(tenant, last_used)
        };
        let releases = tenants.into_iter().filter_map(release).collect();
        self.send_releases(releases);
        let finished = async { while self.calls.join_next().await.is_some() {} };
        let _ = tokio::time::timeout(SHUTDOWN_TIMEOUT, finished).await;
    }

    fn on_command(&mut self, command: LeaseCommand) {
        match command {
            LeaseCommand::Request(request) => self.on_request(request),
            LeaseCommand::Cancel { tenant, waiter } => {
                self.waiters.remove(&waiter);
                self.manager.remove_waiter(tenant, waiter);
            }
        }
    }

    fn on_request(&mut self, request: QueuedRequest) {
        let QueuedRequest { tenant, intent, failed_lease, retries_failure, waiter, .. } = request;
        let entry = self.routes.get(tenant);
        let lease = self.leases.entry(tenant).or_default();
        let has_moved = lease.follow_route(entry.as_ref().and_then(|entry| entry.lease.clone()));
        let has_failed = failed_lease.is_some_and(|failed| lease.end_if_current(&failed));
        if has_moved || has_failed {
            self.manager.discard_lease(tenant);
        }
        let is_running = entry.is_some_and(|entry| is_running(&entry));
        let id = waiter.as_ref().map(|waiter| waiter.id);
        self.waiters.extend(waiter.map(|waiter| (waiter.id, waiter)));
        let request = TenantRequest { intent, is_running, retries_failure, waiter: id };
        self.manager.request_tenant(clock::now(), tenant, request);
    }

    /// Returns the lease that a granted request is for.
    fn on_call_finished(&mut self, call: FinishedCall) -> Option<Arc<CachedLease>> {
        let now = clock::now();
        match call {
            FinishedCall::Request { tenant, call, result } => {
                let (outcome, lease) = self.request_outcome(result);
                self.manager.on_request_finished(now, tenant, call, outcome);
                return lease;
            }
            FinishedCall::Renewal { calls, result: Ok(response) } => {
                self.manager.on_call_health(now, CallHealth::Answered);
                for ((tenant, call), renewed) in calls.into_iter().zip(response.leases) {
                    if renewed.tenant == tenant {
                        let expires_in = renewed.expires_in_ms.map(Millis::from);
                        self.manager.on_renewed(tenant, call, expires_in);
                    }
                }
            }
            FinishedCall::Renewal { result: Err(error), .. } => {
                self.manager.on_call_health(now, failure(&error).health());
            }
            FinishedCall::Probe(result) => {
                let health = result.map_or_else(|e| failure(&e).health(), |_| CallHealth::Answered);
                self.manager.on_probe_finished(now, health);
            }
            FinishedCall::Release => {}
        }
        None
    }

    fn request_outcome(
        &self,
        result: Result<LeaseGrant, CallError>,
    ) -> (RequestOutcome, Option<Arc<CachedLease>>) {
        let grant = match result.map_err(|error| failure(&error)) {
            Ok(grant) => grant,
            Err(CallFailure::Refused(error)) => return (RequestOutcome::Refused(error), None),
            Err(CallFailure::Health(health)) => return (RequestOutcome::CallFailed(health), None),
        };
        let LeaseGrant { tenant, generation, upstream, expires_in_ms, linger_ms, woke } = grant;
        let Some(lease) = self.routes.record_upstream(tenant, generation, &upstream) else {
            return (RequestOutcome::UnknownRoute, None);
        };
        let terms = LeaseTerms { expires_in: expires_in_ms.into(), linger: linger_ms.into() };
        (RequestOutcome::Granted { terms, woke }, Some(lease))
    }

    /// `grant`: the lease of the last grant that the loop received.
    fn execute_commands(&mut self, grant: Option<&Arc<CachedLease>>) {
        let (mut renewals, mut releases) = (Vec::new(), Vec::new());
        while let Some(command) = self.manager.next_command() {
            match command {
                ManagerCommand::SendRequest { tenant, call, intent } => {
                    self.send_request(tenant, call, intent);
                }
                ManagerCommand::SendRenewal { tenant, call } => {
                    let lease = self.leases.entry(tenant).or_default();
                    let usage = lease.report_usage(tenant, call.number, &lease.usage());
                    renewals.push(((tenant, call), usage));
                }
                ManagerCommand::Release { tenant, last_used } => {
                    releases.extend(self.release_lease(tenant, last_used));
                }
                ManagerCommand::SendProbe => {
                    let client = self.client.clone();
                    self.calls.spawn(async move { FinishedCall::Probe(client.probe().await) });
                }
                ManagerCommand::AdoptGrant { tenant, valid_until, woke, is_awaited } => {
                    let Some(granted) = grant else { continue };
                    let lease = self.leases.entry(tenant).or_default();
                    if lease.move_to(granted) {
                        self.counters.moved();
                    }
                    if woke {
                        self.counters.woke();
                    }
                    granted.allow_report();
                    let woken_at = if woke && is_awaited { clock::now() } else { Moment(0) };
                    granted.set_woken_at(woken_at);
                    granted.set_valid_until(valid_until);
                }
                ManagerCommand::Publish { tenant, valid_until } => {
                    if let Some(lease) = self.leases.get(&tenant) {
                        lease.publish(valid_until);
                    }
                }
                ManagerCommand::ServeLeased { tenant, waiter } => {
                    self.serve(tenant, waiter, LeaseResult::Leased);
                }
                ManagerCommand::ServeUnleased { tenant, waiter } => {
                    self.serve_unleased(tenant, waiter);
                }
                ManagerCommand::Refuse { waiter, error } => {
                    self.respond(waiter, LeaseResult::Refused(error));
                }
                ManagerCommand::SetQueuePosition { tenant, queue_position } => {
                    self.queue.set_queue_position(tenant, queue_position);
                }
                ManagerCommand::SetStatus(status) => self.set_status(status),
                ManagerCommand::Forget { tenant } => {
                    self.leases.remove(&tenant);
                }
            }
        }
        self.send_renewals(&renewals);
        self.send_releases(releases);
    }

    fn send_request(&mut self, tenant: TenantId, call: LeaseCall, intent: RequestIntent) {
        self.counters.asked();
        let client = self.client.clone();
        self.calls.spawn(async move {
            let result = client.request_lease(tenant, call.number, intent).await;
            FinishedCall::Request { tenant, call, result }
        });
    }

    fn send_renewals(&mut self, renewals: &[((TenantId, LeaseCall), LeaseUsage)]) {
        for batch in renewals.chunks(MAX_LEASES_PER_CALL) {
            let (calls, leases): (Vec<_>, Vec<_>) = batch.iter().cloned().unzip();
            let client = self.client.clone();
            self.calls.spawn(async move {
                let renew = RenewRequest { holder: client.holder, leases };
                FinishedCall::Renewal { calls, result: client.renew(&renew).await }
            });
        }
    }

    fn send_releases(&mut self, releases: Vec<LeaseUsage>) {
        for batch in releases.chunks(MAX_LEASES_PER_CALL) {
            let leases = batch.to_vec();
            let client = self.client.clone();
            self.calls.spawn(async move {
                client.release(&ReleaseRequest { holder: client.holder, leases }).await;
                FinishedCall::Release
            });
        }
    }

    /// Ends the lease, unless the tenant is in use or was used after `last_used`.
    fn release_lease(&mut self, tenant: TenantId, last_used: Moment) -> Option<LeaseUsage> {
        let now = clock::now();
        let lease = self.leases.get(&tenant)?;
        let manager = &mut self.manager;
        match lease.clear_if_unused(last_used) {
            Some(usage) => {
                let number = manager.begin_release(tenant)?;
                Some(lease.report_usage(tenant, number, &usage))
            }
            None => {
                // Published at once: until then requests of serving threads find no lease.
                lease.publish(manager.valid_until(tenant));
                manager.keep_lease(now, tenant);
                None
            }
        }
    }

    fn serve(
        &mut self,
        tenant: TenantId,
        waiter: u64,
        result: impl Fn(super::LeaseGuard) -> LeaseResult,
    ) {
        let lease = self.leases.get(&tenant).and_then(|lease| lease.current.clone());
        self.serve_at(lease, waiter, result);
    }

    /// Serves at the address that the route table shows now.
    fn serve_unleased(&mut self, tenant: TenantId, waiter: u64) {
        let lease = self.routes.get(tenant).and_then(|entry| entry.lease.clone());
        self.serve_at(lease, waiter, LeaseResult::Unleased);
    }

    fn serve_at(
        &mut self,
        lease: Option<Arc<CachedLease>>,
        waiter: u64,
        result: impl Fn(super::LeaseGuard) -> LeaseResult,
    ) {
        let Some(thread) = self.waiters.get(&waiter).map(|waiter| waiter.thread) else { return };
        let not_running = LeaseResult::Refused(lease::LeaseError::NotRunning);
        let served = lease.map_or(not_running, |lease| result(lease.begin_request(thread)));
        self.respond(waiter, served);
    }

    fn respond(&mut self, waiter: u64, result: LeaseResult) {
        if let Some(waiter) = self.waiters.remove(&waiter) {
            // A waiter that left needs no result.
            let _ = waiter.result.send(result);
        }
    }

    fn set_status(&self, status: OrchestratorStatus) {
        self.queue.set_status(status);
        match status {
            OrchestratorStatus::Reachable => tracing::info!("orchestrator reachable"),
            OrchestratorStatus::Away => {
                tracing::warn!(
                    "orchestrator unreachable; running tenants are served without leases"
                );
            }
            OrchestratorStatus::RejectsCalls => {
                tracing::error!(
                    "orchestrator rejects lease calls; compare the leases token and the builds"
                );
            }
        }
    }
}

/// Classifies a failed call, and logs every failure that is not a usual refusal of the
/// orchestrator.
fn failure(error: &CallError) -> CallFailure {
    let failure = classify_failure(error);
    match &failure {
        CallFailure::Refused(_) => {}
        CallFailure::Health(CallHealth::OutOfResources) => {
            tracing::error!(%error, "lease call failed: this process is out of resources");
        }
        CallFailure::Health(CallHealth::Fault { rejects_calls: false }) => {
            tracing::error!(%error, "lease call failed at the orchestrator");
        }
        CallFailure::Health(_) => tracing::debug!(%error, "lease call failed"),
    }
    failure
}

fn is_running(entry: &RouteEntry) -> bool {
    entry.availability() == Availability::Running && entry.lease.is_some()
}

fn current_usage(lease: &TenantLease) -> CurrentUsage {
    let usage = lease.usage();
    CurrentUsage { in_use: usage.requests > 0, last_used: usage.last_used }
}
