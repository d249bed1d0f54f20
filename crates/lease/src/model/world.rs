//! The complete state of the model at one moment.

use std::collections::BTreeMap;

use super::orchestrator::Orchestrator;
use super::router::Router;
use crate::command::AuthoritySettings;
use crate::holder::LeaseCall;
use crate::sleep_state::{HolderUsage, SleepPolicy};
use crate::time::{Millis, Moment};
use crate::{CallId, EngineCall};

/// One unit of time: a lease lasts two.
pub(super) const UNIT: Millis = 1_000;

/// The events that may happen, and how often.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Budget {
    pub(super) router_crashes: u8,
    pub(super) orchestrator_crashes: u8,
    pub(super) owner: u8,
    pub(super) exits: u8,
    pub(super) refusals: u8,
    pub(super) busy: u8,
    pub(super) leaves: u8,
    pub(super) repeats: u8,
    pub(super) ticks: u8,
    pub(super) requests: u8,
    /// Messages in flight at once; the network loses any message beyond that.
    pub(super) network: usize,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct World {
    pub(super) now: Moment,
    pub(super) routers: Vec<Router>,
    pub(super) network: Vec<Message>,
    pub(super) orchestrator: Orchestrator,
    pub(super) containers: Vec<Container>,
    pub(super) budget: Budget,
    pub(super) policy: SleepPolicy,
    pub(super) settings: AuthoritySettings,
    /// Every lease that was granted and may be live, by holder. No crash erases this record.
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

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Run {
    Stopped,
    Booting,
    Ready,
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Container {
    pub(super) run: Run,
    /// The orchestrator suspended the tenant for lack of use, or is about to.
    pub(super) is_suspended_by_orchestrator: bool,
    /// The operation that holds the tenant's lock.
    pub(super) turn: Option<Turn>,
    /// The owner's operation, while it waits for the lock.
    pub(super) queued: Option<Turn>,
    /// The tenant's last busy report.
    pub(super) busy: bool,
    /// The orchestrator's persisted note, which survives a crash.
    pub(super) note: Note,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Note {
    Running,
    Sleeping,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Turn {
    Ours { call: EngineCall, call_id: CallId, part: Part },
    OwnerStops,
    OwnerStarts,
}

/// The part of a call that is in progress: all kinds but [`EngineCall::ThawThenStop`] have one
/// part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    First,
    /// Thawed, with a busy query in flight: no engine call is running.
    Queried,
    Last,
}

/// A message in flight; the network keeps no order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Message {
    LeaseRequest { router: usize, holder: u8, call: LeaseCall, is_visit: bool },
    Renew { router: usize, holder: u8, call: LeaseCall, idle: Millis },
    Release { router: usize, holder: u8, number: u64, idle: Millis },
    Granted { router: usize, holder: u8, call: LeaseCall, expires_in: Millis, linger: Millis },
    Refused { router: usize, holder: u8, call: LeaseCall },
    Renewed { router: usize, holder: u8, call: LeaseCall, expires_in: Option<Millis> },
}

impl Message {
    pub(super) fn is_answer_to(&self, router: usize) -> bool {
        match self {
            Self::Granted { router: of, .. }
            | Self::Refused { router: of, .. }
            | Self::Renewed { router: of, .. } => *of == router,
            Self::LeaseRequest { .. } | Self::Renew { .. } | Self::Release { .. } => false,
        }
    }
}

impl World {
    pub(super) fn new(
        routers: usize,
        tenants: usize,
        policy: SleepPolicy,
        settings: AuthoritySettings,
        budget: Budget,
    ) -> Self {
        // The moment is late enough that no subtraction reaches the epoch.
        let now = Moment(1_000 * UNIT);
        let container = Container {
            run: Run::Ready,
            is_suspended_by_orchestrator: false,
            turn: None,
            queued: None,
            busy: false,
            note: Note::Running,
        };
        let containers = vec![container; tenants];
        let orchestrator = Orchestrator::start(now, settings, policy, &containers);
        let routers = (0..routers).map(|router| Router::new(router, router % tenants)).collect();
        let (network, granted) = (Vec::new(), BTreeMap::new());
        Self { now, routers, network, orchestrator, containers, budget, policy, settings, granted }
    }

    pub(super) fn send(&mut self, message: Message) {
        if self.network.len() < self.budget.network && !self.network.contains(&message) {
            self.network.push(message);
            self.network.sort_unstable();
        }
    }

    /// Checks the properties that hold at every moment.
    pub(super) fn check(&self) -> Result<(), String> {
        for router in &self.routers {
            let live =
                self.granted.get(&router.id).is_some_and(|granted| granted.is_live(self.now));
            if router.holder.may_send(self.now) && !live {
                return Err(format!("router {} may send without a live lease", router.id));
            }
        }
        for (tenant, container) in self.containers.iter().enumerate() {
            let live = self.leased(tenant).filter(|_| container.is_suspended_by_orchestrator);
            if let Some(holder) = live {
                return Err(format!(
                    "tenant {tenant} is put to sleep while holder {holder} has a live lease"
                ));
            }
        }
        self.orchestrator.check(self.now)
    }

    /// Checks the properties that hold once nothing moves but time.
    pub(super) fn check_quiet(&self) -> Result<(), String> {
        if let Some(waiter) = self.orchestrator.waiting.keys().next() {
            return Err(format!("waiter {waiter} waits for nothing"));
        }
        for (tenant, container) in self.containers.iter().enumerate() {
            let leased = self.leased(tenant).is_some();
            let rests = container.run == Run::Paused
                || container.run == Run::Stopped && container.note == Note::Sleeping;
            let retries =
                self.orchestrator.core.tenants.get(&tenant).map(|entry| entry.state.retry_at);
            if leased && rests && retries.is_none_or(|at| at <= self.now) {
                return Err(format!("tenant {tenant} rests and nobody wakes it for its lease"));
            }
        }
        Ok(())
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

pub(super) fn used(number: u64, idle: Millis) -> HolderUsage {
    HolderUsage { number, idle, requests: 0, streams: 0 }
}
