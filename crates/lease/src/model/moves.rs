//! The moves that are possible next, and their effects.

use super::call::Stage;
use super::canon::canonicalize;
use super::container::{Intent, Operation, Run};
use super::system::{Layer, System, UNIT};
use super::{Covered, Move};
use crate::holder::command::RouteStatus;
use crate::holder::outage::CallHealth;
use protocol::orchestrator::Phase;

const FAULTS: [CallHealth; 3] = [
    CallHealth::Failed { rejects_calls: true },
    CallHealth::Failed { rejects_calls: false },
    CallHealth::OutOfResources,
];

impl System {
    /// Returns every move that is possible now.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        for layer in self.budget.layers_first {
            self.layer_moves(*layer, &mut moves);
            moves.retain(|next| self.is_progress(*next));
            if !moves.is_empty() {
                return moves;
            }
        }
        let has_room = self.calls.len() <= self.budget.calls;
        moves.extend((self.budget.ticks > 0 && has_room).then_some(Move::Tick));
        for layer in [Layer::Engine, Layer::Transport, Layer::Timers] {
            self.layer_moves(layer, &mut moves);
        }
        for router in 0..self.routers.len() {
            self.router_moves(router, &mut moves);
        }
        self.container_moves(&mut moves);
        if self.budget.orchestrator_crashes > 0 {
            moves.push(Move::OrchestratorCrashes(false));
            let calls = self.containers.iter().any(|c| c.operation.is_some_and(Operation::is_call));
            moves.extend(calls.then_some(Move::OrchestratorCrashes(true)));
        }
        moves
    }

    fn layer_moves(&self, layer: Layer, moves: &mut Vec<Move>) {
        match layer {
            Layer::Engine => self.engine_moves(moves),
            Layer::Transport => self.call_moves(moves),
            Layer::Timers => {
                for (index, router) in self.routers.iter().enumerate() {
                    moves.extend(router.ticks_soon(self.now).then_some(Move::TickRouter(index)));
                    let releases = router.releasing.is_some();
                    moves.extend(releases.then_some(Move::FinishRelease(index)));
                }
            }
        }
    }

    /// A timer that changes nothing must not keep other moves from happening.
    fn is_progress(&self, next: Move) -> bool {
        let Move::TickRouter(router) = next else { return true };
        let mut after = self.clone();
        let outcome = after.tick_router(router);
        canonicalize(&mut after);
        outcome.is_err() || after != *self
    }

    fn engine_moves(&self, moves: &mut Vec<Move>) {
        for tenant in self.queried() {
            moves.push(Move::BusyReport(tenant, false));
            moves.extend((self.budget.busy > 0).then_some(Move::BusyReport(tenant, true)));
        }
        moves.extend(self.call_beginnings());
        for (at, container) in self.containers.iter().enumerate() {
            if let Some(operation) = container.operation.filter(|operation| operation.is_call()) {
                moves.push(Move::EngineReturns(at));
                let ours = matches!(operation, Operation::Ours { .. });
                moves.extend((ours && self.budget.refusals > 0).then_some(Move::EngineRefuses(at)));
            }
            moves.extend((container.run == Run::Booting).then_some(Move::BecomeReady(at)));
        }
    }

    fn container_moves(&self, moves: &mut Vec<Move>) {
        for (at, container) in self.containers.iter().enumerate() {
            let lives = matches!(container.run, Run::Booting | Run::Ready);
            moves.extend((lives && self.budget.exits > 0).then_some(Move::Exit(at)));
            if self.budget.owner > 0 && container.queued.is_none() {
                moves.extend([Move::OwnerStops(at), Move::OwnerStarts(at)]);
            }
        }
    }

    fn router_moves(&self, index: usize, moves: &mut Vec<Move>) {
        let (router, budget) = (&self.routers[index], &self.budget);
        if budget.requests > 0 && router.may_request(self.now) {
            // Under a lease all kinds of requests are the same.
            let kinds = if router.published > self.now { 1 } else { budget.kinds.len() };
            moves.extend(budget.kinds[..kinds].iter().map(|kind| Move::Request(index, *kind)));
        }
        moves.extend(router.in_use.then_some(Move::Finish(index)));
        if router.releasing.is_some() {
            return;
        }
        let leaves = budget.leaves > 0 && !router.waiters.is_empty();
        moves.extend(leaves.then_some(Move::WaiterLeaves(index)));
        if budget.route_changes > 0 {
            let shown = [self.containers[router.tenant].route(), RouteStatus::Unlisted];
            let changes = shown.into_iter().filter(|route| *route != router.route);
            moves.extend(changes.map(|route| Move::RouteChanges(index, route)));
        }
        let fails = budget.failed_leases > 0 && router.published > self.now;
        moves.extend(fails.then_some(Move::LeaseFails(index)));
        moves.extend((budget.router_crashes > 0).then_some(Move::RouterCrashes(index)));
    }

    fn call_moves(&self, moves: &mut Vec<Move>) {
        for (id, call) in &self.calls {
            let (id, is_sent) = (*id, call.stage == Stage::Sent);
            moves.extend((call.stage != Stage::Waiting).then_some(Move::Deliver(id)));
            moves.extend((is_sent && self.budget.repeats > 0).then_some(Move::Repeat(id)));
            if self.budget.losses > 0 {
                moves.push(Move::Lose(id));
                moves.extend((is_sent && call.is_open).then_some(Move::Delay(id)));
            }
            if is_sent && call.is_open && self.budget.faults > 0 {
                moves.extend(FAULTS.map(|health| Move::Fault(id, health)));
            }
        }
    }

    /// Returns the tenants with a busy query in flight: before a suspend, or between a thaw and a
    /// stop.
    fn queried(&self) -> impl Iterator<Item = usize> + '_ {
        let thawed = |at: &usize| self.containers[*at].operation.is_some_and(|it| !it.is_call());
        let thawed = (0..self.containers.len()).filter(thawed);
        self.orchestrator.queried.keys().copied().chain(thawed)
    }

    pub(super) fn covered(&self, next: Move) -> impl Iterator<Item = Covered> + '_ {
        let calls = self.containers.iter().filter_map(|container| match container.operation {
            Some(Operation::Ours { call, part, .. }) => Some((call, part)),
            Some(Operation::OwnerStops | Operation::OwnerStarts) | None => None,
        });
        let calls = calls.filter(move |_| matches!(next, Move::OrchestratorCrashes(_)));
        let during = calls.map(move |call| (next.name(), Some(call)));
        std::iter::once((next.name(), None)).chain(during)
    }

    fn call_beginnings(&self) -> impl Iterator<Item = Move> + '_ {
        let issued = self.orchestrator.issued.iter().enumerate();
        issued
            .filter(|(_, (tenant, _, _))| self.containers[*tenant].operation.is_none())
            .map(|(at, _)| Move::BeginCall(at))
    }

    /// Returns the next move without failures and without time passing; `None` when all is at rest.
    pub(super) fn failure_free_move(&self) -> Option<Move> {
        let routers = || self.routers.iter().enumerate();
        if let Some((index, _)) = routers().find(|(_, router)| router.releasing.is_some()) {
            return Some(Move::FinishRelease(index));
        }
        if let Some((id, _)) = self.calls.iter().find(|(_, call)| call.stage != Stage::Waiting) {
            return Some(Move::Deliver(*id));
        }
        if let Some(tenant) = self.queried().next() {
            return Some(Move::BusyReport(tenant, false));
        }
        if let Some(next) = self.call_beginnings().next() {
            return Some(next);
        }
        let called = self.containers.iter().position(|container| container.operation.is_some());
        if let Some(tenant) = called {
            return Some(Move::EngineReturns(tenant));
        }
        if let Some(tenant) = self.containers.iter().position(|c| c.run == Run::Booting) {
            return Some(Move::BecomeReady(tenant));
        }
        let is_due = |at| at <= self.now;
        let due = routers().find(|(_, router)| router.manager.next_deadline().is_some_and(is_due));
        due.map(|(index, _)| Move::TickRouter(index))
    }

    pub(super) fn act(&mut self, next: Move) -> Result<(), String> {
        match next {
            Move::Tick => self.tick(),
            Move::Request(router, kind) => self.request(router, kind),
            Move::Finish(router) => {
                self.finish(router);
                Ok(())
            }
            Move::TickRouter(router) => self.tick_router(router),
            Move::FinishRelease(router) => self.finish_release(router),
            Move::WaiterLeaves(router) => self.waiter_leaves(router),
            Move::RouteChanges(router, route) => self.change_route(router, route),
            Move::LeaseFails(router) => self.lease_fails(router),
            Move::RouterCrashes(router) => self.crash_router(router),
            Move::Deliver(id) => self.deliver(id),
            Move::Repeat(id) => {
                self.budget.repeats -= 1;
                self.repeat(id)
            }
            Move::Lose(id) => {
                self.budget.losses -= 1;
                self.fail(id, CallHealth::NoResponse, false)
            }
            Move::Delay(id) => {
                self.budget.losses -= 1;
                self.fail(id, CallHealth::NoResponse, true)
            }
            Move::Fault(id, health) => {
                self.budget.faults -= 1;
                self.fail(id, health, false)
            }
            Move::BusyReport(tenant, busy) => self.report_busy(tenant, busy),
            Move::BeginCall(at) => self.begin_call(at),
            Move::EngineReturns(tenant) => self.engine(tenant, false),
            Move::EngineRefuses(tenant) => {
                self.budget.refusals -= 1;
                self.engine(tenant, true)
            }
            Move::BecomeReady(tenant) => {
                self.containers[tenant].run = Run::Ready;
                self.orchestrator.core.on_phase_observed(self.now, tenant, Phase::Ready);
                self.pump()
            }
            Move::Exit(tenant) => self.exit(tenant),
            Move::OwnerStops(tenant) => self.owner(tenant, Operation::OwnerStops),
            Move::OwnerStarts(tenant) => self.owner(tenant, Operation::OwnerStarts),
            Move::OrchestratorCrashes(effect) => {
                self.crash_orchestrator(effect);
                self.pump()
            }
        }
    }

    fn tick(&mut self) -> Result<(), String> {
        self.budget.ticks = self.budget.ticks.saturating_sub(1);
        self.now = self.now.plus(UNIT);
        self.orchestrator.core.tick(self.now);
        self.pump()
    }

    fn exit(&mut self, tenant: usize) -> Result<(), String> {
        self.budget.exits -= 1;
        let container = &mut self.containers[tenant];
        container.run = Run::Stopped;
        // An operation in progress observes the phase itself at its end.
        if container.operation.is_none() {
            let phase = container.phase();
            self.orchestrator.core.on_phase_observed(self.now, tenant, phase);
        }
        self.pump()
    }

    /// The owner's intent counts at once; the owner's call waits for the tenant's lock.
    fn owner(&mut self, tenant: usize, operation: Operation) -> Result<(), String> {
        self.budget.owner -= 1;
        let runs = operation == Operation::OwnerStarts;
        let container = &mut self.containers[tenant];
        container.intent = if runs { Intent::Running } else { Intent::Stopped };
        match container.operation {
            Some(_) => container.queued = Some(operation),
            None => container.operation = Some(operation),
        }
        self.orchestrator.core.set_owner_intent(self.now, tenant, runs);
        self.pump()
    }
}
