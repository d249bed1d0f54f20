//! What may happen next, and what it does.

use super::world::{Message, Note, Part, Run, Turn, UNIT, World};
use super::{Move, Walked};
use crate::holder::Due;
use crate::rest::Depth;

impl World {
    /// Everything that may happen now.
    pub(super) fn moves(&self) -> Vec<Move> {
        let mut moves = Vec::new();
        moves.extend((self.budget.ticks > 0).then_some(Move::Tick));
        for (at, router) in self.routers.iter().enumerate() {
            let idle = !router.guard && router.pending.is_none() && self.budget.requests > 0;
            moves.extend(idle.then_some(Move::Request(at)));
            moves.extend(router.guard.then_some(Move::Finish(at)));
            moves.extend((router.due(self.now) != Due::Nothing).then_some(Move::Say(at)));
            let leaves = self.budget.leaves > 0 && router.pending.is_some();
            moves.extend(leaves.then_some(Move::Leave(at)));
            moves.extend((self.budget.router_crashes > 0).then_some(Move::RouterCrashes(at)));
        }
        for at in 0..self.network.len() {
            moves.extend([Move::Deliver(at), Move::Lose(at)]);
            moves.extend((self.budget.repeats > 0).then_some(Move::Repeat(at)));
        }
        for tenant in self.asked() {
            moves.push(Move::Answer(tenant, false));
            moves.extend((self.budget.busy > 0).then_some(Move::Answer(tenant, true)));
        }
        moves.extend(self.beginnings());
        for (at, container) in self.containers.iter().enumerate() {
            if let Some(turn) = container.turn.filter(|turn| turn.is_call()) {
                moves.push(Move::Engine(at));
                let ours = matches!(turn, Turn::Ours { .. });
                moves.extend((ours && self.budget.refusals > 0).then_some(Move::Refuse(at)));
            }
            moves.extend((container.run == Run::Booting).then_some(Move::Ready(at)));
            let lives = matches!(container.run, Run::Booting | Run::Ready);
            moves.extend((lives && self.budget.deaths > 0).then_some(Move::Die(at)));
            if self.budget.owner > 0 && container.queued.is_none() {
                moves.push(Move::OwnerStops(at));
                moves.push(Move::OwnerStarts(at));
            }
        }
        if self.budget.keeper_crashes > 0 {
            moves.push(Move::KeeperCrashes(false));
            let calls = self.containers.iter().any(|c| c.turn.is_some_and(Turn::is_call));
            moves.extend(calls.then_some(Move::KeeperCrashes(true)));
        }
        moves
    }

    /// Who was asked whether it is busy: before anything is done, or between a thaw and a stop.
    fn asked(&self) -> impl Iterator<Item = usize> + '_ {
        let thawed = |at: &usize| self.containers[*at].turn.is_some_and(|turn| !turn.is_call());
        let thawed = (0..self.containers.len()).filter(thawed);
        self.keeper.asked.keys().copied().chain(thawed)
    }

    pub(super) fn walked(&self, next: Move) -> impl Iterator<Item = Walked> + '_ {
        let calls = self.containers.iter().filter_map(|container| match container.turn {
            Some(Turn::Ours { act, part, .. }) => Some((act, part)),
            Some(Turn::OwnerStops | Turn::OwnerStarts) | None => None,
        });
        let calls = calls.filter(move |_| matches!(next, Move::KeeperCrashes(_)));
        let during = calls.map(move |call| (next.name(), Some(call)));
        std::iter::once((next.name(), None)).chain(during)
    }

    fn beginnings(&self) -> impl Iterator<Item = Move> + '_ {
        let acts = self.keeper.acts.iter().enumerate();
        acts.filter(|(_, (tenant, _, _))| self.containers[*tenant].turn.is_none())
            .map(|(at, _)| Move::Begin(at))
    }

    /// The next thing that happens when nothing goes wrong and no time passes; `None`: all is at rest.
    pub(super) fn fair_move(&self) -> Option<Move> {
        if !self.network.is_empty() {
            return Some(Move::Deliver(0));
        }
        if let Some(tenant) = self.asked().next() {
            return Some(Move::Answer(tenant, false));
        }
        if let Some(next) = self.beginnings().next() {
            return Some(next);
        }
        let called = self.containers.iter().position(|container| container.turn.is_some());
        let booting = || self.containers.iter().position(|c| c.run == Run::Booting);
        called.map(Move::Engine).or_else(|| booting().map(Move::Ready))
    }

    pub(super) fn act(&mut self, next: Move) -> Result<(), String> {
        match next {
            Move::Tick => self.tick()?,
            Move::Request(router) => self.request(router),
            Move::Finish(router) => self.finish(router),
            Move::Say(router) => self.say(router),
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
            Move::Answer(tenant, busy) => self.says(tenant, busy)?,
            Move::Begin(at) => self.begins(at)?,
            Move::Engine(tenant) => self.engine(tenant, false)?,
            Move::Refuse(tenant) => {
                self.budget.refusals -= 1;
                self.engine(tenant, true)?;
            }
            Move::Ready(tenant) => {
                self.containers[tenant].run = Run::Ready;
                self.keeper.core.sees(self.now, tenant, Depth::Awake);
                self.pump()?;
            }
            Move::Die(tenant) => self.die(tenant)?,
            Move::OwnerStops(tenant) => self.owner(tenant, Turn::OwnerStops)?,
            Move::OwnerStarts(tenant) => self.owner(tenant, Turn::OwnerStarts)?,
            Move::RouterCrashes(router) => self.router_crashes(router),
            Move::KeeperCrashes(effect) => {
                self.keeper_crashes(effect);
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
        self.keeper.core.tick(now);
        self.pump()
    }

    fn deliver(&mut self, message: Message) -> Result<(), String> {
        match message {
            Message::Ask { .. } | Message::Renew { .. } | Message::Release { .. } => {
                self.arrive(message)
            }
            Message::Granted { .. } | Message::Refused { .. } | Message::Renewed { .. } => {
                self.hear(message);
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
            .keeper
            .waiting
            .iter()
            .filter(|(_, w)| w.holder == holder && w.call == call)
            .map(|(id, _)| *id)
            .collect();
        for id in of_it {
            self.keeper.waiting.remove(&id);
            self.keeper.core.waiter_gone(self.now, tenant, id);
        }
        self.pump()
    }

    fn die(&mut self, tenant: usize) -> Result<(), String> {
        self.budget.deaths -= 1;
        let container = &mut self.containers[tenant];
        container.run = Run::Stopped;
        // An operation under way looks for itself at its end.
        if container.turn.is_none() {
            let depth = container.depth();
            self.keeper.core.sees(self.now, tenant, depth);
        }
        self.pump()
    }

    /// Its will counts at once; its call waits for the tenant's turn.
    fn owner(&mut self, tenant: usize, turn: Turn) -> Result<(), String> {
        self.budget.owner -= 1;
        let runs = turn == Turn::OwnerStarts;
        let container = &mut self.containers[tenant];
        container.note = if runs { Note::Running } else { Note::Stopped };
        match container.turn {
            Some(_) => container.queued = Some(turn),
            None => container.turn = Some(turn),
        }
        self.keeper.core.owner_wants(self.now, tenant, runs);
        self.pump()
    }
}

impl Turn {
    pub(super) const fn is_call(self) -> bool {
        !matches!(self, Self::Ours { part: Part::Asked, .. })
    }
}
