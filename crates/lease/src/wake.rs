//! The keeper's side, all tenants: one flight a tenant from asleep to awake, and those who wait for it.
//!
//! A flight is what is *wanted*; a call is what the engine was *told*. They are kept apart because a tenant can be ready before the
//! engine's call has returned, and no second call may be made until it has.

use std::collections::{BTreeMap, VecDeque};

use crate::planted::planted;
use crate::rest::Depth;
use crate::time::{Millis, Moment};

/// What is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Limits {
    /// Calls of the engine to start a tenant, at once.
    pub starts: usize,
    /// Calls to thaw one.
    pub thaws: usize,
    /// Flights that wait for a call of either kind.
    pub queue: usize,
    /// Waiters of one tenant, and of all together.
    pub waiters_each: usize,
    pub waiters: usize,
    /// From the return of the engine's call to readiness.
    pub boot: Millis,
}

/// Somebody who asked and was not answered. `W` is how the shell knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Waiter<H, W> {
    pub id: W,
    pub holder: H,
    /// `Ask::number`.
    pub number: u64,
    /// Answered by then, whatever happens.
    pub deadline: Moment,
}

/// Calls to the engine that wake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Rouse {
    Thaw,
    Start,
}

/// A call that is wanted (`begun` is none) or under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) ticket: u64,
    pub(crate) rouse: Rouse,
    pub(crate) begun: bool,
    /// Something else is done with the tenant first: until it is begun, the call takes no slot.
    pub(crate) put_off: bool,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Flight<H, W> {
    pub(crate) waiters: Vec<Waiter<H, W>>,
    pub(crate) from: Depth,
    pub(crate) asked: Moment,
    pub(crate) begun: Option<Moment>,
    pub(crate) returned: Option<Moment>,
}

/// How long a wake took.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Woke {
    pub at: Moment,
    /// [`Depth::Frozen`] or [`Depth::Asleep`]; [`Depth::Booting`] where a start of before the keeper's own was met.
    pub from: Depth,
    pub total: Millis,
    /// Behind other wakes, or behind its own falling asleep.
    pub queue: Millis,
    /// The engine's call.
    pub engine: Millis,
    /// From there to readiness.
    pub boot: Millis,
}

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Full;

#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Wake<T, H, W> {
    pub(crate) limits: Limits,
    pub(crate) flights: BTreeMap<T, Flight<H, W>>,
    pub(crate) told: BTreeMap<T, Told>,
    pub(crate) thaws: VecDeque<T>,
    pub(crate) starts: VecDeque<T>,
    pub(crate) waiters: usize,
}

impl<T: Copy + Ord, H: Copy, W: Copy + Eq> Wake<T, H, W> {
    pub fn new(limits: Limits) -> Self {
        Self {
            limits,
            flights: BTreeMap::new(),
            told: BTreeMap::new(),
            thaws: VecDeque::new(),
            starts: VecDeque::new(),
            waiters: 0,
        }
    }

    /// Waits with all others who want this tenant; the first of them begins a flight.
    pub fn join(
        &mut self,
        now: Moment,
        tenant: T,
        from: Depth,
        waiter: Waiter<H, W>,
    ) -> Result<(), Full> {
        let here = self.flights.get(&tenant).map(|flight| flight.waiters.len());
        let queued = self.thaws.len() + self.starts.len();
        if self.waiters >= self.limits.waiters
            || here.is_some_and(|here| here >= self.limits.waiters_each)
            || here.is_none() && queued >= self.limits.queue
        {
            return Err(Full);
        }
        self.waiters += 1;
        self.launch(now, tenant, from).waiters.push(waiter);
        Ok(())
    }

    /// A flight that nobody waits for.
    pub(crate) fn launch(&mut self, now: Moment, tenant: T, from: Depth) -> &mut Flight<H, W> {
        let fresh =
            || Flight { waiters: Vec::new(), from, asked: now, begun: None, returned: None };
        self.flights.entry(tenant).or_insert_with(fresh)
    }

    /// A waiter has left. The flight goes on: somebody wanted the tenant.
    pub fn leave(&mut self, tenant: T, waiter: W) {
        if let Some(flight) = self.flights.get_mut(&tenant) {
            let before = flight.waiters.len();
            flight.waiters.retain(|w| w.id != waiter);
            self.waiters -= before - flight.waiters.len();
        }
    }

    /// Those who have waited long enough. The flight goes on.
    pub fn overdue(&mut self, now: Moment, tenant: T) -> Vec<Waiter<H, W>> {
        let Some(flight) = self.flights.get_mut(&tenant) else { return Vec::new() };
        if planted!(DeadlineForgotten) {
            return Vec::new();
        }
        let overdue: Vec<_> =
            flight.waiters.iter().filter(|w| w.deadline <= now).copied().collect();
        flight.waiters.retain(|w| w.deadline > now);
        self.waiters -= overdue.len();
        overdue
    }

    /// Wants a call, now or as soon as there is room for one.
    pub(crate) fn want(&mut self, tenant: T, rouse: Rouse) {
        let queue = match rouse {
            Rouse::Thaw => &mut self.thaws,
            Rouse::Start => &mut self.starts,
        };
        if !queue.contains(&tenant) {
            queue.push_back(tenant);
        }
    }

    /// The next call there is room for: to be begun with its ticket.
    pub(crate) fn next_call(&mut self, ticket: u64) -> Option<(T, Told)> {
        let rouse = [Rouse::Thaw, Rouse::Start].into_iter().find(|rouse| self.has_room(*rouse))?;
        let queue = match rouse {
            Rouse::Thaw => &mut self.thaws,
            Rouse::Start => &mut self.starts,
        };
        let told = &self.told;
        let is_free = |tenant: &T| !told.contains_key(tenant) || planted!(SecondCall);
        let place = queue.iter().position(is_free)?;
        let tenant = queue.remove(place)?;
        let told = Told { ticket, rouse, begun: false, put_off: false };
        self.told.insert(tenant, told);
        Some((tenant, told))
    }

    fn has_room(&self, rouse: Rouse) -> bool {
        let (queue, most) = match rouse {
            Rouse::Thaw => (&self.thaws, self.limits.thaws),
            Rouse::Start => (&self.starts, self.limits.starts),
        };
        self.calls(rouse) < most
            && queue.iter().any(|t| !self.told.contains_key(t) || planted!(SecondCall))
    }

    pub(crate) fn told(&self, tenant: T) -> Option<Told> {
        self.told.get(&tenant).copied()
    }

    pub(crate) fn begin(&mut self, now: Moment, tenant: T, from: Depth) {
        if let Some(told) = self.told.get_mut(&tenant) {
            (told.begun, told.put_off) = (true, false);
        }
        if let Some(flight) = self.flights.get_mut(&tenant) {
            (flight.begun, flight.returned) = (Some(now), None);
            flight.from = from;
        }
    }

    pub(crate) fn put_off(&mut self, tenant: T) {
        if let Some(told) = self.told.get_mut(&tenant) {
            told.put_off = true;
        }
    }

    /// The call has returned, or is not wanted any more.
    pub(crate) fn forget(&mut self, tenant: T) {
        if !planted!(SlotLost) {
            self.told.remove(&tenant);
        }
    }

    /// The tenant runs; its readiness is waited for from now on.
    pub(crate) fn returned(&mut self, now: Moment, tenant: T) {
        if let Some(flight) = self.flights.get_mut(&tenant) {
            flight.returned.get_or_insert(now);
        }
    }

    pub(crate) fn flight(&self, tenant: T) -> Option<&Flight<H, W>> {
        self.flights.get(&tenant)
    }

    /// Ends a flight; its waiters are the caller's to answer.
    pub(crate) fn end(&mut self, tenant: T) -> Option<Flight<H, W>> {
        self.starts.retain(|t| *t != tenant);
        self.thaws.retain(|t| *t != tenant);
        let flight = self.flights.remove(&tenant)?;
        self.waiters -= flight.waiters.len();
        Some(flight)
    }

    /// How many wakes are before this one; `None` when it does not wait for a call.
    pub fn ahead(&self, tenant: T) -> Option<usize> {
        let place = |queue: &VecDeque<T>| queue.iter().position(|t| *t == tenant);
        place(&self.starts).or_else(|| place(&self.thaws))
    }

    pub const fn waiters(&self) -> usize {
        self.waiters
    }

    pub fn queued(&self) -> usize {
        self.starts.len() + self.thaws.len()
    }

    /// Calls told or under way.
    pub fn calls(&self, rouse: Rouse) -> usize {
        self.told.values().filter(|told| told.rouse == rouse && !told.put_off).count()
    }

    pub(crate) fn boots_until(&self, tenant: T) -> Option<Moment> {
        self.flight(tenant)?.returned.map(|at| at.plus(self.limits.boot))
    }

    pub(crate) fn next_deadline(&self, tenant: T) -> Option<Moment> {
        let flight = self.flight(tenant)?;
        let waiters = flight.waiters.iter().map(|w| w.deadline);
        waiters.chain(self.boots_until(tenant)).min()
    }
}

impl<H, W> Flight<H, W> {
    pub(crate) fn elapsed(&self, now: Moment) -> Millis {
        now.since(self.asked)
    }

    /// The engine was called for it, or it was met booting.
    pub(crate) fn was_woken(&self) -> bool {
        self.begun.is_some() || self.returned.is_some()
    }

    pub(crate) fn woke(&self, now: Moment) -> Woke {
        let begun = self.begun.unwrap_or(self.asked);
        let returned = self.returned.unwrap_or(now);
        Woke {
            at: now,
            from: self.from,
            total: now.since(self.asked),
            queue: begun.since(self.asked),
            engine: returned.since(begun),
            boot: now.since(returned),
        }
    }
}
