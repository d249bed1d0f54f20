//! Keeps what is known of each tenant and changes it one operation a tenant at a time.
//!
//! Everything it knows comes from the engine (looked at, listed, hinted) and from one small file a tenant.
//! An operation that was begun goes on when its caller has left: a caller that asks again waits behind it and
//! meets what it made. When to put a tenant to sleep, and how to wake it, is decided in [`lease::Authority`]; it is
//! told whatever changes, and what it wants done is done in `act`.

mod act;
mod desk;
mod leases;
mod operate;
mod rules;
mod sleep;
mod sweep;
mod view;
mod why;

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use lease::{AwakeReason, WakeKind};
use protocol::TenantId;
use protocol::busy::BusyList;
use protocol::orchestrator::{ObservedTenant, Phase, Upstream};
use service::watch::Feed;
use tokio::sync::{Semaphore, mpsc};
use tokio_util::task::TaskTracker;

pub use self::leases::LeaseError;
pub use self::rules::Rules;

use self::desk::{Desk, Order, moment};
use self::view::Known;
use crate::driver::{Driver, DriverError, DriverErrorCode};
use crate::metrics::{Bounded, Gauges, Metrics};
use crate::state_dir::{StateDir, TargetState};

pub struct Keeper {
    driver: Arc<dyn Driver>,
    notes: StateDir,
    feed: Feed<ObservedTenant>,
    rules: Rules,
    /// Locked after the book where both are.
    desk: Desk,
    orders: Mutex<Option<mpsc::UnboundedReceiver<Order>>>,
    starts: Semaphore,
    falls: Semaphore,
    /// Everything else that the engine is asked for at once.
    calls: Semaphore,
    /// What was begun to put tenants to sleep and to wake them.
    acts: TaskTracker,
    book: Mutex<Book>,
    /// One note at a time: the last one written is the last one known.
    writing: Mutex<()>,
    pub metrics: Metrics,
    sweeping: tokio::sync::Mutex<()>,
    /// Orders looks and operations: an older look never overwrites what a newer operation found.
    clock: AtomicU64,
}

#[derive(Default)]
struct Book {
    tenants: HashMap<TenantId, Entry>,
    tombs: Tombs,
    /// Why the engine does not answer; `None` while it does.
    engine: Option<String>,
    /// Until then nothing is said of any tenant: unknown is not gone.
    listed: bool,
}

#[derive(Default)]
struct Entry {
    known: Known,
    /// Held by the operation that is under way.
    gate: Arc<tokio::sync::Mutex<()>>,
    /// Operations under way or waiting.
    busy: u32,
    /// When an operation last ended.
    touched: u64,
    /// When its spec was last asked for.
    specified: u64,
    /// A hint came while an operation was under way.
    hinted: bool,
    /// What it said when it was last asked what keeps it busy.
    answer: Option<Result<BusyList, String>>,
    /// What the engine said when it last would not wake it.
    unwoken: Option<String>,
}

/// Tenants that were deleted since this process began. Bounded: what falls out is app-api's to know.
#[derive(Default)]
struct Tombs {
    order: VecDeque<TenantId>,
    set: HashSet<TenantId>,
}

const TOMBS: usize = 65_536;
const CALLS: usize = 16;

impl Tombs {
    fn dig(&mut self, id: TenantId) {
        if self.set.insert(id) {
            self.order.push_back(id);
        }
        if self.order.len() > TOMBS
            && let Some(oldest) = self.order.pop_front()
        {
            self.set.remove(&oldest);
        }
    }
}

impl Keeper {
    /// `epoch`: milliseconds since 1970; see also [`Feed::new`]. Must be called inside a runtime.
    pub fn new(driver: Arc<dyn Driver>, notes: StateDir, epoch: u64, rules: Rules) -> Arc<Self> {
        match notes.remove_temporary_files() {
            Ok(0) => {}
            Ok(files) => tracing::info!(files, "temporary state files removed"),
            Err(error) => tracing::warn!(%error, "temporary state files not removed"),
        }
        let (desk, orders) = Desk::new(epoch, &rules);
        Arc::new(Self {
            driver,
            notes,
            feed: Feed::new(epoch),
            desk,
            orders: Mutex::new(Some(orders)),
            starts: Semaphore::new(rules.starts),
            falls: Semaphore::new(rules.falls),
            calls: Semaphore::new(CALLS),
            rules,
            acts: TaskTracker::new(),
            book: Mutex::default(),
            writing: Mutex::default(),
            metrics: Metrics::default(),
            sweeping: tokio::sync::Mutex::default(),
            clock: AtomicU64::default(),
        })
    }

    pub fn driver(&self) -> &dyn Driver {
        &*self.driver
    }

    /// What is observed of all tenants, unless nothing was listed yet.
    pub fn feed(&self) -> Result<&Feed<ObservedTenant>, DriverError> {
        let book = self.book();
        if book.listed {
            return Ok(&self.feed);
        }
        let detail = book.engine.clone().unwrap_or_else(|| {
            "The engine's containers were not listed yet. Ask again in a moment.".to_owned()
        });
        Err(DriverError::new(DriverErrorCode::NotListed, detail))
    }

    /// Why the engine does not answer; `Ok` while it does.
    pub fn engine(&self) -> Result<(), String> {
        let book = self.book();
        match &book.engine {
            Some(why) => Err(why.clone()),
            None if !book.listed => Err("The engine's containers were not listed yet.".to_owned()),
            None => Ok(()),
        }
    }

    /// The response to `/metrics`.
    pub fn metrics_text(&self) -> String {
        let tenants: Vec<_> = self.book().tenants.keys().copied().collect();
        let limits = self.rules.settings().limits;
        let gauges = self.desk.see(|authority, now| Gauges {
            leases: tenants
                .iter()
                .filter_map(|id| authority.sleep_state(*id))
                .flat_map(|rest| rest.awake_reasons(now))
                .map(|because| match because {
                    AwakeReason::Leased { holders, .. } => holders,
                    AwakeReason::Busy { .. }
                    | AwakeReason::OrchestratorStarted { .. }
                    | AwakeReason::EngineRefused { .. }
                    | AwakeReason::NeverSleeps => 0,
                })
                .sum(),
            starts: authority.wake_queue().active_calls(WakeKind::Start),
            bounded: vec![
                // Includes the starts that owners request.
                engine_calls("start", in_use(&self.starts, self.rules.starts), self.rules.starts),
                engine_calls(
                    "thaw",
                    authority.wake_queue().active_calls(WakeKind::Thaw),
                    limits.concurrent_thaws,
                ),
                engine_calls("sleep", in_use(&self.falls, self.rules.falls), self.rules.falls),
                engine_calls("other", in_use(&self.calls, CALLS), CALLS),
                Bounded {
                    name: "cial_wake_queue",
                    help: "Wakes that wait for their call at the engine",
                    kind: None,
                    current: authority.wake_queue().queued_count(),
                    limit: limits.queued_wakes,
                },
                Bounded {
                    name: "cial_lease_requests_waiting",
                    help: "Lease requests that wait for a wake",
                    kind: None,
                    current: authority.wake_queue().waiter_count(),
                    limit: limits.waiters,
                },
            ],
        });
        self.metrics.text(&self.feed.list(), &gauges)
    }

    fn book(&self) -> MutexGuard<'_, Book> {
        self.book.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_orders(&self) -> Option<mpsc::UnboundedReceiver<Order>> {
        self.orders.lock().unwrap_or_else(PoisonError::into_inner).take()
    }

    fn observed(&self, id: TenantId) -> Option<ObservedTenant> {
        let book = self.book();
        book.tenants.get(&id)?.known.observed(book.engine.as_deref())
    }

    fn phase(&self, id: TenantId) -> Option<Phase> {
        self.book().tenants.get(&id)?.known.lease_phase()
    }

    /// Where it is reached, and which generation answers there.
    fn way_in(&self, id: TenantId) -> Option<(i64, Upstream)> {
        let book = self.book();
        let seen = book.tenants.get(&id)?.known.seen.as_ref()?;
        Some((seen.generation, seen.upstream.clone()?))
    }

    /// One that the engine shows nothing of may still be asleep.
    fn remember(&self, id: TenantId) {
        let mut book = self.book();
        if book.tenants.contains_key(&id) || book.tombs.set.contains(&id) {
            return;
        }
        let entry = Entry::new(self, id);
        if entry.known.lease_phase().is_some() {
            self.show(id, &entry.known, book.engine.as_deref());
            book.tenants.insert(id, entry);
        }
    }

    /// Changes what is known of one tenant and tells the watchers, in one step.
    fn change<R>(&self, id: TenantId, change: impl FnOnce(&mut Known) -> R) -> R {
        let mut book = self.book();
        let engine = book.engine.clone();
        let entry = book.tenants.entry(id).or_insert_with(|| Entry::new(self, id));
        let result = change(&mut entry.known);
        self.show(id, &entry.known, engine.as_deref());
        result
    }

    /// Must be called with the book held, so that what is told last is what is known last.
    fn show(&self, id: TenantId, known: &Known, engine: Option<&str>) {
        match known.observed(engine) {
            Some(observed) => {
                self.feed.put(observed);
            }
            None => {
                self.feed.remove(&id);
            }
        }
        self.report_phase(id, known);
    }

    fn report_phase(&self, id: TenantId, known: &Known) {
        let Some(phase) = known.lease_phase() else {
            return self.desk.tell(|authority, _| authority.remove_tenant(id));
        };
        self.desk.tell(|authority, now| {
            if authority.sleep_state(id).is_some() {
                return authority.on_phase_observed(now, id, phase);
            }
            let policy = self.rules.policy(known.persisted.spec.as_ref());
            let last_use = known.persisted.last_use.map_or(now, moment);
            authority.add_tenant(now, id, phase, policy, last_use);
            if known.persisted.target == TargetState::Stopped {
                authority.set_owner_intent(now, id, false);
            }
        });
    }

    fn is_young(&self) -> bool {
        self.desk.see(|authority, now| authority.is_starting_up(now))
    }

    fn now(&self) -> u64 {
        self.clock.fetch_add(1, Ordering::Relaxed)
    }
}

fn in_use(slots: &Semaphore, limit: usize) -> usize {
    limit.saturating_sub(slots.available_permits())
}

fn engine_calls(kind: &'static str, current: usize, limit: usize) -> Bounded {
    let help = "Calls at the engine";
    Bounded { name: "cial_engine_calls", help, kind: Some(kind), current, limit }
}

impl Entry {
    fn new(keeper: &Keeper, id: TenantId) -> Self {
        let known = Known::new(keeper.notes.read(id), keeper.is_young());
        Self { known, ..Self::default() }
    }
}
