//! The keeper's side, one tenant: who holds leases on it, how long it has been idle, and how it is put to sleep.

use std::collections::BTreeMap;

use crate::planted::planted;
use crate::time::{Millis, Moment};
use crate::why::{Heard, Slept};

/// What the engine shows of a tenant, and why it rests where it does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Depth {
    /// Nothing of it runs, and no wake is what it waits for: never started, ended by itself.
    Down,
    /// It runs; its health has not answered.
    Booting,
    /// Its health answers.
    Awake,
    Frozen,
    /// Stopped for want of use.
    Asleep,
    /// Stopped by its owner.
    Stopped,
}

/// When it falls asleep; `None` is never.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Policy {
    pub freeze_after: Option<Millis>,
    pub sleep_after: Option<Millis>,
    /// How long work inside may keep it awake without a break: visits meanwhile are none.
    pub max_awake: Option<Millis>,
    /// Every request wakes it from sleep, not only visits.
    pub wake_on_any: bool,
}

/// The ways to fall asleep.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Fall {
    Freeze,
    Stop,
    /// A frozen one is thawed before it is stopped: stopping a paused container ends in SIGKILL.
    ThawThenStop,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Lease {
    pub(crate) number: u64,
    pub(crate) until: Moment,
    pub(crate) requests: u32,
    pub(crate) streams: u32,
}

/// What a holder says of its use of a tenant: `leases::Used`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Used {
    pub number: u64,
    pub idle: Millis,
    pub requests: u32,
    pub streams: u32,
}

/// Where it is on its way to sleep. Any use on the way up to [`Step::Falling`] leads back to [`Step::Settled`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Step {
    Settled,
    /// It is asked whether it is busy.
    Asking {
        generation: u64,
        until: Moment,
    },
    /// Nothing speaks against it; the engine was not called yet.
    Agreed {
        generation: u64,
        fall: Fall,
        heard: Heard,
    },
    /// The engine is being called: whoever asks now waits.
    Falling {
        generation: u64,
        fall: Fall,
        heard: Heard,
    },
}

/// Work inside that kept it awake, when it was last asked; `since` the first of such answers in a row.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Busy {
    pub(crate) since: Moment,
    pub(crate) heard: Moment,
    pub(crate) until: Moment,
}

/// `H`: a holder.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Rest<H> {
    pub(crate) depth: Depth,
    /// It ran when it was added: that its health answers is no use, only news.
    pub(crate) found: bool,
    /// Its owner wants it stopped: it is not put to sleep, and nothing wakes it.
    pub(crate) stopping: bool,
    pub(crate) leases: BTreeMap<H, Lease>,
    /// Grows with every use, and with all else that a decision must not survive.
    pub(crate) generation: u64,
    pub(crate) last_use: Moment,
    pub(crate) policy: Policy,
    /// Not before then: leases that an earlier keeper granted may be live.
    pub(crate) floor: Moment,
    /// Not before then: the engine refused.
    pub(crate) retry: Moment,
    pub(crate) busy: Option<Busy>,
    pub(crate) step: Step,
    pub(crate) slept: Option<Slept>,
}

impl Policy {
    /// As the wire has it: seconds, 0 is never.
    pub const fn of_seconds(freeze: u32, sleep: u32, max_awake: u32, wake_on_any: bool) -> Self {
        const fn after(seconds: u32) -> Option<Millis> {
            if seconds == 0 { None } else { Some(seconds as Millis * 1_000) }
        }
        let (freeze_after, sleep_after) = (after(freeze), after(sleep));
        Self { freeze_after, sleep_after, max_awake: after(max_awake), wake_on_any }
    }
}

impl<H: Copy + Ord> Rest<H> {
    /// `last_use` from before a restart may lie ahead of `now` where the machine's clock was set back.
    pub fn new(now: Moment, depth: Depth, policy: Policy, last_use: Moment, floor: Moment) -> Self {
        Self {
            depth,
            found: depth == Depth::Booting,
            stopping: depth == Depth::Stopped,
            leases: BTreeMap::new(),
            generation: 0,
            last_use: last_use.min(now),
            policy,
            floor: if planted!(FloorForgotten) { now } else { floor },
            retry: Moment(0),
            busy: None,
            step: Step::Settled,
            slept: None,
        }
    }

    pub const fn depth(&self) -> Depth {
        self.depth
    }

    pub const fn policy(&self) -> Policy {
        self.policy
    }

    /// Kept across a restart by the shell.
    pub const fn last_use(&self) -> Moment {
        self.last_use
    }

    pub const fn slept(&self) -> Option<Slept> {
        self.slept
    }

    pub const fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// The engine is being called to put it to sleep.
    pub const fn is_falling(&self) -> bool {
        matches!(self.step, Step::Falling { .. })
    }

    /// May a lease be granted at this moment?
    pub fn is_open(&self) -> bool {
        let settled = !self.is_falling() || planted!(GrantedWhileFalling);
        matches!(self.depth, Depth::Awake) && !self.stopping && settled
    }

    pub fn set_policy(&mut self, policy: Policy) {
        self.policy = policy;
        self.unsettle();
    }

    /// Its owner's will, as soon as it is known.
    pub fn set_stopping(&mut self, stopping: bool) {
        self.stopping = stopping;
        self.unsettle();
    }

    /// What the engine shows, when nothing of ours is under way.
    pub fn sees(&mut self, now: Moment, depth: Depth) {
        if self.depth == depth || self.is_falling() {
            return;
        }
        let found = std::mem::take(&mut self.found);
        if depth == Depth::Awake {
            // Whatever was refused before is over.
            self.retry = Moment(0);
            if !found {
                self.touch(now);
            }
        }
        (self.depth, self.busy) = (depth, None);
        self.unsettle();
    }

    /// Somebody wants it. Whatever was decided before is void.
    pub fn touch(&mut self, at: Moment) {
        self.last_use = self.last_use.max(at);
        self.unsettle();
    }

    pub(crate) fn unsettle(&mut self) {
        self.generation += 1;
        let agreed = matches!(self.step, Step::Agreed { .. });
        let stays = self.is_falling() || agreed && planted!(RecheckSkipped);
        if !stays {
            self.step = Step::Settled;
        }
    }

    /// Only while it [is open](Self::is_open).
    pub fn grant(&mut self, now: Moment, holder: H, number: u64, length: Millis) {
        let old = self.leases.get(&holder).map_or(0, |lease| lease.number);
        let (number, until) = (number.max(old), now.plus(length));
        self.leases.insert(holder, Lease { number, until, requests: 0, streams: 0 });
        self.touch(now);
    }

    /// `false`: there is nothing to renew.
    pub fn renew(&mut self, now: Moment, holder: H, used: Used, length: Millis) -> bool {
        self.note(now, used);
        if !self.is_open() {
            return false;
        }
        let Some(lease) = self.leases.get_mut(&holder).filter(|lease| lease.until > now) else {
            return false;
        };
        // An older release that is still on its way ends nothing that this renewal keeps.
        if !planted!(RenewalForgotten) {
            lease.number = lease.number.max(used.number);
        }
        lease.until = now.plus(length);
        (lease.requests, lease.streams) = (used.requests, used.streams);
        self.unsettle();
        true
    }

    pub fn release(&mut self, now: Moment, holder: H, used: Used) {
        self.note(now, used);
        if self
            .leases
            .get(&holder)
            .is_some_and(|lease| lease.number <= used.number || planted!(LateReleaseCounts))
        {
            self.leases.remove(&holder);
        }
    }

    fn note(&mut self, now: Moment, used: Used) {
        let at = now.minus(used.idle);
        if at > self.last_use {
            self.touch(at);
        }
    }

    pub fn has_lease(&self, now: Moment) -> bool {
        self.leases.values().any(|lease| lease.until > now)
    }

    /// It rests though somebody holds a lease and no owner wants it to: when to wake it.
    pub(crate) fn rescue_at(&self) -> Option<Moment> {
        let rests = matches!(self.depth, Depth::Frozen | Depth::Asleep);
        let is_wrong = rests && !self.stopping && !self.is_falling() && !self.leases.is_empty();
        is_wrong.then_some(self.retry)
    }

    /// The engine refused, or it did not get up: nothing is tried again by itself before then.
    pub(crate) fn set_retry(&mut self, at: Moment) {
        self.retry = at;
    }

    /// Forgets leases that ran out.
    pub fn prune(&mut self, now: Moment) {
        self.leases.retain(|_, lease| lease.until > now);
    }
}
