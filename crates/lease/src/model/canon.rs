//! The canonical form of a state. Differences between two states of one form cannot make a
//! difference later.

use std::collections::BTreeMap;

use super::call::{Call, CallKind};
use super::container::Operation;
use super::orchestrator::Orchestrator;
use super::router::Router;
use super::system::{System, UNIT};
use crate::CallId;
use crate::authority::reason::BusyReport;
use crate::authority::sleep_state::SuspendStep;
use crate::time::{Millis, Moment};
use protocol::orchestrator::Phase;

const NOW: Moment = Moment(1_000 * UNIT);
/// The longest span that still matters from a past moment: a lease or the wait of a request, and the pauses before
/// renewals, retries and probes.
const LEASE: Millis = 2 * UNIT;
const PAUSE: Millis = UNIT;

/// Moves the state to a fixed time of day, and renumbers everything that is only compared.
pub(super) fn canonicalize(system: &mut System) {
    let idle = system.policy.freeze_after.max(system.policy.sleep_after).unwrap_or_default();
    let clock = Clock { now: system.now, idle };
    system.now = NOW;
    system.routers.iter_mut().for_each(|router| clock.router(router));
    system.calls.values_mut().for_each(|call| clock.call(call));
    for granted in system.granted.values_mut() {
        granted.until = clock.at(granted.until, 0);
        granted.orphan = clock.at(granted.orphan, 0);
    }
    clock.orchestrator(&mut system.orchestrator);
    numbers(system);
    counters(system);
    sort_calls(system);
}

/// Counts from a fixed moment. Times that lie too far back to matter become equal.
struct Clock {
    now: Moment,
    /// The longest idle time that matters: longer ones become equal.
    idle: Millis,
}

impl Clock {
    fn at(&self, moment: Moment, horizon: Millis) -> Moment {
        Moment(moment.max(self.now.minus(horizon)).0 + NOW.0 - self.now.0)
    }

    fn set(&self, moment: &mut Moment, horizon: Millis) {
        *moment = self.at(*moment, horizon);
    }

    fn router(&self, router: &mut Router) {
        if router.in_use {
            router.last_used = self.now;
        }
        self.set(&mut router.published, 0);
        let tenant = router.tenant;
        let manager = &mut router.manager;
        // The model's timer runs once per unit, so the rest of a unit makes no difference.
        manager.due = manager.due.map(|due| {
            let due = self.at(due, 0);
            NOW.plus(due.since(NOW) / UNIT * UNIT)
        });
        let outage = &mut manager.outage;
        let (is_unreachable, silent_since) =
            (outage.is_unreachable(), outage.last_response_at.max(outage.last_probe_at));
        let silent_since = self.at(silent_since, PAUSE);
        (outage.last_response_at, outage.last_probe_at) = (silent_since, silent_since);
        outage.unreachable_since =
            if is_unreachable { self.at(outage.unreachable_since, PAUSE) } else { NOW };
        outage.next_retry_at = if is_unreachable { self.at(outage.next_retry_at, 0) } else { NOW };
        let entry = manager.tenants.get_mut(&tenant);
        let lease = entry.as_ref().and_then(|entry| entry.holder.lease);
        let is_used_since = lease.is_some_and(|lease| router.last_used > lease.extended_at);
        let is_used_after_release = router.releasing.is_some_and(|last| router.last_used > last);
        self.set(&mut router.last_used, self.idle);
        if let Some(releasing) = &mut router.releasing {
            *releasing = router.last_used.minus(u64::from(is_used_after_release));
        }
        let Some(entry) = entry else { return };
        if let Some(lease) = &mut entry.holder.lease {
            self.set(&mut lease.valid_until, 0);
            self.set(&mut lease.extended_at, PAUSE);
            lease.extended_at = if is_used_since {
                lease.extended_at.min(router.last_used.minus(1))
            } else {
                lease.extended_at.max(router.last_used)
            };
        }
        entry.holder.last_call_at.iter_mut().for_each(|at| self.set(at, PAUSE));
        entry.request.iter_mut().for_each(|request| self.set(&mut request.call.sent_at, LEASE));
        entry.retry_at.iter_mut().for_each(|at| self.set(at, 0));
        self.set(&mut entry.sleeping_until, 0);
        self.set(&mut entry.not_running_until, 0);
        if let Some((until, _)) = &mut entry.failure {
            self.set(until, 0);
            entry.failure = entry.failure.take_if(|(until, _)| *until > NOW);
        }
    }

    fn call(&self, call: &mut Call) {
        self.set(&mut call.call.sent_at, LEASE);
        match &mut call.kind {
            CallKind::Renewal { idle } => *idle = (*idle).min(self.idle),
            CallKind::Release { idle } => {
                (*idle, call.call.sent_at) = ((*idle).min(self.idle), NOW);
            }
            CallKind::Probe => call.call.sent_at = NOW,
            CallKind::Request { .. } => {}
        }
    }

    fn orchestrator(&self, orchestrator: &mut Orchestrator) {
        let core = &mut orchestrator.core;
        self.set(&mut core.earliest_suspend, 0);
        core.timers = core.timers.iter().map(|(at, tenant)| (self.at(*at, 0), *tenant)).collect();
        core.queue_full_responses = 0;
        for entry in core.tenants.values_mut() {
            let state = &mut entry.state;
            state.last_sleep = None;
            entry.timer.iter_mut().for_each(|at| self.set(at, 0));
            self.set(&mut state.last_use, self.idle);
            self.set(&mut state.earliest_suspend, 0);
            self.set(&mut state.retry_at, 0);
            state.leases.values_mut().for_each(|lease| self.set(&mut lease.until, 0));
            if let Some(busy) = &mut state.busy {
                (busy.since, busy.until) = (NOW, NOW);
                self.set(&mut busy.reported_at, self.idle);
            }
            match &mut state.step {
                SuspendStep::Settled => {}
                SuspendStep::QueryingBusy { until, .. } => self.set(until, 0),
                SuspendStep::Decided { report, .. } | SuspendStep::Suspending { report, .. } => {
                    *report = BusyReport::NotBusy
                }
            }
        }
        for wake in core.wakes.pending.values_mut() {
            // The core reports these times and makes no decision by them.
            (wake.requested_at, wake.from) = (NOW, Phase::Sleeping);
            wake.begun_at = wake.begun_at.map(|_| NOW);
            wake.returned_at.iter_mut().for_each(|at| self.set(at, UNIT));
            wake.waiters.iter_mut().for_each(|waiter| self.set(&mut waiter.deadline, 0));
        }
    }
}

/// The numbers of a router's lease requests: only their order matters.
fn numbers(system: &mut System) {
    for router in 0..system.routers.len() {
        let range = (router * 8)..(router * 8 + 8);
        let mut all = vec![0];
        each_number(system, &range, &mut |number| all.push(*number));
        all.sort_unstable();
        all.dedup();
        each_number(system, &range, &mut |number| *number = rank(&all, *number));
    }
}

fn each_number(system: &mut System, ids: &std::ops::Range<usize>, see: &mut impl FnMut(&mut u64)) {
    let mine = |holder: u8| ids.contains(&usize::from(holder));
    for router in system.routers.iter_mut().filter(|router| mine(router.holder)) {
        see(&mut router.manager.last_number);
        for entry in router.manager.tenants.values_mut() {
            entry.holder.lease.iter_mut().for_each(|lease| see(&mut lease.number));
            entry.request.iter_mut().for_each(|request| see(&mut request.call.number));
        }
    }
    system.calls.values_mut().filter(|c| mine(c.holder)).for_each(|c| see(&mut c.call.number));
    let core = &mut system.orchestrator.core;
    for entry in core.tenants.values_mut() {
        let leases = entry.state.leases.iter_mut().filter(|(holder, _)| mine(**holder));
        leases.for_each(|(_, lease)| see(&mut lease.number));
    }
    let waiters = core.wakes.pending.values_mut().flat_map(|wake| &mut wake.waiters);
    waiters.filter(|w| mine(w.holder)).for_each(|w| see(&mut w.number));
}

/// The ids of calls: only equality matters.
fn sort_calls(system: &mut System) {
    if system.calls.len() < 2 && system.calls.keys().all(|id| *id == 0) {
        return;
    }
    let mut calls: Vec<(Call, u8)> = system.calls.iter().map(|(id, call)| (*call, *id)).collect();
    calls.sort_unstable();
    for wake in system.orchestrator.core.wakes.pending.values_mut() {
        for waiter in &mut wake.waiters {
            let position = calls.iter().position(|(_, id)| *id == waiter.id);
            waiter.id = position.and_then(|at| u8::try_from(at).ok()).unwrap_or(u8::MAX);
        }
    }
    system.calls = (0..).zip(calls.into_iter().map(|(call, _)| call)).collect();
}

/// Call ids and generations: only equality matters.
fn counters(system: &mut System) {
    let orchestrator = &mut system.orchestrator;
    let mut ids = BTreeMap::new();
    let mut renumber = |id: &mut CallId| {
        let fresh = ids.len() as u64 + 1;
        id.0 = *ids.entry(id.0).or_insert(fresh);
    };
    orchestrator.issued.iter_mut().for_each(|(_, _, of)| renumber(of));
    for container in &mut system.containers {
        if let Some(Operation::Ours { call_id: of, .. }) = &mut container.operation {
            renumber(of);
        }
    }
    for call in orchestrator.core.wakes.calls.values_mut() {
        let mut id = CallId(call.id);
        renumber(&mut id);
        call.id = id.0;
    }
    for (tenant, entry) in &mut orchestrator.core.tenants {
        if !matches!(entry.state.step, SuspendStep::Decided { .. } | SuspendStep::Suspending { .. })
        {
            entry.suspend = None;
        }
        if let Some((of, _)) = &mut entry.suspend {
            renumber(of);
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
    orchestrator.core.last_call_id = ids.len() as u64;
}

fn rank(all: &[u64], number: u64) -> u64 {
    all.binary_search(&number).unwrap_or(all.len()) as u64
}
