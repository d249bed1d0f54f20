//! The orchestrator around the core: the steps that it takes itself.

use std::collections::BTreeMap;

use super::call::{Call, CallKind, REQUEST_WAIT, Response, Stage};
use super::container::{Container, Intent, Operation, Part, Run};
use super::system::{Granted, System};
use crate::authority::command::{
    AuthoritySettings, CallId, CallOutcome, Command, EngineCall, LeaseResponse, WakeError,
};
use crate::authority::reason::BusyReport;
use crate::authority::sleep_state::{SleepPolicy, SuspendStep};
use crate::time::Moment;
use crate::{Authority, WakeKind};
use protocol::orchestrator::Phase;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Orchestrator {
    pub(super) core: Authority<usize, u8, u8>,
    /// Tenants with a busy query in flight, with the generation of the query.
    pub(super) queried: BTreeMap<usize, u64>,
    /// Calls that wait for their tenant's lock.
    pub(super) issued: Vec<(usize, EngineCall, CallId)>,
}

impl Orchestrator {
    /// Starts by recovery, from the engine's phases and the persisted intents. The idle time is the
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
            core.set_owner_intent(now, tenant, container.intent != Intent::Stopped);
        }
        Self { core, queried: BTreeMap::new(), issued: Vec::new() }
    }

    /// Drops the calls that the core has replaced: `begin_call` refuses them, so they make no difference.
    fn drop_stale(&mut self) {
        let core = &self.core;
        self.issued.retain(|(tenant, _, call_id)| {
            let entry = core.tenants.get(tenant);
            let decided =
                entry.filter(|entry| matches!(entry.state.step, SuspendStep::Decided { .. }));
            let suspend = decided.and_then(|entry| entry.suspend);
            let wake = core.wakes.call(*tenant);
            suspend.is_some_and(|(id, _)| id == *call_id)
                || wake.is_some_and(|call| call.id == call_id.0)
        });
        self.queried.retain(|tenant, generation| {
            let step = core.tenants.get(tenant).map(|entry| entry.state.step);
            matches!(step, Some(SuspendStep::QueryingBusy { generation: of, .. }) if of == *generation)
        });
    }

    pub(super) fn check(&self, now: Moment, calls: &BTreeMap<u8, Call>) -> Result<(), String> {
        let waiters = || self.core.wakes.pending.values().flat_map(|wake| &wake.waiters);
        let mut waiting = calls.iter().filter(|(_, call)| call.stage == Stage::Waiting);
        if let Some((lost, _)) = waiting.find(|(id, _)| waiters().all(|waiter| waiter.id != **id)) {
            return Err(format!("lease request {lost} is forgotten"));
        }
        let is_waiting =
            |id| calls.get(&id).is_some_and(|call: &Call| call.stage == Stage::Waiting);
        if waiters().any(|waiter| !is_waiting(waiter.id)) {
            return Err("a lease request waits on after its response".to_owned());
        }
        if let Some(waiter) = waiters().find(|waiter| waiter.deadline <= now) {
            return Err(format!("lease request {} waits past its deadline", waiter.id));
        }
        if self.core.next_deadline().is_some_and(|at| at <= now) {
            return Err("the timer is in the past: the orchestrator would spin".to_owned());
        }
        Ok(())
    }
}

impl System {
    /// Runs the core's commands and records the leases that the core granted.
    pub(super) fn pump(&mut self) -> Result<(), String> {
        while let Some(command) = self.orchestrator.core.next_command() {
            match command {
                Command::QueryBusy { tenant, generation } => {
                    self.orchestrator.queried.insert(tenant, generation);
                    self.containers[tenant].is_busy = false;
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
        let under_way = usize::from(self.containers[tenant].is_waking());
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

    /// Passes a response on. A refusal must have a reason in the state of the system.
    fn respond(&mut self, id: u8, response: LeaseResponse) -> Result<(), String> {
        let call = self.calls.get(&id).filter(|call| call.stage == Stage::Waiting);
        let Some(Call { router, kind, call, .. }) = call.copied() else {
            return Err(format!("lease request {id} gets a second response: {response:?}"));
        };
        let container = self.containers[self.routers[router].tenant];
        let waiting = self.calls.values().filter(|call| call.stage == Stage::Waiting).count();
        let is_just = match response {
            LeaseResponse::Granted(_) => true,
            LeaseResponse::Stopped => container.intent == Intent::Stopped,
            LeaseResponse::NotRunning => {
                matches!(container.phase(), Phase::Created | Phase::Exited | Phase::Starting)
            }
            LeaseResponse::WakeRequired => {
                kind == CallKind::Request { is_visit: false } && container.run == Run::Stopped
            }
            LeaseResponse::Waking { .. } => self.now.since(call.sent_at) >= REQUEST_WAIT,
            LeaseResponse::QueueFull { .. } => waiting > self.settings.limits.waiters_per_tenant,
            LeaseResponse::Failed(WakeError::EngineRefused) => container.phase() != Phase::Ready,
            LeaseResponse::Failed(WakeError::Exited) => container.run == Run::Stopped,
            LeaseResponse::Failed(WakeError::ReadinessTimeout) => container.run != Run::Ready,
            LeaseResponse::Unknown => false,
        };
        self.complete_call(id, Response::of(response));
        match is_just {
            true => Ok(()),
            false => Err(format!("lease request {id} gets a false response: {response:?}")),
        }
    }

    /// The tenant reports whether it is busy.
    pub(super) fn report_busy(&mut self, tenant: usize, is_busy: bool) -> Result<(), String> {
        let report =
            if is_busy { BusyReport::Busy { until: Moment(0) } } else { BusyReport::NotBusy };
        self.budget.busy -= u8::from(is_busy);
        let container = &mut self.containers[tenant];
        container.is_busy = is_busy;
        let Some(Operation::Ours { call, call_id, part: Part::Queried }) = container.operation
        else {
            if let Some(generation) = self.orchestrator.queried.remove(&tenant) {
                self.orchestrator.core.on_busy_report(self.now, tenant, generation, report);
            }
            return self.pump();
        };
        let operation = Operation::Ours { call, call_id, part: Part::Last };
        if !self.orchestrator.core.continue_after_thaw(self.now, tenant, report) {
            return self.finish_operation(tenant, operation, true);
        }
        if is_busy {
            return Err(format!("{call:?} of a tenant that reported busy"));
        }
        let container = &mut self.containers[tenant];
        (container.operation, container.intent) = (Some(operation), Intent::Sleeping);
        Ok(())
    }

    pub(super) fn begin_call(&mut self, at: usize) -> Result<(), String> {
        let (tenant, call, call_id) = self.orchestrator.issued.remove(at);
        let begun = self.orchestrator.core.begin_call(self.now, tenant, call_id);
        if begun {
            let container = &mut self.containers[tenant];
            if container.intent == Intent::Stopped {
                return Err(format!("{call:?} of a tenant that its owner stopped"));
            }
            container.operation = Some(Operation::Ours { call, call_id, part: Part::First });
            match call {
                EngineCall::Freeze | EngineCall::Stop | EngineCall::ThawThenStop
                    if container.is_busy =>
                {
                    return Err(format!("{call:?} of a tenant that reported busy"));
                }
                EngineCall::Freeze | EngineCall::ThawThenStop => {
                    container.is_suspended_by_orchestrator = true
                }
                EngineCall::Stop => {
                    (container.is_suspended_by_orchestrator, container.intent) =
                        (true, Intent::Sleeping)
                }
                EngineCall::Thaw => {}
                EngineCall::Start => container.intent = Intent::Running,
            }
        }
        self.pump()
    }

    /// The engine's call for this tenant takes effect and returns. A refused call has no effect.
    pub(super) fn engine(&mut self, tenant: usize, refused: bool) -> Result<(), String> {
        let container = &mut self.containers[tenant];
        let Some(operation) = container.operation else { return Ok(()) };
        let works = !refused && container.apply(operation);
        if let Operation::Ours { call: call @ EngineCall::ThawThenStop, call_id, part: Part::First } =
            operation
            && works
            && self
                .orchestrator
                .core
                .sleep_state(tenant)
                .is_some_and(crate::TenantSleepState::is_still_unused)
        {
            container.operation = Some(Operation::Ours { call, call_id, part: Part::Queried });
            container.is_busy = false;
            return Ok(());
        }
        self.finish_operation(tenant, operation, works)
    }

    fn finish_operation(
        &mut self,
        tenant: usize,
        operation: Operation,
        works: bool,
    ) -> Result<(), String> {
        let container = &mut self.containers[tenant];
        container.is_suspended_by_orchestrator &=
            matches!(container.run, Run::Paused | Run::Stopped);
        if matches!(container.run, Run::Ready | Run::Booting | Run::Paused)
            && container.intent == Intent::Sleeping
        {
            container.intent = Intent::Running;
        }
        container.operation = container.queued.take();
        let phase = container.phase();
        match operation {
            Operation::Ours { call_id, .. } => {
                let outcome = if works { CallOutcome::Done } else { CallOutcome::Refused };
                self.orchestrator.core.on_call_finished(self.now, tenant, call_id, outcome, phase);
            }
            Operation::OwnerStops | Operation::OwnerStarts => {
                self.orchestrator.core.on_phase_observed(self.now, tenant, phase)
            }
        }
        self.pump()
    }

    /// The orchestrator loses its memory. The engine finishes the calls in flight before it shows
    /// the tenants again.
    pub(super) fn crash_orchestrator(&mut self, effect: bool) {
        for container in &mut self.containers {
            if let Some(operation) = container.operation.take().filter(|_| effect) {
                container.apply(operation);
            }
            container.is_suspended_by_orchestrator &=
                matches!(container.run, Run::Paused | Run::Stopped);
            (container.queued, container.is_busy) = (None, false);
        }
        for granted in self.granted.values_mut() {
            (granted.orphan, granted.until) = (granted.orphan.max(granted.until), Moment(0));
        }
        self.break_held_calls();
        let (settings, policy) = (self.settings, self.policy);
        self.orchestrator = Orchestrator::start(self.now, settings, policy, &self.containers);
        self.budget.orchestrator_crashes -= 1;
    }
}
