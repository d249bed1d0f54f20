//! The moves that are possible next, and their effects.

use super::world::{Message, Note, Part, Run, Turn, UNIT, World};
use super::{Move, Walked};
use crate::holder::DueAction;
use protocol::orchestrator::Phase;

impl World {
    /// Returns every move that is possible now.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        moves.extend((self.budget.ticks > 0).then_some(Move::Tick));
        for (at, router) in self.routers.iter().enumerate() {
            let idle = !router.guard && router.pending.is_none() && self.budget.requests > 0;
            moves.extend(idle.then_some(Move::Request(at)));
            moves.extend(router.guard.then_some(Move::Finish(at)));
            moves.extend(
                (router.due(self.now) != DueAction::Nothing).then_some(Move::DueAction(at)),
            );
            let leaves = self.budget.leaves > 0 && router.pending.is_some();
            moves.extend(leaves.then_some(Move::Leave(at)));
            moves.extend((self.budget.router_crashes > 0).then_some(Move::RouterCrashes(at)));
        }
        for at in 0..self.network.len() {
            moves.extend([Move::Deliver(at), Move::Lose(at)]);
            moves.extend((self.budget.repeats > 0).then_some(Move::Repeat(at)));
        }
        for tenant in self.queried() {
            moves.push(Move::BusyReport(tenant, false));
            moves.extend((self.budget.busy > 0).then_some(Move::BusyReport(tenant, true)));
        }
        moves.extend(self.call_beginnings());
        for (at, container) in self.containers.iter().enumerate() {
            if let Some(turn) = container.turn.filter(|turn| turn.is_call()) {
                moves.push(Move::EngineReturns(at));
                let ours = matches!(turn, Turn::Ours { .. });
                moves.extend((ours && self.budget.refusals > 0).then_some(Move::EngineRefuses(at)));
            }
            moves.extend((container.run == Run::Booting).then_some(Move::BecomeReady(at)));
            let lives = matches!(container.run, Run::Booting | Run::Ready);
            moves.extend((lives && self.budget.exits > 0).then_some(Move::Exit(at)));
            if self.budget.owner > 0 && container.queued.is_none() {
                moves.push(Move::OwnerStops(at));
                moves.push(Move::OwnerStarts(at));
            }
        }
        if self.budget.orchestrator_crashes > 0 {
            moves.push(Move::OrchestratorCrashes(false));
            let calls = self.containers.iter().any(|c| c.turn.is_some_and(Turn::is_call));
            moves.extend(calls.then_some(Move::OrchestratorCrashes(true)));
        }
        moves
    }

    /// Returns the tenants with a busy query in flight: before a suspend, or between a thaw and a
    /// stop.
    fn queried(&self) -> impl Iterator<Item = usize> + '_ {
        let thawed = |at: &usize| self.containers[*at].turn.is_some_and(|turn| !turn.is_call());
        let thawed = (0..self.containers.len()).filter(thawed);
        self.orchestrator.queried.keys().copied().chain(thawed)
    }

    pub(super) fn walked(&self, next: Move) -> impl Iterator<Item = Walked> + '_ {
        let calls = self.containers.iter().filter_map(|container| match container.turn {
            Some(Turn::Ours { call, part, .. }) => Some((call, part)),
            Some(Turn::OwnerStops | Turn::OwnerStarts) | None => None,
        });
        let calls = calls.filter(move |_| matches!(next, Move::OrchestratorCrashes(_)));
        let during = calls.map(move |call| (next.name(), Some(call)));
        std::iter::once((next.name(), None)).chain(during)
    }

    fn call_beginnings(&self) -> impl Iterator<Item = Move> + '_ {
        let issued = self.orchestrator.issued.iter().enumerate();
        issued
            .filter(|(_, (tenant, _, _))| self.containers[*tenant].turn.is_none())
            .map(|(at, _)| Move::BeginCall(at))
    }

    /// Returns the next move without failures and without time passing; `None` when all is at rest.
    pub(super) fn fair_move(&self) -> Option<Move> {
        if !self.network.is_empty() {
            return Some(Move::Deliver(0));
        }
        if let Some(tenant) = self.queried().next() {
            return Some(Move::BusyReport(tenant, false));
        }
        if let Some(next) = self.call_beginnings().next() {
            return Some(next);
        }
        let called = self.containers.iter().position(|container| container.turn.is_some());
        let booting = || self.containers.iter().position(|c| c.run == Run::Booting);
        called.map(Move::EngineReturns).or_else(|| booting().map(Move::BecomeReady))
    }

    pub(super) fn act(&mut self, next: Move) -> Result<(), String> {
        match next {
            Move::Tick => self.tick()?,
            Move::Request(router) => self.request(router),
            Move::Finish(router) => self.finish(router),
            Move::DueAction(router) => self.take_due_action(router),
            Move::Deliver(at) => {
                let message = self.network.remove(at);
                self.deliver(message)?;
            }
            Move::Repeat(at) => {
                self.budget.repeats -= 1;
                self.deliver(self.network[at])?;
            }
            Move::Lose(at) => {
                self.network.remove(at);
            }
            Move::Leave(router) => self.leave(router)?,
            Move::BusyReport(tenant, busy) => self.report_busy(tenant, busy)?,
            Move::BeginCall(at) => self.begin_call(at)?,
            Move::EngineReturns(tenant) => self.engine(tenant, false)?,
            Move::EngineRefuses(tenant) => {
                self.budget.refusals -= 1;
                self.engine(tenant, true)?;
            }
            Move::BecomeReady(tenant) => {
                self.containers[tenant].run = Run::Ready;
                self.orchestrator.core.on_phase_observed(self.now, tenant, Phase::Ready);
                self.pump()?;
            }
            Move::Exit(tenant) => self.exit(tenant)?,
            Move::OwnerStops(tenant) => self.owner(tenant, Turn::OwnerStops)?,
            Move::OwnerStarts(tenant) => self.owner(tenant, Turn::OwnerStarts)?,
            Move::RouterCrashes(router) => self.router_crashes(router),
            Move::OrchestratorCrashes(effect) => {
                self.orchestrator_crashes(effect);
                self.pump()?;
            }
        }
        Ok(())
    }

    fn tick(&mut self) -> Result<(), String> {
        self.budget.ticks -= 1;
        self.now = self.now.plus(UNIT);
        let now = self.now;
        for router in &mut self.routers {
            router.pending = router.pending.filter(|(_, until)| *until > now);
        }
        self.orchestrator.core.tick(now);
        self.pump()
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::LeaseRequest { .. } | Message::Renew { .. } | Message::Release { .. } => {
                self.arrive(message)
            }
            Message::Granted { .. } | Message::Refused { .. } | Message::Renewed { .. } => {
                self.on_response(message);
                Ok(())
            }
        }
    }

    fn leave(&mut self, router: usize) -> Result<(), String> {
        self.budget.leaves -= 1;
        let it = &mut self.routers[router];
        let Some((call, _)) = it.pending.take() else { return Ok(()) };
        let (holder, tenant) = (it.id, it.tenant);
        let of_it: Vec<u8> = self
            .orchestrator
            .waiting
            .iter()
            .filter(|(_, w)| w.holder == holder && w.call == call)
            .map(|(id, _)| *id)
            .collect();
        for id in of_it {
            self.orchestrator.waiting.remove(&id);
            self.orchestrator.core.remove_waiter(self.now, tenant, id);
        }
        self.pump()
    }

    fn exit(&mut self, tenant: usize) -> Result<(), String> {
        self.budget.exits -= 1;
        let container = &mut self.containers[tenant];
        container.run = Run::Stopped;
        // An operation in progress observes the phase itself at its end.
        if container.turn.is_none() {
            let phase = container.phase();
            self.orchestrator.core.on_phase_observed(self.now, tenant, phase);
        }
        self.pump()
    }

    /// The owner's intent counts at once; the owner's call waits for the tenant's lock.
    fn owner(&mut self, tenant: usize, turn: Turn) -> Result<(), String> {
        self.budget.owner -= 1;
        let runs = turn == Turn::OwnerStarts;
        let container = &mut self.containers[tenant];
        container.note = if runs { Note::Running } else { Note::Stopped };
        match container.turn {
            Some(_) => container.queued = Some(turn),
            None => container.turn = Some(turn),
        }
        self.orchestrator.core.set_owner_intent(self.now, tenant, runs);
        self.pump()
    }
}

impl Turn {
    pub(super) const fn is_call(self) -> bool {
        !matches!(self, Self::Ours { part: Part::Queried, .. })
    }
}
