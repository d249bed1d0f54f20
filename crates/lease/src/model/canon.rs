//! The canonical form of a state. Differences between two states of one form cannot make a
//! difference later.

use std::collections::BTreeMap;

use super::orchestrator::Orchestrator;
use super::router::Router;
use super::world::{Message, Turn, UNIT, World};
use crate::CallId;
use crate::reason::BusyReport;
use crate::sleep_state::SuspendStep;
use crate::time::{Millis, Moment};
use protocol::orchestrator::Phase;

const NOW: Moment = Moment(1_000 * UNIT);
/// The longest span that still matters from a past moment: a lease, an idle time, a renewal's
/// pause.
const LEASE: Millis = 2 * UNIT;
const PAUSE: Millis = UNIT;

pub(super) fn canonical(world: &World) -> World {
    let mut world = world.clone();
    let idle = world.policy.freeze_after.max(world.policy.sleep_after).unwrap_or_default();
    let clock = Clock { now: world.now, idle };
    world.now = NOW;
    world.routers.iter_mut().for_each(|router| clock.router(router));
    world.network.iter_mut().for_each(|message| clock.message(message));
    for granted in world.granted.values_mut() {
        granted.until = clock.at(granted.until, 0);
        granted.orphan = clock.at(granted.orphan, 0);
    }
    clock.orchestrator(&mut world.orchestrator);
    numbers(&mut world);
    counters(&mut world);
    world
}

/// Counts from a fixed moment. Times that lie too far back to matter become equal.
struct Clock {
    now: Moment,
    /// The longest idle time that matters: longer ones become equal.
    idle: Millis,
}

impl Clock {
    fn at(&self, moment: Moment, matters: Millis) -> Moment {
        Moment(moment.max(self.now.minus(matters)).0 + NOW.0 - self.now.0)
    }

    fn set(&self, moment: &mut Moment, matters: Millis) {
        *moment = self.at(*moment, matters);
    }

    fn router(&self, router: &mut Router) {
        // The number alone identifies a call.
        if let Some((call, until)) = &mut router.pending {
            call.sent_at = NOW;
            self.set(until, 0);
        }
        if router.guard {
            router.last_used = self.now;
        }
        let holder = &mut router.holder;
        let since = holder.lease.map(|live| live.extended_at);
        let used_since = since.is_some_and(|spoken| router.last_used > spoken);
        self.set(&mut router.last_used, self.idle);
        if let Some(live) = &mut holder.lease {
            self.set(&mut live.valid_until, 0);
            self.set(&mut live.extended_at, PAUSE);
            live.extended_at = if used_since {
                live.extended_at.min(router.last_used.minus(1))
            } else {
                live.extended_at.max(router.last_used)
            };
        }
        holder.last_call_at.iter_mut().for_each(|at| self.set(at, PAUSE));
    }

    fn message(&self, message: &mut Message) {
        match message {
            Message::LeaseRequest { call, .. }
            | Message::Granted { call, .. }
            | Message::Renewed { call, .. } => self.set(&mut call.sent_at, LEASE),
            Message::Renew { call, idle, .. } => {
                self.set(&mut call.sent_at, LEASE);
                *idle = (*idle).min(self.idle);
            }
            Message::Release { idle, .. } => *idle = (*idle).min(self.idle),
            Message::Refused { call, .. } => call.sent_at = NOW,
        }
    }

    fn orchestrator(&self, orchestrator: &mut Orchestrator) {
        for waiting in orchestrator.waiting.values_mut() {
            self.set(&mut waiting.call.sent_at, LEASE);
            self.set(&mut waiting.deadline, 0);
        }
        let core = &mut orchestrator.core;
        self.set(&mut core.earliest_suspend, 0);
        core.timers.clear();
        (core.queue_full_responses, core.last_call_id) = (0, 0);
        for entry in core.tenants.values_mut() {
            let rest = &mut entry.state;
            (entry.timer, rest.last_sleep) = (None, None);
            self.set(&mut rest.last_use, self.idle);
            self.set(&mut rest.earliest_suspend, 0);
            self.set(&mut rest.retry_at, 0);
            rest.leases.values_mut().for_each(|lease| self.set(&mut lease.until, 0));
            if let Some(busy) = &mut rest.busy {
                (busy.since, busy.until) = (NOW, NOW);
                self.set(&mut busy.reported_at, self.idle);
            }
            match &mut rest.step {
                SuspendStep::Settled => {}
                SuspendStep::QueryingBusy { until, .. } => self.set(until, 0),
                SuspendStep::Decided { report, .. } | SuspendStep::Suspending { report, .. } => {
                    *report = BusyReport::NotBusy
                }
            }
        }
        for flight in core.wakes.pending.values_mut() {
            // The core reports these times and makes no decision by them.
            (flight.requested_at, flight.begun_at, flight.from) = (NOW, None, Phase::Sleeping);
            flight.returned_at.iter_mut().for_each(|at| self.set(at, UNIT));
            flight.waiters.iter_mut().for_each(|waiter| self.set(&mut waiter.deadline, 0));
        }
    }
}

/// The numbers of a router's lease requests: only their order matters.
fn numbers(world: &mut World) {
    for router in 0..world.routers.len() {
        let range = (router * 8)..(router * 8 + 8);
        let mut all = vec![0];
        each_number(world, &range, &mut |number| all.push(*number));
        all.sort_unstable();
        all.dedup();
        each_number(world, &range, &mut |number| *number = rank(&all, *number));
    }
    world.network.sort_unstable();
}

fn each_number(world: &mut World, ids: &std::ops::Range<usize>, see: &mut impl FnMut(&mut u64)) {
    let mine = |holder: u8| ids.contains(&usize::from(holder));
    let routers = world.routers.iter_mut().filter(|router| mine(router.id));
    for router in routers {
        let holder = &mut router.holder;
        [&mut holder.last_number, &mut holder.released_up_to].into_iter().for_each(&mut *see);
        holder.lease.iter_mut().for_each(|live| see(&mut live.number));
        router.pending.iter_mut().for_each(|(call, _)| see(&mut call.number));
    }
    for message in &mut world.network {
        if mine(message.holder()) {
            see(message.number());
        }
    }
    let orchestrator = &mut world.orchestrator;
    for waiting in orchestrator.waiting.values_mut().filter(|waiting| mine(waiting.holder)) {
        see(&mut waiting.call.number);
    }
    for entry in orchestrator.core.tenants.values_mut() {
        let leases = entry.state.leases.iter_mut().filter(|(holder, _)| mine(**holder));
        leases.for_each(|(_, lease)| see(&mut lease.number));
    }
    let flights = orchestrator.core.wakes.pending.values_mut();
    for waiter in flights.flat_map(|flight| &mut flight.waiters).filter(|w| mine(w.holder)) {
        see(&mut waiter.number);
    }
}

/// Call ids and generations: only equality matters.
fn counters(world: &mut World) {
    let orchestrator = &mut world.orchestrator;
    let mut tickets = BTreeMap::new();
    let mut ticket = |ticket: &mut CallId| {
        let fresh = tickets.len() as u64 + 1;
        ticket.0 = *tickets.entry(ticket.0).or_insert(fresh);
    };
    orchestrator.issued.iter_mut().for_each(|(_, _, of)| ticket(of));
    for container in &mut world.containers {
        if let Some(Turn::Ours { call_id: of, .. }) = &mut container.turn {
            ticket(of);
        }
    }
    for told in orchestrator.core.wakes.calls.values_mut() {
        let mut of = CallId(told.id);
        ticket(&mut of);
        told.id = of.0;
    }
    for (tenant, entry) in &mut orchestrator.core.tenants {
        if !matches!(entry.state.step, SuspendStep::Decided { .. } | SuspendStep::Suspending { .. })
        {
            entry.suspend = None;
        }
        if let Some((of, _)) = &mut entry.suspend {
            ticket(of);
        }
        let now = entry.state.generation;
        let is_now = |generation: &mut u64| *generation = u64::from(*generation == now);
        entry.suspend.iter_mut().for_each(|(_, generation)| is_now(generation));
        orchestrator.queried.get_mut(tenant).into_iter().for_each(is_now);
        match &mut entry.state.step {
            SuspendStep::Settled => {}
            SuspendStep::QueryingBusy { generation, .. }
            | SuspendStep::Decided { generation, .. }
            | SuspendStep::Suspending { generation, .. } => is_now(generation),
        }
        entry.state.generation = 1;
    }
}

fn rank(all: &[u64], number: u64) -> u64 {
    all.binary_search(&number).unwrap_or(all.len()) as u64
}

impl Message {
    fn number(&mut self) -> &mut u64 {
        match self {
            Self::LeaseRequest { call, .. }
            | Self::Renew { call, .. }
            | Self::Granted { call, .. }
            | Self::Refused { call, .. }
            | Self::Renewed { call, .. } => &mut call.number,
            Self::Release { number, .. } => number,
        }
    }

    fn holder(&self) -> u8 {
        match self {
            Self::LeaseRequest { holder, .. }
            | Self::Renew { holder, .. }
            | Self::Release { holder, .. }
            | Self::Granted { holder, .. }
            | Self::Refused { holder, .. }
            | Self::Renewed { holder, .. } => *holder,
        }
    }
}
