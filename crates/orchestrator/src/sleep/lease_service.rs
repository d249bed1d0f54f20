//! The service that runs [`lease::Authority`]: it holds the lock, the clock and the timer.
//!
//! Responses go straight to those who wait. Work that takes time goes as a [`SleepCommand`] to the loop of
//! [`SleepController`](super::SleepController). The service calls no other part, so that every part may call it with its own
//! lock held.

use std::collections::{BTreeMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use lease::{
    AwakeReason, BusyReport, CallId, CallOutcome, Command, EngineCall, HolderUsage, LeaseResponse,
    Millis, Moment, SleepRecord, TenantSleepState, Waiter, WakeKind, WakeProgress, WakeTimings,
};
use protocol::orchestrator::Phase;
use protocol::sleep::{IdleState, LastWake, WakePhases};
use protocol::spec::Spec;
use protocol::{TenantId, Timestamp};
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::time::Instant;
use uuid::Uuid;

use super::settings::{SleepSettings, to_millis};
use crate::operations::OwnerIntents;
use crate::tenants::{PhaseObservation, TenantObserver};

type Authority = lease::Authority<TenantId, Uuid, WaiterId>;

/// Identifies one lease request in this process.
pub(super) type WaiterId = u64;

/// Work for the loop of the sleep controller.
#[derive(Clone, Copy, Debug)]
pub(crate) enum SleepCommand {
    QueryBusy {
        tenant: TenantId,
        generation: u64,
    },
    CallEngine {
        tenant: TenantId,
        call: EngineCall,
        call_id: CallId,
    },
    RecordWake {
        tenant: TenantId,
        timings: WakeTimings,
    },
    /// A wake failed, and those who waited for it were notified.
    RecordFailedWake {
        tenant: TenantId,
    },
}

/// The result of a lease request.
#[derive(Clone, Copy, Debug)]
pub(super) enum LeaseOutcome {
    Response(LeaseResponse),
    /// This process is shutting down.
    ShuttingDown,
}

/// A lease request to the service.
#[derive(Clone, Copy, Debug)]
pub(super) struct LeaseQuery {
    pub(super) tenant: TenantId,
    pub(super) is_visit: bool,
    pub(super) holder: Uuid,
    pub(super) number: u64,
    /// How long the caller waits for a response.
    pub(super) wait: Duration,
}

/// The reason why a tenant is awake, and the time at which it will be suspended.
#[derive(Clone, Debug)]
pub(super) struct SleepForecast {
    pub(super) phase: Phase,
    pub(super) last_use: Moment,
    pub(super) awake_reasons: Vec<AwakeReason>,
    pub(super) freezes_at: Option<Moment>,
    pub(super) sleeps_at: Option<Moment>,
}

/// The values for metrics.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LeaseGauges {
    pub(crate) leases: usize,
    pub(crate) starts: usize,
    pub(crate) thaws: usize,
    pub(crate) queued_wakes: usize,
    pub(crate) waiters: usize,
}

pub(crate) struct LeaseService {
    state: Mutex<State>,
    settings: SleepSettings,
    clock: Clock,
    commands: mpsc::UnboundedSender<SleepCommand>,
    /// Notified when the timer must be set again.
    deadline_changed: Notify,
    owner_numbers: AtomicU64,
    /// Counts events that may have changed the progress of a wake.
    changes: watch::Sender<u64>,
}

struct State {
    authority: Authority,
    waiters: BTreeMap<WaiterId, (TenantId, oneshot::Sender<LeaseOutcome>)>,
    last_waiter: WaiterId,
    is_shutting_down: bool,
    /// Tenants whose state file is older than their last use.
    used: HashSet<TenantId>,
}

/// Milliseconds since 1970 at the start of this process, and a monotonic clock from there on.
#[derive(Clone, Copy, Debug)]
struct Clock {
    started: Moment,
    at: Instant,
}

impl Clock {
    fn now(&self) -> Moment {
        self.started.plus(to_millis(self.at.elapsed()))
    }
}

impl LeaseService {
    /// `epoch`: now, in milliseconds since 1970.
    pub(crate) fn new(
        epoch: Millis,
        settings: SleepSettings,
    ) -> (Self, mpsc::UnboundedReceiver<SleepCommand>) {
        let started = Moment(epoch);
        #[expect(
            clippy::disallowed_methods,
            reason = "the authority is pure and receives the time"
        )]
        let clock = Clock { started, at: Instant::now() };
        let (commands, receiver) = mpsc::unbounded_channel();
        let state = State {
            authority: Authority::new(started, settings.authority_settings()),
            waiters: BTreeMap::new(),
            last_waiter: 0,
            is_shutting_down: false,
            used: HashSet::new(),
        };
        let service = Self {
            state: Mutex::new(state),
            settings,
            clock,
            commands,
            deadline_changed: Notify::new(),
            owner_numbers: AtomicU64::default(),
            changes: watch::channel(0).0,
        };
        (service, receiver)
    }

    pub(super) fn now(&self) -> Moment {
        self.clock.now()
    }

    pub(super) const fn settings(&self) -> &SleepSettings {
        &self.settings
    }

    /// Requests a lease. The outcome arrives through the receiver.
    pub(super) fn request(&self, query: LeaseQuery) -> (WaiterId, oneshot::Receiver<LeaseOutcome>) {
        let (sender, receiver) = oneshot::channel();
        let mut state = self.lock();
        state.last_waiter += 1;
        let id = state.last_waiter;
        if state.is_shutting_down {
            let _ = sender.send(LeaseOutcome::ShuttingDown);
            return (id, receiver);
        }
        let LeaseQuery { tenant, is_visit, holder, number, wait } = query;
        state.waiters.insert(id, (tenant, sender));
        state.used.insert(tenant);
        self.handle(&mut state, |authority, now| {
            let waiter = Waiter { id, holder, number, deadline: now.plus(to_millis(wait)) };
            authority.request_lease(now, lease::LeaseRequest { tenant, is_visit, waiter });
        });
        drop(state);
        self.notify_change();
        (id, receiver)
    }

    /// Removes the request of a caller that no longer waits.
    pub(super) fn remove_waiter(&self, tenant: TenantId, waiter: WaiterId) {
        let mut state = self.lock();
        if state.waiters.remove(&waiter).is_some() {
            self.handle(&mut state, |authority, now| authority.remove_waiter(now, tenant, waiter));
        }
    }

    /// Returns how long the lease lasts from now on; `None`: there is no lease.
    pub(super) fn renew(
        &self,
        tenant: TenantId,
        holder: Uuid,
        usage: HolderUsage,
    ) -> Option<Millis> {
        self.on_use(tenant, |authority, now| authority.renew_lease(now, tenant, holder, usage))
    }

    pub(super) fn release(&self, tenant: TenantId, holder: Uuid, usage: HolderUsage) {
        self.on_use(tenant, |authority, now| authority.release_lease(now, tenant, holder, usage));
    }

    /// Releases a lease that was requested for an owner's wake and is not used.
    pub(super) fn release_unused(&self, tenant: TenantId, holder: Uuid, number: u64) {
        let usage = HolderUsage { number, ..HolderUsage::default() };
        self.on_change(|authority, now| authority.release_lease(now, tenant, holder, usage));
    }

    /// A request number that is higher than all before.
    pub(super) fn next_owner_number(&self) -> u64 {
        self.owner_numbers.fetch_add(1, Ordering::Relaxed)
    }

    pub(super) fn on_busy_report(&self, tenant: TenantId, generation: u64, report: BusyReport) {
        self.on_change(|authority, now| authority.on_busy_report(now, tenant, generation, report));
    }

    /// Returns `false` when the call must not be made: the target of the tenant changed, or this process is shutting down.
    pub(super) fn begin_call(&self, tenant: TenantId, call_id: CallId) -> bool {
        !self.is_shutting_down()
            && self.on_change(|authority, now| authority.begin_call(now, tenant, call_id))
    }

    pub(super) fn defer_call(&self, tenant: TenantId, call_id: CallId) {
        self.on_change(|authority, now| authority.defer_call(now, tenant, call_id));
    }

    /// Returns whether no lease request arrived since the tenant's suspend began.
    pub(super) fn is_still_unused(&self, tenant: TenantId) -> bool {
        self.read(|authority, _| {
            authority.sleep_state(tenant).is_some_and(TenantSleepState::is_still_unused)
        })
    }

    /// Returns whether a tenant that was thawed for its stop is to be stopped.
    pub(super) fn continue_after_thaw(&self, tenant: TenantId, report: BusyReport) -> bool {
        self.on_change(|authority, now| authority.continue_after_thaw(now, tenant, report))
    }

    pub(super) fn on_call_finished(
        &self,
        tenant: TenantId,
        call_id: CallId,
        outcome: CallOutcome,
        phase: Phase,
    ) {
        self.on_change(|authority, now| {
            authority.on_call_finished(now, tenant, call_id, outcome, phase);
        });
    }

    pub(super) fn last_sleep(&self, tenant: TenantId) -> Option<SleepRecord> {
        self.read(|authority, _| {
            authority.sleep_state(tenant).and_then(TenantSleepState::last_sleep)
        })
    }

    pub(super) fn wake_progress(&self, tenant: TenantId) -> Option<WakeProgress> {
        self.read(|authority, now| authority.wake_progress(now, tenant))
    }

    /// Read-only: does not reset the idle time.
    pub(super) fn forecast(&self, tenant: TenantId) -> Option<SleepForecast> {
        self.read(|authority, now| {
            let state = authority.sleep_state(tenant)?;
            Some(SleepForecast {
                phase: state.phase(),
                last_use: state.last_use(),
                awake_reasons: state.awake_reasons(now),
                freezes_at: state.freezes_at(now),
                sleeps_at: state.sleeps_at(now),
            })
        })
    }

    pub(super) fn waiter_count(&self) -> usize {
        self.read(|authority, _| authority.wake_queue().waiter_count())
    }

    pub(crate) fn gauges(&self, tenants: &[TenantId]) -> LeaseGauges {
        let holders = |reason: AwakeReason| match reason {
            AwakeReason::Leased { holders, .. } => holders,
            AwakeReason::Busy { .. }
            | AwakeReason::OrchestratorStarted { .. }
            | AwakeReason::EngineRefused { .. }
            | AwakeReason::NeverSleeps => 0,
        };
        self.read(|authority, now| {
            let states = tenants.iter().filter_map(|id| authority.sleep_state(*id));
            let queue = authority.wake_queue();
            LeaseGauges {
                leases: states.flat_map(|state| state.awake_reasons(now)).map(holders).sum(),
                starts: queue.active_calls(WakeKind::Start),
                thaws: queue.active_calls(WakeKind::Thaw),
                queued_wakes: queue.queued_count(),
                waiters: queue.waiter_count(),
            }
        })
    }

    /// Refuses new requests from here on. Waiters are notified in the order of their requests.
    pub(super) fn shut_down(&self) {
        let mut state = self.lock();
        state.is_shutting_down = true;
        for (_, (_, sender)) in std::mem::take(&mut state.waiters) {
            let _ = sender.send(LeaseOutcome::ShuttingDown);
        }
        drop(state);
        self.notify_change();
    }

    pub(super) fn is_shutting_down(&self) -> bool {
        self.lock().is_shutting_down
    }

    /// The tenants that were used since the last call.
    pub(super) fn take_used(&self) -> HashSet<TenantId> {
        std::mem::take(&mut self.lock().used)
    }

    /// Changes with every event that may have changed the progress of a wake.
    pub(super) fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    /// Ends when the next deadline has passed, or may have changed. Cancel-safe.
    pub(super) async fn run_timer(&self) {
        let next = self.read(|authority, now| authority.next_deadline().map(|at| at.since(now)));
        match next {
            Some(wait) => tokio::select! {
                // At least a millisecond: an overdue deadline must not spin.
                () = tokio::time::sleep(Duration::from_millis(wait.max(1))) => {
                    self.on_change(|authority, now| authority.tick(now));
                }
                () = self.deadline_changed.notified() => {}
            },
            None => self.deadline_changed.notified().await,
        }
    }

    fn read<R>(&self, read: impl FnOnce(&Authority, Moment) -> R) -> R {
        read(&self.lock().authority, self.now())
    }

    fn on_change<R>(&self, event: impl FnOnce(&mut Authority, Moment) -> R) -> R {
        let result = self.handle(&mut self.lock(), event).0;
        self.notify_change();
        result
    }

    /// Like [`Self::on_change`] for renewals, which are many and change the progress of no wake.
    fn on_use<R>(&self, tenant: TenantId, event: impl FnOnce(&mut Authority, Moment) -> R) -> R {
        let mut state = self.lock();
        state.used.insert(tenant);
        self.handle(&mut state, event).0
    }

    /// Passes an event to the authority and forwards its commands.
    fn handle<R>(
        &self,
        state: &mut State,
        event: impl FnOnce(&mut Authority, Moment) -> R,
    ) -> (R, Option<WakeTimings>) {
        let before = state.authority.next_deadline();
        let result = event(&mut state.authority, self.now());
        let (mut failed, mut woke) = (HashSet::new(), None);
        while let Some(command) = state.authority.next_command() {
            let command = match command {
                Command::Respond { waiter, response } => {
                    failed.extend(respond(state, waiter, response));
                    continue;
                }
                Command::RecordWake { tenant, timings } => {
                    woke = Some(timings);
                    SleepCommand::RecordWake { tenant, timings }
                }
                Command::QueryBusy { tenant, generation } => {
                    SleepCommand::QueryBusy { tenant, generation }
                }
                Command::CallEngine { tenant, call, call_id } => {
                    SleepCommand::CallEngine { tenant, call, call_id }
                }
            };
            // Without the controller's loop no command is executed, as after a kill.
            let _ = self.commands.send(command);
        }
        for tenant in failed {
            let _ = self.commands.send(SleepCommand::RecordFailedWake { tenant });
        }
        let after = state.authority.next_deadline();
        if after.is_some_and(|after| before.is_none_or(|before| after < before)) {
            self.deadline_changed.notify_one();
        }
        (result, woke)
    }

    fn notify_change(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Responds to a waiter. Returns its tenant when the wake failed.
fn respond(state: &mut State, waiter: WaiterId, response: LeaseResponse) -> Option<TenantId> {
    let (tenant, sender) = state.waiters.remove(&waiter)?;
    // The caller may have left.
    let _ = sender.send(LeaseOutcome::Response(response));
    matches!(response, LeaseResponse::Failed(_)).then_some(tenant)
}

impl TenantObserver for LeaseService {
    fn on_phase(&self, id: TenantId, observation: PhaseObservation<'_>) -> Option<LastWake> {
        let PhaseObservation { phase, spec, last_use, is_stopped_by_owner } = observation;
        let ((), woke) = self.handle(&mut self.lock(), |authority, now| {
            if authority.sleep_state(id).is_some() {
                return authority.on_phase_observed(now, id, phase);
            }
            let policy = self.settings.policy(spec);
            authority.add_tenant(now, id, phase, policy, last_use.map_or(now, to_moment));
            if is_stopped_by_owner {
                authority.set_owner_intent(now, id, false);
            }
        });
        self.notify_change();
        woke.and_then(|timings| to_last_wake(&timings))
    }

    fn on_gone(&self, id: TenantId) {
        self.on_change(|authority, _| authority.remove_tenant(id));
    }

    fn on_policy(&self, spec: &Spec) {
        let policy = self.settings.policy(Some(spec));
        self.on_change(|authority, now| authority.set_policy(now, spec.id, policy));
    }

    fn on_listed(&self) {
        self.notify_change();
    }

    fn last_use(&self, id: TenantId) -> Option<Timestamp> {
        let last_use =
            self.read(|authority, _| authority.sleep_state(id).map(TenantSleepState::last_use));
        last_use.map(to_timestamp)
    }

    fn is_starting_up(&self) -> bool {
        self.read(|authority, now| authority.is_starting_up(now))
    }
}

impl OwnerIntents for LeaseService {
    fn set_owner_intent(&self, id: TenantId, wants_running: bool) {
        self.on_change(|authority, now| authority.set_owner_intent(now, id, wants_running));
    }
}

/// `None` when the tenant was not woken from an idle state: another program had started it.
pub(super) fn to_last_wake(timings: &WakeTimings) -> Option<LastWake> {
    let from = IdleState::from_phase(timings.from)?;
    let (queue, engine, boot) =
        (to_u32(timings.queue), to_u32(timings.engine), to_u32(timings.boot));
    let phases_ms = WakePhases { queue, engine, boot, first_byte: None };
    Some(LastWake {
        at: to_timestamp(timings.ready_at),
        from,
        total_ms: to_u32(timings.total),
        phases_ms,
    })
}

pub(super) fn to_u32(millis: Millis) -> u32 {
    u32::try_from(millis).unwrap_or(u32::MAX)
}

pub(super) fn to_timestamp(at: Moment) -> Timestamp {
    let millis = i64::try_from(at.0).unwrap_or(i64::MAX);
    chrono::DateTime::from_timestamp_millis(millis).unwrap_or(Timestamp::MAX_UTC)
}

pub(super) fn to_moment(at: Timestamp) -> Moment {
    Moment(u64::try_from(at.timestamp_millis()).unwrap_or_default())
}
