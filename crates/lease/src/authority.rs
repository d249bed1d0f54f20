//! The keeper's side as its shell sees it: events in, commands out. Puts [`Rest`] and [`Wake`] together.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use crate::command::{Answer, Ask, Command, Failure, Outcome, Progress, Settings, Ticket};
use crate::rest::{Depth, Policy, Rest, Used};
use crate::time::{Millis, Moment};
use crate::wake::Wake;
use crate::why::Heard;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Authority<T, H, W> {
    pub(crate) settings: Settings,
    /// No sleep before: one lease after the keeper's start.
    pub(crate) floor: Moment,
    pub(crate) tenants: BTreeMap<T, Entry<H>>,
    pub(crate) wake: Wake<T, H, W>,
    pub(crate) timers: BTreeSet<(Moment, T)>,
    pub(crate) commands: VecDeque<Command<T, W>>,
    pub(crate) tickets: u64,
    pub(crate) refusals: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Entry<H> {
    pub(crate) rest: Rest<H>,
    /// Of the fall that was decided last.
    pub(crate) fall: Option<(Ticket, u64)>,
    pub(crate) timer: Option<Moment>,
}

impl<T: Copy + Ord, H: Copy + Ord, W: Copy + Eq> Authority<T, H, W> {
    /// The keeper starts now.
    pub fn new(now: Moment, settings: Settings) -> Self {
        Self {
            settings,
            floor: now.plus(settings.lease),
            tenants: BTreeMap::new(),
            wake: Wake::new(settings.limits),
            timers: BTreeSet::new(),
            commands: VecDeque::new(),
            tickets: 0,
            refusals: 0,
        }
    }

    // Events. Each may make commands; ask for them until there are none.

    /// A tenant exists. `last_use`: as kept from before a restart, or now. Changes nothing for one that is known.
    pub fn add(&mut self, now: Moment, tenant: T, depth: Depth, policy: Policy, last_use: Moment) {
        let rest = Rest::new(now, depth, policy, last_use, self.floor);
        self.tenants.entry(tenant).or_insert(Entry { rest, fall: None, timer: None });
        self.settle(now, tenant);
    }

    /// It was deleted: whoever waits is told.
    pub fn remove(&mut self, tenant: T) {
        self.end(tenant, Answer::Unknown);
        if let Some(Entry { timer: Some(at), .. }) = self.tenants.remove(&tenant) {
            self.timers.remove(&(at, tenant));
        }
        self.pump();
    }

    /// What the engine shows, or pushed. What is older than the last [`Authority::done`] must not be told.
    pub fn sees(&mut self, now: Moment, tenant: T, depth: Depth) {
        let starting = self.wake.told(tenant).is_some_and(|told| told.begun);
        // While our own call is under way, only good news is news.
        if starting && !matches!(depth, Depth::Awake | Depth::Booting) {
            return;
        }
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.rest.sees(now, depth);
        }
        self.settle(now, tenant);
    }

    /// Its owner wants it stopped (or deleted), or wants it to run: to be told at once, before the engine is called.
    pub fn owner_wants(&mut self, now: Moment, tenant: T, running: bool) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.rest.set_stopping(!running);
        }
        self.settle(now, tenant);
    }

    pub fn set_policy(&mut self, now: Moment, tenant: T, policy: Policy) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.rest.set_policy(policy);
        }
        self.settle(now, tenant);
    }

    pub fn ask(&mut self, now: Moment, ask: Ask<T, H, W>) {
        let Ask { tenant, visit, waiter } = ask;
        if let Some(answer) = self.answered(now, tenant, visit, waiter) {
            self.commands.push_back(Command::Answer { waiter: waiter.id, answer });
        }
        self.settle(now, tenant);
    }

    /// Whoever asked does not wait any more.
    pub fn waiter_gone(&mut self, now: Moment, tenant: T, waiter: W) {
        self.wake.leave(tenant, waiter);
        self.settle(now, tenant);
    }

    /// For how long it holds from now on; `None`: not at all.
    pub fn renew(&mut self, now: Moment, tenant: T, holder: H, used: Used) -> Option<Millis> {
        let entry = self.tenants.get_mut(&tenant)?;
        let renewed = entry.rest.renew(now, holder, used, self.settings.lease);
        self.settle(now, tenant);
        renewed.then_some(self.settings.lease)
    }

    pub fn release(&mut self, now: Moment, tenant: T, holder: H, used: Used) {
        if let Some(entry) = self.tenants.get_mut(&tenant) {
            entry.rest.release(now, holder, used);
        }
        self.settle(now, tenant);
    }

    /// What the tenant said to [`Command::AskBusy`].
    pub fn heard(&mut self, now: Moment, tenant: T, generation: u64, heard: Heard) {
        let Some(entry) = self.tenants.get_mut(&tenant) else { return };
        let decision = entry.rest.heard(now, generation, heard);
        self.follow(tenant, decision);
        self.settle(now, tenant);
    }

    /// The right to change the tenant was taken. `false`: not wanted any more, nothing must be called.
    pub fn begin(&mut self, now: Moment, tenant: T, ticket: Ticket) -> bool {
        let begun = self.begins(now, tenant, ticket);
        self.settle(now, tenant);
        begun
    }

    /// The right to change the tenant is somebody else's for now: others need not stand behind it.
    pub fn put_off(&mut self, now: Moment, tenant: T, ticket: Ticket) {
        if self.wake.told(tenant).is_some_and(|told| told.ticket == ticket.0) {
            self.wake.put_off(tenant);
        }
        self.settle(now, tenant);
    }

    /// Between the two halves of [`Act::ThawThenStop`](crate::Act::ThawThenStop), with what the tenant answered when it
    /// was asked: whether to stop.
    pub fn goes_on(&mut self, now: Moment, tenant: T, heard: Heard) -> bool {
        self.tenants.get_mut(&tenant).is_some_and(|entry| entry.rest.thawed(now, heard))
    }

    /// The engine's call for this ticket has returned; `depth` is what the engine shows now.
    pub fn done(&mut self, now: Moment, tenant: T, ticket: Ticket, outcome: Outcome, depth: Depth) {
        let refused = outcome == Outcome::Refused;
        let Some(entry) = self.tenants.get_mut(&tenant) else {
            self.wake.forget(tenant);
            return self.pump();
        };
        if entry.fall.is_some_and(|(of, _)| of == ticket) {
            entry.fall = None;
            entry.rest.fell(now, depth, refused, self.settings.pause);
        } else if self.wake.told(tenant).is_some_and(|told| told.ticket == ticket.0) {
            self.wake.forget(tenant);
            // It may have been ready before the call returned.
            if !(depth == Depth::Booting && entry.rest.depth() == Depth::Awake) {
                entry.rest.sees(now, depth);
            }
            if refused && !matches!(entry.rest.depth(), Depth::Awake | Depth::Booting) {
                self.fail(now, tenant, Failure::Refused);
            } else {
                self.wake.returned(now, tenant);
            }
        }
        self.settle(now, tenant);
    }

    /// Time has passed.
    pub fn tick(&mut self, now: Moment) {
        let due: Vec<_> = self.timers.iter().take_while(|(at, _)| *at <= now).copied().collect();
        for (_, tenant) in due {
            self.settle(now, tenant);
        }
    }

    pub fn next_command(&mut self) -> Option<Command<T, W>> {
        self.commands.pop_front()
    }

    /// When to call [`Authority::tick`], if nothing happens until then.
    pub fn next_deadline(&self) -> Option<Moment> {
        self.timers.first().map(|(at, _)| *at)
    }

    // What is so.

    pub fn rest(&self, tenant: T) -> Option<&Rest<H>> {
        self.tenants.get(&tenant).map(|entry| &entry.rest)
    }

    /// Leases, and calls of the engine, of before this keeper's start may still be live.
    pub fn is_young(&self, now: Moment) -> bool {
        self.floor > now
    }

    pub const fn wake(&self) -> &Wake<T, H, W> {
        &self.wake
    }

    pub fn progress(&self, now: Moment, tenant: T) -> Option<Progress> {
        let depth = self.rest(tenant)?.depth();
        let Some(flight) = self.wake.flight(tenant) else { return Some(Progress::Resting(depth)) };
        let elapsed = flight.elapsed(now);
        let begun = self.wake.told(tenant).is_some_and(|told| told.begun);
        Some(match (flight.returned, begun) {
            (Some(_), _) => Progress::Booting { elapsed },
            (None, true) => Progress::Starting { elapsed },
            (None, false) => {
                Progress::Queued { ahead: self.wake.ahead(tenant).unwrap_or(0), elapsed }
            }
        })
    }
}
