//! The keeper's shell: what the orchestrator does around the core, step by step.

use std::collections::BTreeMap;

use super::world::{Container, Granted, Message, Note, Part, Run, Turn, World};
use crate::command::{Act, Answer, Ask, Command, Failure, Outcome, Settings, Ticket};
use crate::holder::Call;
use crate::rest::{Depth, Policy, Step};
use crate::time::Moment;
use crate::wake::Waiter;
use crate::why::Heard;
use crate::{Authority, Rouse};

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Keeper {
    pub(super) core: Authority<usize, u8, u8>,
    /// Who was not answered.
    pub(super) waiting: BTreeMap<u8, Waiting>,
    /// Tenants that were asked whether they are busy, with the generation.
    pub(super) asked: BTreeMap<usize, u64>,
    /// Acts that wait for their tenant's turn.
    pub(super) acts: Vec<(usize, Act, Ticket)>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Waiting {
    pub(super) router: usize,
    pub(super) holder: u8,
    pub(super) call: Call,
    pub(super) visit: bool,
    pub(super) deadline: Moment,
}

impl Keeper {
    /// A start is a recovery: what the engine shows, what the notes say. The idle clock is as old as can be.
    pub(super) fn start(
        now: Moment,
        settings: Settings,
        policy: Policy,
        containers: &[Container],
    ) -> Self {
        let mut core = Authority::new(now, settings);
        for (tenant, container) in containers.iter().enumerate() {
            core.add(now, tenant, container.depth(), policy, Moment(0));
            core.owner_wants(now, tenant, container.note != Note::Stopped);
        }
        let (waiting, asked, acts) = (BTreeMap::new(), BTreeMap::new(), Vec::new());
        Self { core, waiting, asked, acts }
    }

    /// What the core has thought better of makes no difference any more: see the test of late begins in `authority`.
    fn drop_stale(&mut self) {
        let core = &self.core;
        self.acts.retain(|(tenant, _, ticket)| {
            let entry = core.tenants.get(tenant);
            let agreed = entry.filter(|entry| matches!(entry.rest.step, Step::Agreed { .. }));
            let fall = agreed.and_then(|entry| entry.fall);
            let told = core.wake.told(*tenant);
            fall.is_some_and(|(of, _)| of == *ticket) || told.is_some_and(|t| t.ticket == ticket.0)
        });
        self.asked.retain(|tenant, generation| {
            let step = core.tenants.get(tenant).map(|entry| entry.rest.step);
            matches!(step, Some(Step::Asking { generation: of, .. }) if of == *generation)
        });
    }

    pub(super) fn check(&self, now: Moment) -> Result<(), String> {
        let flights = self.core.wake.flights.values();
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
    pub(super) fn depth(&self) -> Depth {
        match (self.run, self.note) {
            (Run::Ready, _) => Depth::Awake,
            (Run::Booting, _) => Depth::Booting,
            (Run::Paused, _) => Depth::Frozen,
            (Run::Stopped, Note::Asleep) => Depth::Asleep,
            (Run::Stopped, Note::Stopped) => Depth::Stopped,
            (Run::Stopped, Note::Running) => Depth::Down,
        }
    }

    pub(super) fn wakes(&self) -> bool {
        matches!(self.turn, Some(Turn::Ours { act: Act::Thaw | Act::Start, .. }))
    }
}

impl World {
    /// A message arrives at the keeper.
    pub(super) fn arrive(&mut self, message: Message) -> Result<(), String> {
        let now = self.now;
        let core = &mut self.keeper.core;
        match message {
            Message::Ask { router, holder, call, visit } => {
                let id = (0..).find(|id| !self.keeper.waiting.contains_key(id)).unwrap_or(u8::MAX);
                let deadline = now.plus(super::holder::HOLD);
                let waiting = Waiting { router, holder, call, visit, deadline };
                self.keeper.waiting.insert(id, waiting);
                let waiter = Waiter { id, holder, number: call.number, deadline };
                core.ask(now, Ask { tenant: self.routers[router].tenant, visit, waiter });
            }
            Message::Renew { router, holder, call, idle } => {
                let tenant = self.routers[router].tenant;
                let used = super::world::used(call.number, idle);
                let expires_in = core.renew(now, tenant, holder, used);
                self.send(Message::Renewed { router, holder, call, expires_in });
            }
            Message::Release { router, holder, number, idle } => {
                let used = super::world::used(number, idle);
                core.release(now, self.routers[router].tenant, holder, used);
            }
            Message::Granted { .. } | Message::Refused { .. } | Message::Renewed { .. } => {}
        }
        self.pump()
    }

    /// Runs what the core wants done, and writes down what it granted.
    pub(super) fn pump(&mut self) -> Result<(), String> {
        while let Some(command) = self.keeper.core.next_command() {
            match command {
                Command::AskBusy { tenant, generation } => {
                    self.keeper.asked.insert(tenant, generation);
                    self.containers[tenant].busy = false;
                }
                Command::Act { tenant, act, ticket } => {
                    self.keeper.acts.push((tenant, act, ticket));
                    self.check_one_call(tenant)?;
                }
                Command::Answer { waiter, answer } => self.answer(waiter, answer)?,
                Command::Woke { .. } => {}
            }
        }
        self.keeper.drop_stale();
        // A lease that was given back is not live; one that the keeper forgot by crashing is.
        let entries = self.keeper.core.tenants.values();
        let leases: BTreeMap<u8, Moment> = entries
            .flat_map(|e| e.rest.leases.iter().map(|(h, lease)| (*h, lease.until)))
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
        let wakes = |act: &Act| matches!(act, Act::Thaw | Act::Start);
        let wanted = self.keeper.acts.iter().filter(|(of, act, _)| *of == tenant && wakes(act));
        let under_way = usize::from(self.containers[tenant].wakes());
        if wanted.count() + under_way > 1 {
            return Err(format!("two calls to wake tenant {tenant} at once"));
        }
        for (rouse, most) in
            [(Rouse::Thaw, self.settings.limits.thaws), (Rouse::Start, self.settings.limits.starts)]
        {
            if self.keeper.core.wake.calls(rouse) > most {
                return Err(format!("more than {most} calls at once: {rouse:?}"));
            }
        }
        Ok(())
    }

    /// Passes an answer on; one that is no lease must have a reason in what is so.
    fn answer(&mut self, waiter: u8, answer: Answer) -> Result<(), String> {
        let Some(waiting) = self.keeper.waiting.remove(&waiter) else {
            return Err(format!("waiter {waiter} is answered twice: {answer:?}"));
        };
        let Waiting { router, holder, call, visit, deadline } = waiting;
        let container = self.containers[self.routers[router].tenant];
        let is_just = match answer {
            Answer::Granted(grant) => {
                let (expires_in, linger) = (grant.expires_in, grant.linger);
                self.send(Message::Granted { router, holder, call, expires_in, linger });
                return Ok(());
            }
            Answer::Stopped => container.note == Note::Stopped,
            Answer::NotRunning => matches!(container.depth(), Depth::Down | Depth::Booting),
            Answer::WakeRequired => !visit && container.run == Run::Stopped,
            Answer::Waking { .. } => deadline <= self.now,
            Answer::QueueFull { .. } => {
                self.keeper.waiting.len() >= self.settings.limits.waiters_each
            }
            Answer::Failed(Failure::Refused) => container.depth() != Depth::Awake,
            Answer::Failed(Failure::Died) => container.run == Run::Stopped,
            Answer::Failed(Failure::Slow) => container.run != Run::Ready,
            Answer::Unknown => false,
        };
        self.send(Message::Refused { router, holder, call });
        if is_just {
            Ok(())
        } else {
            Err(format!("waiter {waiter} is refused for no reason: {answer:?}"))
        }
    }

    /// The tenant answers whether it is busy.
    pub(super) fn says(&mut self, tenant: usize, is_busy: bool) -> Result<(), String> {
        let heard = if is_busy { Heard::Busy { until: Moment(0) } } else { Heard::Free };
        self.budget.busy -= u8::from(is_busy);
        let container = &mut self.containers[tenant];
        container.busy = is_busy;
        let Some(Turn::Ours { act, ticket, part: Part::Asked }) = container.turn else {
            if let Some(generation) = self.keeper.asked.remove(&tenant) {
                self.keeper.core.heard(self.now, tenant, generation, heard);
            }
            return self.pump();
        };
        let turn = Turn::Ours { act, ticket, part: Part::Last };
        if !self.keeper.core.goes_on(self.now, tenant, heard) {
            return self.ended(tenant, turn, true);
        }
        if is_busy {
            return Err(format!("{act:?} of a tenant that said it is busy"));
        }
        let container = &mut self.containers[tenant];
        (container.turn, container.note) = (Some(turn), Note::Asleep);
        Ok(())
    }

    pub(super) fn begins(&mut self, at: usize) -> Result<(), String> {
        let (tenant, act, ticket) = self.keeper.acts.remove(at);
        let begun = self.keeper.core.begin(self.now, tenant, ticket);
        if begun {
            let container = &mut self.containers[tenant];
            if container.note == Note::Stopped {
                return Err(format!("{act:?} of a tenant that its owner stopped"));
            }
            container.turn = Some(Turn::Ours { act, ticket, part: Part::First });
            match act {
                Act::Freeze | Act::Stop | Act::ThawThenStop if container.busy => {
                    return Err(format!("{act:?} of a tenant that said it is busy"));
                }
                Act::Freeze | Act::ThawThenStop => container.by_keeper = true,
                Act::Stop => (container.by_keeper, container.note) = (true, Note::Asleep),
                Act::Thaw => {}
                Act::Start => container.note = Note::Running,
            }
        }
        self.pump()
    }

    /// The engine's call of this tenant takes effect and returns; or is refused and has none.
    pub(super) fn engine(&mut self, tenant: usize, refused: bool) -> Result<(), String> {
        let container = &mut self.containers[tenant];
        let Some(turn) = container.turn else { return Ok(()) };
        let works = !refused && container.effect(turn);
        if let Turn::Ours { act: act @ Act::ThawThenStop, ticket, part: Part::First } = turn
            && works
            && self.keeper.core.rest(tenant).is_some_and(crate::Rest::still_unwanted)
        {
            container.turn = Some(Turn::Ours { act, ticket, part: Part::Asked });
            container.busy = false;
            return Ok(());
        }
        self.ended(tenant, turn, works)
    }

    fn ended(&mut self, tenant: usize, turn: Turn, works: bool) -> Result<(), String> {
        let container = &mut self.containers[tenant];
        container.by_keeper &= matches!(container.run, Run::Paused | Run::Stopped);
        if matches!(container.run, Run::Ready | Run::Booting | Run::Paused)
            && container.note == Note::Asleep
        {
            container.note = Note::Running;
        }
        container.turn = container.queued.take();
        let depth = container.depth();
        match turn {
            Turn::Ours { ticket, .. } => {
                let outcome = if works { Outcome::Done } else { Outcome::Refused };
                self.keeper.core.done(self.now, tenant, ticket, outcome, depth);
            }
            Turn::OwnerStops | Turn::OwnerStarts => self.keeper.core.sees(self.now, tenant, depth),
        }
        self.pump()
    }

    /// Its memory goes; the engine ends by itself what it was told, before anybody is shown anything again.
    pub(super) fn keeper_crashes(&mut self, effect: bool) {
        for container in &mut self.containers {
            if let Some(turn) = container.turn.take().filter(|_| effect) {
                container.effect(turn);
            }
            container.by_keeper &= matches!(container.run, Run::Paused | Run::Stopped);
            (container.queued, container.busy) = (None, false);
        }
        for granted in self.granted.values_mut() {
            (granted.orphan, granted.until) = (granted.orphan.max(granted.until), Moment(0));
        }
        let (settings, policy) = (self.settings, self.policy);
        self.keeper = Keeper::start(self.now, settings, policy, &self.containers);
        self.budget.keeper_crashes -= 1;
    }
}

impl Container {
    /// What a call does to it; `false`: nothing, it is not as the caller believed.
    fn effect(&mut self, turn: Turn) -> bool {
        let (run, works) = match (turn, self.run) {
            (Turn::Ours { act: Act::Freeze, .. }, Run::Ready | Run::Booting) => (Run::Paused, true),
            (Turn::Ours { act: Act::Thaw, .. }, Run::Paused)
            | (Turn::Ours { act: Act::ThawThenStop, part: Part::First, .. }, Run::Paused) => {
                (Run::Ready, true)
            }
            (Turn::Ours { act: Act::ThawThenStop, part: Part::Last, .. }, _) => {
                (Run::Stopped, true)
            }
            (Turn::Ours { act: Act::Stop, .. }, _) => (Run::Stopped, true),
            (Turn::Ours { act: Act::Start, .. }, Run::Stopped) => (Run::Booting, true),
            (Turn::OwnerStops, _) => {
                self.by_keeper = false;
                (Run::Stopped, true)
            }
            (Turn::OwnerStarts, Run::Stopped) => (Run::Booting, true),
            (Turn::OwnerStarts, Run::Paused) => (Run::Ready, true),
            (Turn::OwnerStarts, run) => (run, true),
            (
                Turn::Ours {
                    act: Act::Freeze | Act::Thaw | Act::Start | Act::ThawThenStop, ..
                },
                run,
            ) => (run, false),
        };
        self.run = run;
        works
    }
}
