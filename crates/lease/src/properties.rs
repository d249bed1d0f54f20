//! Properties of each core under any input, in sequences longer and times finer than the model's.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::Authority;
use crate::authority::command::{
    AuthoritySettings, CallOutcome, Command, EngineCall, LeaseRequest, LeaseResponse,
};
use crate::authority::reason::{AwakeReason, BusyReport};
use crate::authority::sleep_state::{HolderUsage, SleepPolicy, SuspendStep, TenantSleepState};
use crate::authority::suspend::Decision;
use crate::authority::wake_queue::{Waiter, WakeKind, WakeLimits};
use crate::holder::lease::{DueAction, Holder, LeaseCall, LeaseTerms};
use crate::time::{Millis, Moment};
use protocol::orchestrator::Phase;

const LEASE: Millis = 15_000;
const START: Moment = Moment(1_000_000);

#[derive(Clone, Debug)]
enum HolderEvent {
    Advance(Millis),
    Request,
    Granted,
    Renew,
    Renewed(usize, bool),
    Release,
}

fn holder_events() -> impl Strategy<Value = HolderEvent> {
    prop_oneof![
        3 => (0..6_000u64).prop_map(HolderEvent::Advance),
        2 => Just(HolderEvent::Request),
        3 => Just(HolderEvent::Granted),
        2 => Just(HolderEvent::Renew),
        2 => any::<(usize, bool)>().prop_map(|(at, kept)| HolderEvent::Renewed(at, kept)),
        1 => Just(HolderEvent::Release),
    ]
}

proptest! {
    /// A holder never sends beyond the greatest lease that its calls can have obtained, and never
    /// under a released lease.
    #[test]
    fn a_holder_sends_only_under_a_lease_that_it_did_not_release(
        events in proptest::collection::vec(holder_events(), 1..80),
    ) {
        let terms = LeaseTerms { expires_in: LEASE, linger: 10_000 };
        let (mut holder, mut now) = (Holder::default(), START);
        // The caller has one request in flight, and forgets it with its response.
        let (mut request, mut number, mut renewals) = (None::<LeaseCall>, 0, Vec::new());
        let mut newest = Moment(0);
        for event in events {
            match event {
                HolderEvent::Advance(time) => now = now.plus(time),
                HolderEvent::Request => {
                    number += 1;
                    request = Some(holder.begin_request(now, number));
                }
                HolderEvent::Granted => {
                    if let Some(call) = request.take() {
                        holder.on_granted(call, terms);
                        newest = newest.max(call.sent_at);
                    }
                }
                HolderEvent::Renew => renewals.extend(holder.begin_renewal(now)),
                HolderEvent::Renewed(at, kept) if !renewals.is_empty() => {
                    let call: LeaseCall = renewals[at % renewals.len()];
                    let is_current = holder.lease.is_some_and(|lease| lease.number == call.number);
                    holder.on_renewed(call, kept.then_some(LEASE));
                    if is_current {
                        newest = if kept { newest.max(call.sent_at) } else { Moment(0) };
                    }
                }
                HolderEvent::Release => {
                    let held = holder.lease.map(|lease| lease.number);
                    prop_assert_eq!(holder.begin_release(), held);
                    newest = Moment(0);
                }
                HolderEvent::Renewed(..) => {}
            }
            prop_assert!(!holder.may_send(now) || now < newest.plus(LEASE));
            prop_assert_eq!(holder.may_send(now), now < holder.valid_until());
        }
    }

    /// The deadline is exact: no action is due before the deadline, and one is due at the deadline.
    #[test]
    fn a_holder_is_due_at_its_deadline(
        sent in 0..20_000u64, in_use: bool, used in 0..20_000u64, linger in 100..10_000u64,
    ) {
        let mut holder = Holder::default();
        let call = holder.begin_request(START.plus(sent), 1);
        holder.on_granted(call, LeaseTerms { expires_in: LEASE, linger });
        let used = START.plus(used);
        let at = holder.next_deadline(in_use, used);
        prop_assert!(at.is_some());
        let at = at.unwrap_or_default();
        prop_assert_eq!(holder.due_action(at.minus(1), in_use, used), DueAction::Nothing);
        let due = holder.due_action(at, in_use, used);
        prop_assert!(due != DueAction::Nothing);
        prop_assert!(!in_use || due == DueAction::Renew);
        // A holder renews a lease in use twice before the lease expires.
        prop_assert!(!in_use || at <= call.sent_at.plus(LEASE / 2));
    }
}

#[derive(Clone, Debug)]
enum TenantEvent {
    Advance(Millis),
    Grant(u8),
    Renew(u8, Millis),
    Release(u8),
    BusyReport(bool),
    Begin,
    Thawed(bool),
    Finished(bool),
    Ready,
    Policy(u16, u16, u16),
}

fn tenant_events() -> impl Strategy<Value = TenantEvent> {
    prop_oneof![
        6 => (0..20_000u64).prop_map(TenantEvent::Advance),
        1 => (0..3u8).prop_map(TenantEvent::Grant),
        1 => (0..3u8, 0..10_000u64).prop_map(|(holder, idle)| TenantEvent::Renew(holder, idle)),
        2 => (0..3u8).prop_map(TenantEvent::Release),
        4 => prop::bool::weighted(0.2).prop_map(TenantEvent::BusyReport),
        4 => Just(TenantEvent::Begin),
        2 => any::<bool>().prop_map(TenantEvent::Thawed),
        4 => prop::bool::weighted(0.2).prop_map(TenantEvent::Finished),
        1 => Just(TenantEvent::Ready),
        1 => (0..60u16, 0..120u16, 0..90u16).prop_map(|(a, b, c)| TenantEvent::Policy(a, b, c)),
    ]
}

proptest! {
    #[test]
    fn a_tenant_is_suspended_idle_and_unleased_and_not_before_the_earliest_moment(
        events in proptest::collection::vec(tenant_events(), 1..120),
    ) {
        let (mut now, earliest) = (START, START.plus(LEASE));
        let mut policy = SleepPolicy::from_seconds(20, 60, 0, false);
        let mut state = TenantSleepState::new(now, Phase::Ready, policy, Moment(0), earliest);
        let mut leases = BTreeMap::<u8, Moment>::new();
        let (mut last_use, mut queried, mut decided, mut busy) = (Moment(0), None, None, false);
        // The first busy report in a row, whatever visits come meanwhile.
        let mut first = None;
        for event in events {
            match event {
                TenantEvent::Advance(time) => now = now.plus(time),
                TenantEvent::Grant(holder) if state.accepts_leases() => {
                    state.grant_lease(now, holder, 1, LEASE);
                    leases.insert(holder, now.plus(LEASE));
                    last_use = now;
                }
                TenantEvent::Renew(holder, idle) => {
                    let used = HolderUsage { number: 1, idle, ..HolderUsage::default() };
                    let live = leases.get(&holder).is_some_and(|until| *until > now);
                    let renewed = state.renew_lease(now, holder, used, LEASE);
                    prop_assert_eq!(renewed, live && state.accepts_leases());
                    if renewed {
                        leases.insert(holder, now.plus(LEASE));
                    }
                    last_use = last_use.max(now.minus(idle));
                }
                TenantEvent::Release(holder) => {
                    state.release_lease(now, holder, HolderUsage { number: 1, idle: 60_000, ..HolderUsage::default() });
                    leases.remove(&holder);
                    last_use = last_use.max(now.minus(60_000));
                }
                TenantEvent::BusyReport(is_busy) => {
                    if let Some(generation) = queried.take() {
                        let report = if is_busy { BusyReport::Busy { until: now } } else { BusyReport::NotBusy };
                        busy = is_busy;
                        let is_querying = matches!(state.step, SuspendStep::QueryingBusy { generation: of, .. } if of == generation);
                        if is_querying {
                            first = is_busy.then_some(first.unwrap_or(now));
                        }
                        if let Decision::Suspend { generation, kind } = state.on_busy_report(now, generation, report) {
                            decided = Some((generation, kind));
                        }
                    }
                }
                TenantEvent::Begin => {
                    if let Some((generation, kind)) = decided.take()
                        && state.begin_suspend(now, generation)
                    {
                        prop_assert!(leases.values().all(|until| *until <= now), "a lease is live");
                        prop_assert!(now >= earliest, "before the earliest suspend");
                        let after = [policy.freeze_after, policy.sleep_after].into_iter().flatten();
                        let after = after.min().unwrap_or(Millis::MAX);
                        prop_assert!(now.since(last_use) >= after, "{kind:?} of a tenant in use");
                        prop_assert!(!busy || policy.max_awake.is_some() || state.phase() == Phase::Frozen);
                    }
                }
                TenantEvent::Thawed(is_busy) if state.is_suspending() && state.phase() == Phase::Frozen => {
                    let report = if is_busy { BusyReport::Busy { until: now } } else { BusyReport::NotBusy };
                    let stops = state.continue_after_thaw(now, report);
                    prop_assert!(!(stops && is_busy) || policy.max_awake.is_some());
                }
                TenantEvent::Finished(refused) if state.is_suspending() => {
                    first = None;
                    let phase = if refused { Phase::Ready } else { Phase::Frozen };
                    state.on_suspend_finished(now, phase, refused, 5_000);
                }
                TenantEvent::Ready => {
                    first = None;
                    state.on_phase_observed(now, Phase::Ready);
                    last_use = last_use.max(state.last_use());
                }
                TenantEvent::Policy(freeze, sleep, awake) => {
                    policy = SleepPolicy::from_seconds(freeze.into(), sleep.into(), awake.into(), false);
                    state.set_policy(policy);
                }
                TenantEvent::Grant(_) | TenantEvent::Thawed(_) | TenantEvent::Finished(_) => {}
            }
            for reason in state.awake_reasons(now) {
                if let AwakeReason::Busy { since, .. } = reason {
                    prop_assert!(first.is_none_or(|first| since <= first), "the busy period began anew");
                }
            }
            let deadline = state.next_deadline();
            match state.next_decision(now) {
                Decision::Nothing => prop_assert!(deadline.is_none_or(|at| at > now)
                    || state.next_deadline().is_none_or(|at| at > now), "a deadline that spins"),
                Decision::QueryBusy { generation } => {
                    prop_assert!(deadline.is_some_and(|at| at <= now), "not at its deadline");
                    queried = Some(generation);
                }
                Decision::Suspend { generation, kind } => {
                    prop_assert!(deadline.is_some_and(|at| at <= now), "not at its deadline");
                    (busy, queried) = (false, None);
                    decided = Some((generation, kind));
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum AuthorityEvent {
    Advance(Millis),
    Request(u8, bool),
    WaiterLeaves(usize),
    Begin(usize),
    Done(usize, bool),
    Ready(u8),
    Exit(u8),
    Owner(u8, bool),
}

fn authority_events() -> impl Strategy<Value = AuthorityEvent> {
    prop_oneof![
        3 => (0..3_000u64).prop_map(AuthorityEvent::Advance),
        8 => (0..6u8, prop::bool::weighted(0.8)).prop_map(|(t, is_visit)| AuthorityEvent::Request(t, is_visit)),
        1 => any::<usize>().prop_map(AuthorityEvent::WaiterLeaves),
        4 => any::<usize>().prop_map(AuthorityEvent::Begin),
        4 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(at, r)| AuthorityEvent::Done(at, r)),
        2 => (0..6u8).prop_map(AuthorityEvent::Ready),
        1 => (0..6u8).prop_map(AuthorityEvent::Exit),
        1 => (0..6u8, any::<bool>()).prop_map(|(t, runs)| AuthorityEvent::Owner(t, runs)),
    ]
}

const LIMITS: WakeLimits = WakeLimits {
    concurrent_starts: 2,
    concurrent_thaws: 2,
    queued_wakes: 3,
    waiters_per_tenant: 4,
    waiters: 12,
    readiness_timeout: 5_000,
};
const SETTINGS: AuthoritySettings =
    AuthoritySettings { lease_duration: LEASE, retry_delay: 1_000, limits: LIMITS };

proptest! {
    #[test]
    fn every_request_gets_one_response_in_time_and_all_bounds_hold(
        events in proptest::collection::vec(authority_events(), 1..200),
    ) {
        let mut now = START;
        let mut core: Authority<u8, u8, u32> = Authority::new(now, SETTINGS);
        for tenant in 0..6 {
            let phase = if tenant % 2 == 0 { Phase::Sleeping } else { Phase::Frozen };
            core.add_tenant(now, tenant, phase, SleepPolicy::default(), now);
        }
        let (mut waiting, mut ids) = (BTreeMap::new(), 0..);
        let (mut issued, mut begun) = (Vec::new(), Vec::new());
        for event in events {
            match event {
                AuthorityEvent::Advance(time) => {
                    now = now.plus(time);
                    core.tick(now);
                }
                AuthorityEvent::Request(tenant, is_visit) => {
                    let id = ids.next().unwrap_or_default();
                    let deadline = now.plus(4_000);
                    waiting.insert(id, (tenant, deadline));
                    let waiter = Waiter { id, holder: 1, number: 1, deadline };
                    core.request_lease(now, LeaseRequest { tenant, is_visit, waiter });
                }
                AuthorityEvent::WaiterLeaves(at) => {
                    if let Some((id, (tenant, _))) = waiting.iter().nth(at % 8).map(|(k, v)| (*k, *v)) {
                        waiting.remove(&id);
                        core.remove_waiter(now, tenant, id);
                    }
                }
                AuthorityEvent::Begin(at) if !issued.is_empty() => {
                    let (tenant, call, call_id) = issued.swap_remove(at % issued.len());
                    if core.begin_call(now, tenant, call_id) {
                        begun.push((tenant, call, call_id));
                    }
                }
                AuthorityEvent::Done(at, refused) if !begun.is_empty() => {
                    let (tenant, call, call_id) = begun.swap_remove(at % begun.len());
                    let (outcome, phase) = match (refused, call) {
                        (true, _) => (CallOutcome::Refused, Phase::Sleeping),
                        (false, EngineCall::Start) => (CallOutcome::Done, Phase::Starting),
                        (false, _) => (CallOutcome::Done, Phase::Ready),
                    };
                    core.on_call_finished(now, tenant, call_id, outcome, phase);
                }
                AuthorityEvent::Ready(tenant) => {
                    if core.sleep_state(tenant).is_some_and(|state| state.phase() == Phase::Starting) {
                        core.on_phase_observed(now, tenant, Phase::Ready);
                    }
                }
                AuthorityEvent::Exit(tenant) => {
                    if core.sleep_state(tenant).is_some_and(|state| state.phase() == Phase::Ready) {
                        core.on_phase_observed(now, tenant, Phase::Sleeping);
                    }
                }
                AuthorityEvent::Owner(tenant, runs) => core.set_owner_intent(now, tenant, runs),
                AuthorityEvent::Begin(_) | AuthorityEvent::Done(..) => {}
            }
            while let Some(command) = core.next_command() {
                match command {
                    Command::CallEngine { tenant, call, call_id } => issued.push((tenant, call, call_id)),
                    Command::Respond { waiter, response } => {
                        let removed = waiting.remove(&waiter);
                        prop_assert!(removed.is_some(), "{waiter} gets a second response: {response:?}");
                        let deadline = removed.map(|(_, deadline)| deadline).unwrap_or_default();
                        let is_late = matches!(response, LeaseResponse::Waking { .. });
                        prop_assert!(!is_late || deadline <= now, "too early");
                    }
                    Command::QueryBusy { .. } | Command::RecordWake { .. } => {}
                }
            }
            prop_assert!(waiting.values().all(|(_, deadline)| *deadline > now), "past a deadline");
            prop_assert!(core.next_deadline().is_none_or(|at| at > now), "a deadline that spins");
            prop_assert_eq!(core.wake_queue().waiter_count(), waiting.len());
            prop_assert!(waiting.len() <= LIMITS.waiters);
            prop_assert!(core.wake_queue().active_calls(WakeKind::Start) <= LIMITS.concurrent_starts);
            prop_assert!(core.wake_queue().active_calls(WakeKind::Thaw) <= LIMITS.concurrent_thaws);
            for tenant in 0..6 {
                let calls = begun.iter().filter(|(of, ..)| *of == tenant).count();
                prop_assert!(calls <= 1, "two calls for {tenant}");
            }
        }
    }
}
