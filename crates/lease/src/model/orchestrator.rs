//! The orchestrator's shell: the steps that the orchestrator takes around the core.

use std::collections::BTreeMap;

use super::world::{Container, Granted, Message, Note, Part, Run, Turn, World};
use crate::command::{
    AuthoritySettings, CallId, CallOutcome, Command, EngineCall, LeaseRequest, LeaseResponse,
    WakeError,
};
use crate::holder::LeaseCall;
use crate::reason::BusyReport;
use crate::sleep_state::{SleepPolicy, SuspendStep};
use crate::time::Moment;
use crate::wake_queue::Waiter;
use crate::{Authority, WakeKind};
use protocol::orchestrator::Phase;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Orchestrator {
    pub(super) core: Authority<usize, u8, u8>,
    /// Lease requests without a response.
    pub(super) waiting: BTreeMap<u8, Waiting>,
    /// Tenants with a busy query in flight, with the generation of the query.
    pub(super) queried: BTreeMap<usize, u64>,
    /// Calls that wait for their tenant's lock.
    pub(super) issued: Vec<(usize, EngineCall, CallId)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiting {
    pub(super) router: usize,
    pub(super) holder: u8,
    pub(super) call: LeaseCall,
    pub(super) is_visit: bool,
    pub(super) deadline: Moment,
}

impl Orchestrator {
    /// Starts by recovery, from the engine's phases and the persisted notes. The idle time is the
    /// longest that matters.
    pub(super) fn start(
        now: Moment,
        settings: AuthoritySettings,
        policy: SleepPolicy,
        containers: &[Container],
    ) -> Self {
        let mut core = Authority::new(now, settings);
        for (tenant, container) in containers.iter().enumerate() {
            core.add_tenant(now, tenant, container.phase(), policy, Moment(0));
            core.set_owner_intent(now, tenant, container.note != Note::Stopped);
        }
        let (waiting, queried, issued) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { core, waiting, queried, issued }
    }

    /// Calls that the core no longer wants make no difference: see the test of late begins in
    /// `authority`.
    fn drop_stale(&mut self) {
        let core = &self.core;
        self.issued.retain(|(tenant, _, call_id)| {
            let entry = core.tenants.get(tenant);
            let agreed =
                entry.filter(|entry| matches!(entry.state.step, SuspendStep::Decided { .. }));
            let fall = agreed.and_then(|entry| entry.suspend);
            let told = core.wakes.call(*tenant);
            fall.is_some_and(|(of, _)| of == *call_id) || told.is_some_and(|t| t.id == call_id.0)
        });
        self.queried.retain(|tenant, generation| {
            let step = core.tenants.get(tenant).map(|entry| entry.state.step);
            matches!(step, Some(SuspendStep::QueryingBusy { generation: of, .. }) if of == *generation)
        });
    }

    pub(super) fn check(&self, now: Moment) -> Result<(), String> {
        let flights = self.core.wakes.pending.values();
        let mut known: Vec<u8> = flights.flat_map(|f| f.waiters.iter().map(|w| w.id)).collect();
        known.sort_unstable();
        if let Some(lost) = self.waiting.keys().find(|id| !known.contains(id)) {
            return Err(format!("waiter {lost} is forgotten"));
        }
        if known.len() != self.waiting.len() {
            return Err("somebody waits who was answered".to_owned());
        }
        if let Some((id, _)) = self.waiting.iter().find(|(_, w)| w.deadline <= now) {
            return Err(format!("waiter {id} waits past its deadline"));
        }
        if self.core.next_deadline().is_some_and(|at| at <= now) {
            return Err("the timer is in the past: the shell would spin".to_owned());
        }
        Ok(())
    }
}

impl Container {
    pub(super) fn phase(&self) -> Phase {
        match (self.run, self.note) {
            (Run::Ready, _) => Phase::Ready,
            (Run::Booting, _) => Phase::Starting,
            (Run::Paused, _) => Phase::Frozen,
            (Run::Stopped, Note::Sleeping) => Phase::Sleeping,
            (Run::Stopped, Note::Stopped) => Phase::Stopped,
            (Run::Stopped, Note::Running) => Phase::Exited,
        }
    }

    pub(super) fn wakes(&self) -> bool {
        matches!(self.turn, Some(Turn::Ours { call: EngineCall::Thaw | EngineCall::Start, .. }))
    }
}

impl World {
    /// Delivers a message to the orchestrator.
    pub(super) fn arrive(&mut self, message: Message) -> Result<(), String> {
        let now = self.now;
        let core = &mut self.orchestrator.core;
        match message {
            Message::LeaseRequest { router, holder, call, is_visit } => {
                let id =
                    (0..).find(|id| !self.orchestrator.waiting.contains_key(id)).unwrap_or(u8::MAX);
                let deadline = now.plus(super::router::HOLD);
                let waiting = Waiting { router, holder, call, is_visit, deadline };
                self.orchestrator.waiting.insert(id, waiting);
                let waiter = Waiter { id, holder, number: call.number, deadline };
                core.request_lease(
                    now,
                    LeaseRequest { tenant: self.routers[router].tenant, is_visit, waiter },
                );
            }
            Message::Renew { router, holder, call, idle } => {
                let tenant = self.routers[router].tenant;
                let used = super::world::used(call.number, idle);
                let expires_in = core.renew_lease(now, tenant, holder, used);
                self.send(Message::Renewed { router, holder, call, expires_in });
            }
            Message::Release { router, holder, number, idle } => {
                let used = super::world::used(number, idle);
                core.release_lease(now, self.routers[router].tenant, holder, used);
            }
            Message::Granted { .. } | Message::Refused { .. } | Message::Renewed { .. } => {}
        }
        self.pump()
    }

    /// Runs the core's commands and records the leases that the core granted.
    pub(super) fn pump(&mut self) -> Result<(), String> {
        while let Some(command) = self.orchestrator.core.next_command() {
            match command {
                Command::QueryBusy { tenant, generation } => {
                    self.orchestrator.queried.insert(tenant, generation);
                    self.containers[tenant].busy = false;
                }
                Command::CallEngine { tenant, call, call_id } => {
                    self.orchestrator.issued.push((tenant, call, call_id));
                    self.check_one_call(tenant)?;
                }
                Command::Respond { waiter, response } => self.respond(waiter, response)?,
                Command::RecordWake { .. } => {}
            }
        }
        self.orchestrator.drop_stale();
        // A released lease is not live. A lease that a crashed orchestrator has forgotten is.
        let entries = self.orchestrator.core.tenants.values();
        let leases: BTreeMap<u8, Moment> = entries
            .flat_map(|e| e.state.leases.iter().map(|(h, lease)| (*h, lease.until)))
            .collect();
        for (holder, granted) in &mut self.granted {
            granted.until = leases.get(holder).copied().unwrap_or_default();
        }
        for (holder, until) in leases {
            self.granted.entry(holder).or_insert(Granted { until, orphan: Moment(0) });
        }
        let now = self.now;
        self.granted.retain(|_, granted| granted.is_live(now));
        Ok(())
    }

    fn check_one_call(&self, tenant: usize) -> Result<(), String> {
        let wakes = |call: &EngineCall| matches!(call, EngineCall::Thaw | EngineCall::Start);
        let wanted =
            self.orchestrator.issued.iter().filter(|(of, call, _)| *of == tenant && wakes(call));
        let under_way = usize::from(self.containers[tenant].wakes());
        if wanted.count() + under_way > 1 {
            return Err(format!("two calls to wake tenant {tenant} at once"));
        }
        for (kind, most) in [
            (WakeKind::Thaw, self.settings.limits.concurrent_thaws),
            (WakeKind::Start, self.settings.limits.concurrent_starts),
        ] {
            if self.orchestrator.core.wakes.active_calls(kind) > most {
                return Err(format!("more than {most} calls at once: {kind:?}"));
            }
        }
        Ok(())
    }

    /// Passes a response on. A refusal must have a reason in the state of the world.
    fn respond(&mut self, waiter: u8, response: LeaseResponse) -> Result<(), String> {
        let Some(waiting) = self.orchestrator.waiting.remove(&waiter) else {
            return Err(format!("waiter {waiter} is answered twice: {response:?}"));
        };
        let Waiting { router, holder, call, is_visit, deadline } = waiting;
        let container = self.containers[self.routers[router].tenant];
        let is_just = match response {
            LeaseResponse::Granted(grant) => {
                let (expires_in, linger) = (grant.expires_in, grant.linger);
                self.send(Message::Granted { router, holder, call, expires_in, linger });
                return Ok(());
            }
            LeaseResponse::Stopped => container.note == Note::Stopped,
            LeaseResponse::NotRunning => {
                matches!(container.phase(), Phase::Created | Phase::Exited | Phase::Starting)
            }
            LeaseResponse::WakeRequired => !is_visit && container.run == Run::Stopped,
            LeaseResponse::Waking { .. } => deadline <= self.now,
            LeaseResponse::QueueFull { .. } => {
                self.orchestrator.waiting.len() >= self.settings.limits.waiters_per_tenant
            }
            LeaseResponse::Failed(WakeError::EngineRefused) => container.phase() != Phase::Ready,
            LeaseResponse::Failed(WakeError::Exited) => container.run == Run::Stopped,
            LeaseResponse::Failed(WakeError::ReadinessTimeout) => container.run != Run::Ready,
            LeaseResponse::Unknown => false,
        };
        self.send(Message::Refused { router, holder, call });
        if is_just {
            Ok(())
        } else {
            Err(format!("waiter {waiter} is refused for no reason: {response:?}"))
        }
    }

    /// The tenant reports whether it is busy.
    pub(super) fn report_busy(&mut self, tenant: usize, is_busy: bool) -> Result<(), String> {
        let report =
            if is_busy { BusyReport::Busy { until: Moment(0) } } else { BusyReport::NotBusy };
        self.budget.busy -= u8::from(is_busy);
        let container = &mut self.containers[tenant];
        container.busy = is_busy;
        let Some(Turn::Ours { call, call_id, part: Part::Queried }) = container.turn else {
            if let Some(generation) = self.orchestrator.queried.remove(&tenant) {
                self.orchestrator.core.on_busy_report(self.now, tenant, generation, report);
            }
            return self.pump();
        };
        let turn = Turn::Ours { call, call_id, part: Part::Last };
        if !self.orchestrator.core.continue_after_thaw(self.now, tenant, report) {
            return self.ended(tenant, turn, true);
        }
        if is_busy {
            return Err(format!("{call:?} of a tenant that said it is busy"));
        }
        let container = &mut self.containers[tenant];
        (container.turn, container.note) = (Some(turn), Note::Sleeping);
        Ok(())
    }

    pub(super) fn begin_call(&mut self, at: usize) -> Result<(), String> {
        let (tenant, call, call_id) = self.orchestrator.issued.remove(at);
        let begun = self.orchestrator.core.begin_call(self.now, tenant, call_id);
        if begun {
            let container = &mut self.containers[tenant];
            if container.note == Note::Stopped {
                return Err(format!("{call:?} of a tenant that its owner stopped"));
            }
            container.turn = Some(Turn::Ours { call, call_id, part: Part::First });
            match call {
                EngineCall::Freeze | EngineCall::Stop | EngineCall::ThawThenStop
                    if container.busy =>
                {
                    return Err(format!("{call:?} of a tenant that said it is busy"));
                }
                EngineCall::Freeze | EngineCall::ThawThenStop => {
                    container.is_suspended_by_orchestrator = true
                }
                EngineCall::Stop => {
                    (container.is_suspended_by_orchestrator, container.note) =
                        (true, Note::Sleeping)
                }
                EngineCall::Thaw => {}
                EngineCall::Start => container.note = Note::Running,
            }
        }
        self.pump()
    }

    /// The engine's call for this tenant takes effect and returns. A refused call has no effect.
    pub(super) fn engine(&mut self, tenant: usize, refused: bool) -> Result<(), String> {
        let container = &mut self.containers[tenant];
        let Some(turn) = container.turn else { return Ok(()) };
        let works = !refused && container.effect(turn);
        if let Turn::Ours { call: call @ EngineCall::ThawThenStop, call_id, part: Part::First } =
            turn
            && works
            && self
                .orchestrator
                .core
                .sleep_state(tenant)
                .is_some_and(crate::TenantSleepState::is_still_unused)
        {
            container.turn = Some(Turn::Ours { call, call_id, part: Part::Queried });
            container.busy = false;
            return Ok(());
        }
        self.ended(tenant, turn, works)
    }

    fn ended(&mut self, tenant: usize, turn: Turn, works: bool) -> Result<(), String> {
        let container = &mut self.containers[tenant];
        container.is_suspended_by_orchestrator &=
            matches!(container.run, Run::Paused | Run::Stopped);
        if matches!(container.run, Run::Ready | Run::Booting | Run::Paused)
            && container.note == Note::Sleeping
        {
            container.note = Note::Running;
        }
        container.turn = container.queued.take();
        let phase = container.phase();
        match turn {
            Turn::Ours { call_id, .. } => {
                let outcome = if works { CallOutcome::Done } else { CallOutcome::Refused };
                self.orchestrator.core.on_call_finished(self.now, tenant, call_id, outcome, phase);
            }
            Turn::OwnerStops | Turn::OwnerStarts => {
                self.orchestrator.core.on_phase_observed(self.now, tenant, phase)
            }
        }
        self.pump()
    }

    /// The orchestrator loses its memory. The engine finishes the calls in flight before it shows
    /// the tenants again.
    pub(super) fn orchestrator_crashes(&mut self, effect: bool) {
        for container in &mut self.containers {
            if let Some(turn) = container.turn.take().filter(|_| effect) {
                container.effect(turn);
            }
            container.is_suspended_by_orchestrator &=
                matches!(container.run, Run::Paused | Run::Stopped);
            (container.queued, container.busy) = (None, false);
        }
        for granted in self.granted.values_mut() {
            (granted.orphan, granted.until) = (granted.orphan.max(granted.until), Moment(0));
        }
        let (settings, policy) = (self.settings, self.policy);
        self.orchestrator = Orchestrator::start(self.now, settings, policy, &self.containers);
        self.budget.orchestrator_crashes -= 1;
    }
}

impl Container {
    /// Applies a call to the container. Returns `false` when the container is not in the state that
    /// the caller expected.
    fn effect(&mut self, turn: Turn) -> bool {
        let (run, works) = match (turn, self.run) {
            (Turn::Ours { call: EngineCall::Freeze, .. }, Run::Ready | Run::Booting) => {
                (Run::Paused, true)
            }
            (Turn::Ours { call: EngineCall::Thaw, .. }, Run::Paused)
            | (Turn::Ours { call: EngineCall::ThawThenStop, part: Part::First, .. }, Run::Paused) => {
                (Run::Ready, true)
            }
            (Turn::Ours { call: EngineCall::ThawThenStop, part: Part::Last, .. }, _) => {
                (Run::Stopped, true)
            }
            (Turn::Ours { call: EngineCall::Stop, .. }, _) => (Run::Stopped, true),
            (Turn::Ours { call: EngineCall::Start, .. }, Run::Stopped) => (Run::Booting, true),
            (Turn::OwnerStops, _) => {
                self.is_suspended_by_orchestrator = false;
                (Run::Stopped, true)
            }
            (Turn::OwnerStarts, Run::Stopped) => (Run::Booting, true),
            (Turn::OwnerStarts, Run::Paused) => (Run::Ready, true),
            (Turn::OwnerStarts, run) => (run, true),
            (
                Turn::Ours {
                    call:
                        EngineCall::Freeze
                        | EngineCall::Thaw
                        | EngineCall::Start
                        | EngineCall::ThawThenStop,
                    ..
                },
                run,
            ) => (run, false),
        };
        self.run = run;
        works
    }
}
