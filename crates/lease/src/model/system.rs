//! The complete state of the model at one moment, and the properties that hold in it.

use std::collections::BTreeMap;

use super::call::{Call, Stage};
use super::container::{Container, Intent, Run};
use super::orchestrator::Orchestrator;
use super::router::{RequestKind, Router};
use crate::authority::command::AuthoritySettings;
use crate::authority::sleep_state::SleepPolicy;
use crate::holder::outage::OrchestratorStatus;
use crate::time::{Millis, Moment};

/// One unit of time: a lease lasts two.
pub(super) const UNIT: Millis = 1_000;

/// A part of the system whose moves a scene may take eagerly: before any other move, so that their order with others is
/// not explored.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Layer {
    /// The engine, and the orchestrator's steps around it.
    Engine,
    /// Calls and their responses.
    Transport,
    /// The routers' timers.
    Timers,
}

/// The events that may happen, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) ticks: u8,
    pub(super) requests: u8,
    /// The kinds of requests that clients send.
    pub(super) kinds: &'static [RequestKind],
    /// Calls that get no answer: lost on their way, or late.
    pub(super) losses: u8,
    pub(super) repeats: u8,
    /// Calls that the orchestrator rejects, or that fail for want of resources.
    pub(super) faults: u8,
    /// Clients that leave while they wait.
    pub(super) leaves: u8,
    pub(super) route_changes: u8,
    /// Leases under which the tenant does not answer.
    pub(super) failed_leases: u8,
    pub(super) router_crashes: u8,
    pub(super) orchestrator_crashes: u8,
    pub(super) owner: u8,
    pub(super) exits: u8,
    pub(super) refusals: u8,
    pub(super) busy: u8,
    /// No time passes while more calls are in flight.
    pub(super) calls: usize,
    /// The layers that the scene is not about.
    pub(super) layers_first: &'static [Layer],
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct System {
    pub(super) now: Moment,
    pub(super) routers: Vec<Router>,
    /// The calls from routers to the orchestrator. The transport keeps no order.
    pub(super) calls: BTreeMap<u8, Call>,
    pub(super) orchestrator: Orchestrator,
    pub(super) containers: Vec<Container>,
    pub(super) budget: Budget,
    pub(super) policy: SleepPolicy,
    pub(super) settings: AuthoritySettings,
    /// Every lease that was granted and may be live, by holder. No crash deletes this record.
    pub(super) granted: BTreeMap<u8, Granted>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Granted {
    pub(super) until: Moment,
    /// The expiry of a lease from a crashed orchestrator: no release can end that lease.
    pub(super) orphan: Moment,
}

impl Granted {
    pub(super) fn is_live(&self, now: Moment) -> bool {
        self.until.max(self.orphan) > now
    }
}

impl System {
    pub(super) fn new(
        routers: usize,
        containers: Vec<Container>,
        policy: SleepPolicy,
        settings: AuthoritySettings,
        budget: Budget,
    ) -> Self {
        // The moment is late enough that no subtraction reaches the epoch.
        let now = Moment(1_000 * UNIT);
        let orchestrator = Orchestrator::start(now, settings, policy, &containers);
        let routers = (0..routers).map(|router| {
            let tenant = router % containers.len();
            Router::new(router, tenant, containers[tenant].route())
        });
        let routers = routers.collect();
        let (calls, granted) = (BTreeMap::new(), BTreeMap::new());
        Self { now, routers, calls, orchestrator, containers, budget, policy, settings, granted }
    }

    /// Checks the properties that hold at every moment.
    pub(super) fn check(&self) -> Result<(), String> {
        for (index, router) in self.routers.iter().enumerate() {
            let granted = self.granted.get(&router.holder);
            let is_live = granted.is_some_and(|granted| granted.is_live(self.now));
            if router.published > self.now && !is_live {
                return Err(format!("router {index} may send without a live lease"));
            }
            router.check(self.now)?;
            self.check_calls_of(index, router)?;
        }
        for (tenant, container) in self.containers.iter().enumerate() {
            let leased = self.leased(tenant).filter(|_| container.is_suspended_by_orchestrator);
            if let Some(holder) = leased {
                return Err(format!("tenant {tenant} is suspended under the lease of {holder}"));
            }
        }
        self.orchestrator.check(self.now, &self.calls)
    }

    /// The core waits for a response exactly while the call is in flight.
    fn check_calls_of(&self, index: usize, router: &Router) -> Result<(), String> {
        let open = |is_kind: fn(&Call) -> bool| {
            let calls = self.calls.values();
            calls.filter(|call| call.is_open && call.router == index && is_kind(call)).count()
        };
        let requests = open(Call::is_request);
        if requests != usize::from(router.entry().is_some_and(|entry| entry.request.is_some())) {
            return Err(format!("router {index} has {requests} lease requests in flight"));
        }
        let probes = open(Call::is_probe);
        if probes != usize::from(router.manager.outage.is_probing) {
            return Err(format!("router {index} has {probes} probes in flight"));
        }
        Ok(())
    }

    /// Checks the properties that hold once nothing moves but time.
    pub(super) fn check_quiet(&self) -> Result<(), String> {
        if self.calls.values().any(|call| call.stage == Stage::Waiting) {
            return Err("a lease request waits for nothing".to_owned());
        }
        for (index, router) in self.routers.iter().enumerate() {
            if !router.waiters.is_empty() {
                return Err(format!("a request at router {index} waits for nothing"));
            }
            if self.lacks_lease(router) {
                return Err(format!("router {index} sends requests and requests no lease"));
            }
            if router.manager.status() != OrchestratorStatus::Reachable && self.is_used(router) {
                return Err(format!(
                    "router {index} does not notice that the orchestrator is back"
                ));
            }
        }
        for (tenant, container) in self.containers.iter().enumerate() {
            let rests = container.run == Run::Paused
                || container.run == Run::Stopped && container.intent == Intent::Sleeping;
            let retries =
                self.orchestrator.core.tenants.get(&tenant).map(|entry| entry.state.retry_at);
            let is_due = retries.is_none_or(|at| at <= self.now);
            if self.leased(tenant).is_some() && rests && is_due {
                return Err(format!("tenant {tenant} is suspended and not woken for its lease"));
            }
        }
        Ok(())
    }

    /// Whether a request is in flight to a tenant that could be leased.
    fn is_used(&self, router: &Router) -> bool {
        let container = self.containers[router.tenant];
        router.in_use && container.run == Run::Ready && container.intent != Intent::Stopped
    }

    /// Whether requests are in flight without a lease, although the orchestrator would grant one.
    pub(super) fn lacks_lease(&self, router: &Router) -> bool {
        self.is_used(router) && router.published <= self.now
    }

    /// Returns a holder with a live lease on the tenant.
    fn leased(&self, tenant: usize) -> Option<u8> {
        let live = |(holder, granted): (&u8, &Granted)| {
            (self.tenant_of(*holder) == tenant && granted.is_live(self.now)).then_some(*holder)
        };
        self.granted.iter().find_map(live)
    }

    /// Each router has eight holder ids, for its restarts.
    pub(super) fn tenant_of(&self, holder: u8) -> usize {
        self.routers[usize::from(holder) / 8].tenant
    }
}
