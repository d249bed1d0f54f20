//! Single cases of the authority and the lease manager, each as a readable story.

use crate::LeaseError;
use crate::authority::Authority;
use crate::command::{
    AuthoritySettings, CallId, CallOutcome, Command, EngineCall, Grant, LeaseRequest,
    LeaseResponse, WakeError, WakeProgress,
};
use crate::holder::{Holder, LeaseCall, LeaseTerms};
use crate::manager::{
    CurrentUsage, LeaseManager, ManagerCommand, ManagerSettings, RequestOutcome, TenantRequest,
};
use crate::outage::{CallHealth, OrchestratorStatus};
use crate::reason::{AwakeReason, BusyReport};
use crate::sleep_state::{HolderUsage, SleepPolicy};
use crate::time::{Millis, Moment};
use crate::wake_queue::{Waiter, WakeLimits, WakeTimings};
use protocol::leases::RequestIntent;
use protocol::orchestrator::Phase;

const START: Moment = Moment(1_000_000);
const LEASE: Millis = 15_000;

struct Scenario {
    core: Authority<u8, u8, u32>,
    now: Moment,
}

impl Scenario {
    /// Creates tenant 1. The scenario begins one lease duration after the orchestrator's start.
    fn new(phase: Phase, policy: SleepPolicy) -> Self {
        let limits = WakeLimits {
            concurrent_starts: 1,
            concurrent_thaws: 2,
            queued_wakes: 2,
            waiters_per_tenant: 2_000,
            waiters: 2_000,
            readiness_timeout: 30_000,
        };
        let mut core = Authority::new(
            START,
            AuthoritySettings { lease_duration: LEASE, retry_delay: 5_000, limits },
        );
        core.add_tenant(START, 1, phase, policy, START);
        let mut scenario = Self { core, now: START.plus(LEASE) };
        scenario.core.tick(scenario.now);
        scenario
    }

    fn request_lease(&mut self, tenant: u8, id: u32, is_visit: bool) {
        let deadline = self.now.plus(45_000);
        let waiter = Waiter { id, holder: 1, number: u64::from(id), deadline };
        self.core.request_lease(self.now, LeaseRequest { tenant, is_visit, waiter });
    }

    fn advance(&mut self, time: Millis) {
        self.now = self.now.plus(time);
        self.core.tick(self.now);
    }

    fn commands(&mut self) -> Vec<Command<u8, u32>> {
        std::iter::from_fn(|| self.core.next_command()).collect()
    }

    /// Returns the only engine call among the commands.
    fn engine_call(&mut self) -> (EngineCall, CallId) {
        let commands = self.commands();
        let calls = commands.iter().filter_map(|command| match command {
            Command::CallEngine { call, call_id, .. } => Some((*call, *call_id)),
            Command::QueryBusy { .. } | Command::Respond { .. } | Command::RecordWake { .. } => {
                None
            }
        });
        let calls: Vec<_> = calls.collect();
        assert_eq!(calls.len(), 1, "{commands:?}");
        calls[0]
    }

    fn busy_query(&mut self) -> u64 {
        let commands = self.commands();
        match commands[..] {
            [Command::QueryBusy { generation, .. }] => generation,
            _ => panic!("{commands:?}"),
        }
    }

    fn responses(&mut self) -> Vec<LeaseResponse> {
        let commands = self.commands().into_iter();
        commands
            .filter_map(|command| match command {
                Command::Respond { response, .. } => Some(response),
                Command::QueryBusy { .. }
                | Command::CallEngine { .. }
                | Command::RecordWake { .. } => None,
            })
            .collect()
    }
}

fn freezes_after_a_minute() -> SleepPolicy {
    SleepPolicy::from_seconds(60, 0, 0, false)
}

#[test]
fn a_thousand_who_ask_at_once_are_one_start() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    (0..1_000).for_each(|id| scenario.request_lease(1, id, true));
    let (call, call_id) = scenario.engine_call();
    assert_eq!(call, EngineCall::Start);
    assert!(scenario.core.begin_call(scenario.now.plus(7), 1, call_id));
    scenario.core.on_call_finished(
        scenario.now.plus(300),
        1,
        call_id,
        CallOutcome::Done,
        Phase::Starting,
    );
    scenario.core.on_phase_observed(scenario.now.plus(320), 1, Phase::Ready);
    let commands = scenario.commands();
    let timings = WakeTimings {
        ready_at: scenario.now.plus(320),
        from: Phase::Sleeping,
        total: 320,
        queue: 7,
        engine: 293,
        boot: 20,
    };
    assert_eq!(commands[0], Command::RecordWake { tenant: 1, timings });
    assert_eq!(commands.len(), 1_001);
    let granted = LeaseResponse::Granted(Grant { expires_in: LEASE, linger: 10_000, woke: true });
    assert!(
        commands[1..]
            .iter()
            .all(|c| matches!(c, Command::Respond { response, .. } if *response == granted))
    );
}

#[test]
fn whoever_asks_beyond_a_bound_is_told_so_with_another_seed_each_time() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    for tenant in 2..=5 {
        scenario.core.add_tenant(
            scenario.now,
            tenant,
            Phase::Sleeping,
            SleepPolicy::default(),
            START,
        );
    }
    (1..=3).for_each(|tenant| scenario.request_lease(tenant, tenant.into(), true));
    scenario.commands();
    let place = scenario.core.wake_progress(scenario.now, 3);
    assert_eq!(place, Some(WakeProgress::Queued { queue_position: 1, elapsed: 0 }));
    scenario.request_lease(4, 4, true);
    scenario.request_lease(5, 5, true);
    assert_eq!(
        scenario.responses(),
        [LeaseResponse::QueueFull { seed: 1 }, LeaseResponse::QueueFull { seed: 2 }]
    );
}

#[test]
fn a_wake_that_waits_for_its_tenants_turn_takes_nobodys_place() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    scenario.core.add_tenant(scenario.now, 2, Phase::Sleeping, SleepPolicy::default(), START);
    scenario.request_lease(1, 1, true);
    let (_, first) = scenario.engine_call();
    scenario.request_lease(2, 2, true);
    assert_eq!(scenario.commands(), []);
    scenario.core.defer_call(scenario.now, 1, first);
    let (_, second) = scenario.engine_call();
    assert!(
        scenario.core.begin_call(scenario.now, 2, second)
            && scenario.core.begin_call(scenario.now, 1, first)
    );
    scenario.core.on_call_finished(scenario.now, 1, first, CallOutcome::Done, Phase::Ready);
    assert!(matches!(scenario.responses()[..], [LeaseResponse::Granted(_)]));
}

#[test]
fn who_wakes_it_depends_on_its_depth_and_policy() {
    let any = SleepPolicy { wake_on_any: true, ..SleepPolicy::default() };
    let table = [
        (Phase::Sleeping, SleepPolicy::default(), false, vec![LeaseResponse::WakeRequired]),
        (Phase::Sleeping, SleepPolicy::default(), true, vec![]),
        (Phase::Sleeping, any, false, vec![]),
        (Phase::Frozen, SleepPolicy::default(), false, vec![]),
        (Phase::Stopped, any, true, vec![LeaseResponse::Stopped]),
        (Phase::Exited, any, true, vec![LeaseResponse::NotRunning]),
        (Phase::Starting, any, true, vec![LeaseResponse::NotRunning]),
    ];
    for (phase, policy, is_visit, responses) in table {
        let mut scenario = Scenario::new(phase, policy);
        scenario.request_lease(1, 1, is_visit);
        assert_eq!(scenario.responses(), responses, "{phase:?} {policy:?} {is_visit}");
    }
    let mut scenario = Scenario::new(Phase::Sleeping, any);
    scenario.request_lease(9, 1, true);
    assert_eq!(scenario.responses(), [LeaseResponse::Unknown]);
}

#[test]
fn an_ask_before_the_recheck_keeps_it_awake_and_a_late_begin_comes_to_nothing() {
    let mut scenario = Scenario::new(Phase::Ready, freezes_after_a_minute());
    scenario.advance(60_000);
    let generation = scenario.busy_query();
    scenario.core.on_busy_report(scenario.now, 1, generation, BusyReport::NotBusy);
    let (call, call_id) = scenario.engine_call();
    assert_eq!(call, EngineCall::Freeze);
    scenario.request_lease(1, 1, false);
    assert!(matches!(
        scenario.responses()[..],
        [LeaseResponse::Granted(Grant { woke: false, .. })]
    ));
    assert!(!scenario.core.begin_call(scenario.now, 1, call_id));
}

#[test]
fn an_ask_after_the_recheck_waits_for_the_freeze_and_the_thaw() {
    let mut scenario = Scenario::new(Phase::Ready, freezes_after_a_minute());
    scenario.advance(60_000);
    let generation = scenario.busy_query();
    scenario.core.on_busy_report(scenario.now, 1, generation, BusyReport::NoReply);
    let (_, freeze) = scenario.engine_call();
    assert!(scenario.core.begin_call(scenario.now, 1, freeze));
    scenario.request_lease(1, 1, false);
    assert_eq!(scenario.responses(), []);
    scenario.core.on_call_finished(scenario.now, 1, freeze, CallOutcome::Done, Phase::Frozen);
    let sleep = scenario.core.sleep_state(1).and_then(|state| state.last_sleep()).unwrap();
    assert_eq!((sleep.phase, sleep.busy_report), (Phase::Frozen, BusyReport::NoReply));
    let (call, thaw) = scenario.engine_call();
    assert_eq!(call, EngineCall::Thaw);
    assert!(scenario.core.begin_call(scenario.now, 1, thaw));
    scenario.core.on_call_finished(scenario.now, 1, thaw, CallOutcome::Done, Phase::Ready);
    assert!(matches!(scenario.responses()[..], [LeaseResponse::Granted(Grant { woke: true, .. })]));
}

#[test]
fn an_ask_during_the_thaw_before_a_stop_is_served_without_the_stop() {
    let mut scenario = Scenario::new(Phase::Frozen, SleepPolicy::from_seconds(60, 120, 0, false));
    scenario.advance(120_000);
    let (call, call_id) = scenario.engine_call();
    assert_eq!(call, EngineCall::ThawThenStop);
    assert!(scenario.core.begin_call(scenario.now, 1, call_id));
    assert!(scenario.core.sleep_state(1).unwrap().is_still_unused());
    scenario.request_lease(1, 1, true);
    assert!(!scenario.core.sleep_state(1).unwrap().is_still_unused());
    assert!(!scenario.core.continue_after_thaw(scenario.now, 1, BusyReport::NotBusy));
    scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Done, Phase::Ready);
    assert!(matches!(scenario.responses()[..], [LeaseResponse::Granted(_)]));
}

#[test]
fn work_that_was_declared_right_before_the_freeze_is_met_by_the_question_after_the_thaw() {
    let mut scenario = Scenario::new(Phase::Frozen, SleepPolicy::from_seconds(60, 120, 0, false));
    scenario.advance(120_000);
    let (_, call_id) = scenario.engine_call();
    assert!(scenario.core.begin_call(scenario.now, 1, call_id));
    let until = scenario.now.plus(900_000);
    assert!(!scenario.core.continue_after_thaw(scenario.now, 1, BusyReport::Busy { until }));
    scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Done, Phase::Ready);
    let state = scenario.core.sleep_state(1).unwrap();
    assert_eq!(
        state.awake_reasons(scenario.now),
        [AwakeReason::Busy { since: scenario.now, until }]
    );
    scenario.advance(60_000);
    let generation = scenario.busy_query();
    scenario.core.on_busy_report(scenario.now, 1, generation, BusyReport::NotBusy);
    assert_eq!(scenario.engine_call().0, EngineCall::Freeze);
}

/// Answers every busy query with busy until the tenant is suspended. Returns the engine call.
fn sleeps_however_busy(scenario: &mut Scenario) -> (EngineCall, CallId) {
    loop {
        let commands = scenario.commands();
        match commands[..] {
            [] => scenario.advance(1_000),
            [Command::QueryBusy { generation, .. }] => {
                let until = scenario.now.plus(900_000);
                scenario.core.on_busy_report(
                    scenario.now,
                    1,
                    generation,
                    BusyReport::Busy { until },
                );
            }
            [Command::CallEngine { call, call_id, .. }] => return (call, call_id),
            _ => panic!("{commands:?}"),
        }
    }
}

#[test]
fn a_visit_now_and_then_gives_busy_work_no_more_time() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::from_seconds(60, 0, 600, false));
    for minute in 0..10 {
        scenario.advance(60_000);
        if let [Command::QueryBusy { generation, .. }] = scenario.commands()[..] {
            let until = scenario.now.plus(900_000);
            scenario.core.on_busy_report(scenario.now, 1, generation, BusyReport::Busy { until });
        }
        if [1, 5].contains(&minute) {
            scenario.advance(1_000);
            scenario.request_lease(1, minute, false);
            scenario.commands();
            let used = HolderUsage { number: minute.into(), ..HolderUsage::default() };
            scenario.core.release_lease(scenario.now, 1, 1, used);
            let state = scenario.core.sleep_state(1).unwrap();
            assert_eq!(state.freezes_at(scenario.now), Some(scenario.now.plus(60_000)));
        }
    }
    let (call, _) = sleeps_however_busy(&mut scenario);
    // The first busy report comes after the lease duration (15 s) and 60 s of idle time; the busy
    // limit is 600 s.
    assert_eq!((call, scenario.now.since(START)), (EngineCall::Freeze, 75_000 + 600_000));
}

#[test]
fn what_was_frozen_for_being_busy_too_long_is_stopped_without_more_time_and_a_visit_gives_it_some()
{
    for visited in [false, true] {
        let mut scenario =
            Scenario::new(Phase::Ready, SleepPolicy::from_seconds(60, 1_200, 600, false));
        let (call, call_id) = sleeps_however_busy(&mut scenario);
        assert_eq!(call, EngineCall::Freeze);
        assert!(scenario.core.begin_call(scenario.now, 1, call_id));
        if visited {
            scenario.request_lease(1, 1, true);
        }
        scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Done, Phase::Frozen);
        let (call, call_id) = sleeps_however_busy(&mut scenario);
        assert!(scenario.core.begin_call(scenario.now, 1, call_id));
        if visited {
            assert_eq!(call, EngineCall::Thaw);
            scenario.core.on_call_finished(
                scenario.now,
                1,
                call_id,
                CallOutcome::Done,
                Phase::Ready,
            );
            scenario.commands();
            let thawed = scenario.now;
            let used = HolderUsage { number: 1, ..HolderUsage::default() };
            scenario.core.release_lease(scenario.now, 1, 1, used);
            sleeps_however_busy(&mut scenario);
            assert!(scenario.now.since(thawed) >= 600_000);
        } else {
            assert_eq!(call, EngineCall::ThawThenStop);
            let until = scenario.now.plus(900_000);
            assert!(scenario.core.continue_after_thaw(scenario.now, 1, BusyReport::Busy { until }));
            scenario.core.on_call_finished(
                scenario.now,
                1,
                call_id,
                CallOutcome::Done,
                Phase::Sleeping,
            );
            let sleep = scenario.core.sleep_state(1).unwrap().last_sleep().unwrap();
            assert!(matches!(sleep.busy_report, BusyReport::BusyTooLong { .. }), "{sleep:?}");
        }
    }
}

#[test]
fn work_inside_keeps_it_awake_as_long_as_its_owner_allows() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::from_seconds(60, 0, 150, false));
    let mut asked = 0;
    let (call, _) = loop {
        scenario.advance(1_000);
        let commands = scenario.commands();
        match commands[..] {
            [] => {}
            [Command::QueryBusy { generation, .. }] => {
                asked += 1;
                let until = scenario.now.plus(900_000);
                scenario.core.on_busy_report(
                    scenario.now,
                    1,
                    generation,
                    BusyReport::Busy { until },
                );
                if asked < 4 {
                    let state = scenario.core.sleep_state(1).unwrap();
                    assert!(matches!(
                        state.awake_reasons(scenario.now)[..],
                        [AwakeReason::Busy { .. }]
                    ));
                    assert_eq!(state.freezes_at(scenario.now), None);
                } else {
                    break scenario.engine_call();
                }
            }
            _ => panic!("{commands:?}"),
        }
    };
    // The tenant is idle since 0 and queried at 60, 120 and 180 s. From 60 s on, work kept the
    // tenant awake for 150 s.
    assert_eq!((call, scenario.now.since(START)), (EngineCall::Freeze, 210_000));
}

#[test]
fn a_tenant_in_use_says_so_and_one_that_is_idle_says_when_it_freezes() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::from_seconds(60, 1_200, 0, false));
    scenario.request_lease(1, 1, true);
    let used = HolderUsage { number: 1, idle: 0, requests: 2, streams: 1 };
    assert_eq!(scenario.core.renew_lease(scenario.now, 1, 1, used), Some(LEASE));
    let state = scenario.core.sleep_state(1).unwrap();
    let until = scenario.now.plus(LEASE);
    let reasons = state.awake_reasons(scenario.now);
    assert_eq!(reasons, [AwakeReason::Leased { holders: 1, requests: 2, streams: 1, until }]);
    assert_eq!((state.freezes_at(scenario.now), state.sleeps_at(scenario.now)), (None, None));
    scenario.core.release_lease(scenario.now, 1, 1, HolderUsage { idle: 500, ..used });
    let state = scenario.core.sleep_state(1).unwrap();
    let used = scenario.now;
    assert_eq!(state.freezes_at(scenario.now), Some(used.plus(60_000)));
    assert_eq!(state.sleeps_at(scenario.now), Some(used.plus(1_200_000)));
}

#[test]
fn a_failed_wake_tells_all_who_wait_and_the_next_ask_tries_again() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    scenario.request_lease(1, 1, true);
    scenario.request_lease(1, 2, false);
    let (_, call_id) = scenario.engine_call();
    assert!(scenario.core.begin_call(scenario.now, 1, call_id));
    scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Refused, Phase::Sleeping);
    assert_eq!(scenario.responses(), [LeaseResponse::Failed(WakeError::EngineRefused); 2]);
    scenario.request_lease(1, 3, true);
    let (_, call_id) = scenario.engine_call();
    assert!(scenario.core.begin_call(scenario.now, 1, call_id));
    scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Done, Phase::Starting);
    scenario.advance(30_000);
    assert_eq!(scenario.responses(), [LeaseResponse::Failed(WakeError::ReadinessTimeout)]);
}

#[test]
fn a_start_of_before_the_keepers_own_is_waited_for() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    let limits = scenario.core.settings.limits;
    scenario.core = Authority::new(
        scenario.now,
        AuthoritySettings { lease_duration: LEASE, retry_delay: 5_000, limits },
    );
    scenario.core.add_tenant(
        scenario.now,
        1,
        Phase::Starting,
        SleepPolicy::default(),
        scenario.now,
    );
    scenario.request_lease(1, 1, true);
    assert_eq!(scenario.commands(), []);
    scenario.core.on_phase_observed(scenario.now, 1, Phase::Ready);
    assert!(matches!(scenario.responses()[..], [LeaseResponse::Granted(Grant { woke: true, .. })]));
}

#[test]
fn that_one_which_was_found_running_answers_is_no_use_of_it() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    let used = scenario.now.minus(5_000);
    for (tenant, phase, last) in [(2, Phase::Starting, used), (3, Phase::Exited, scenario.now)] {
        scenario.core.add_tenant(scenario.now, tenant, phase, freezes_after_a_minute(), used);
        scenario.core.on_phase_observed(scenario.now, tenant, Phase::Starting);
        scenario.core.on_phase_observed(scenario.now, tenant, Phase::Ready);
        let state = scenario.core.sleep_state(tenant).unwrap();
        assert_eq!(state.last_use(), last, "{phase:?}");
    }
}

#[test]
fn an_engine_that_refuses_gives_busy_work_no_more_time() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::from_seconds(60, 0, 100, false));
    let until = scenario.now.plus(900_000);
    scenario.advance(60_000);
    let generation = scenario.busy_query();
    scenario.core.on_busy_report(scenario.now, 1, generation, BusyReport::Busy { until });
    scenario.advance(100_000);
    for _ in 0..2 {
        let generation = scenario.busy_query();
        scenario.core.on_busy_report(scenario.now, 1, generation, BusyReport::Busy { until });
        let (_, call_id) = scenario.engine_call();
        assert!(scenario.core.begin_call(scenario.now, 1, call_id));
        scenario.core.on_call_finished(
            scenario.now,
            1,
            call_id,
            CallOutcome::Refused,
            Phase::Ready,
        );
        scenario.advance(5_000);
    }
}

#[test]
fn what_was_refused_on_the_way_up_keeps_nothing_awake_once_it_is_up() {
    let mut scenario = Scenario::new(Phase::Sleeping, freezes_after_a_minute());
    scenario.request_lease(1, 1, true);
    let (_, call_id) = scenario.engine_call();
    assert!(scenario.core.begin_call(scenario.now, 1, call_id));
    scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Refused, Phase::Sleeping);
    scenario.request_lease(1, 2, true);
    scenario.commands();
    scenario.core.on_phase_observed(scenario.now, 1, Phase::Ready);
    let reasons = scenario.core.sleep_state(1).unwrap().awake_reasons(scenario.now);
    assert!(matches!(reasons[..], [AwakeReason::Leased { .. }]), "{reasons:?}");
}

#[test]
fn one_that_somebody_else_froze_under_a_live_lease_is_thawed() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::default());
    scenario.request_lease(1, 1, true);
    scenario.commands();
    scenario.core.on_phase_observed(scenario.now, 1, Phase::Frozen);
    assert_eq!(scenario.engine_call().0, EngineCall::Thaw);
}

#[test]
fn the_owners_stop_answers_whoever_waits_and_nothing_wakes_it() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    scenario.request_lease(1, 1, true);
    let (_, call_id) = scenario.engine_call();
    scenario.core.set_owner_intent(scenario.now, 1, false);
    assert_eq!(scenario.responses(), [LeaseResponse::Stopped]);
    assert!(!scenario.core.begin_call(scenario.now, 1, call_id));
    scenario.core.on_phase_observed(scenario.now, 1, Phase::Stopped);
    scenario.request_lease(1, 2, true);
    assert_eq!(scenario.responses(), [LeaseResponse::Stopped]);
}

#[test]
fn a_grant_that_a_release_has_overtaken_is_no_lease() {
    let mut holder = Holder::default();
    let terms = LeaseTerms { expires_in: LEASE, linger: 10_000 };
    let (first, second) = (holder.begin_request(START), holder.begin_request(START));
    assert!(holder.on_granted(second, terms) && holder.may_send(START));
    assert_eq!(holder.begin_release(), Some(second.number));
    assert!(!holder.on_granted(first, terms) && !holder.may_send(START));
}

#[test]
fn an_older_release_does_not_end_a_lease_that_was_renewed_under_a_newer_number() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::default());
    scenario.request_lease(1, 1, false);
    let used = |number| HolderUsage { number, ..HolderUsage::default() };
    assert_eq!(scenario.core.renew_lease(scenario.now, 1, 1, used(2)), Some(LEASE));
    scenario.core.release_lease(scenario.now, 1, 1, used(1));
    assert!(scenario.core.sleep_state(1).unwrap().has_lease(scenario.now));
    scenario.core.release_lease(scenario.now, 1, 1, used(2));
    assert!(!scenario.core.sleep_state(1).unwrap().has_lease(scenario.now));
}

/// The holder's side of one router, with tenant 1 in use or not.
struct RouterScenario {
    core: LeaseManager<u8, u8>,
    now: Moment,
}

impl RouterScenario {
    fn new() -> Self {
        let settings = ManagerSettings { waiters_per_tenant: 2, outage_grace: 10_000 };
        Self { core: LeaseManager::new(settings), now: START }
    }

    fn request(&mut self, waiter: u8, is_running: bool) -> Vec<ManagerCommand<u8, u8>> {
        let intent = RequestIntent::Visit;
        let waiter = Some(waiter);
        let request = TenantRequest { intent, is_running, retries_failure: false, waiter };
        self.core.request_tenant(self.now, 1, request);
        self.commands()
    }

    fn finish(&mut self, call: LeaseCall, outcome: RequestOutcome) -> Vec<ManagerCommand<u8, u8>> {
        self.core.on_request_finished(self.now, 1, call, outcome);
        self.commands()
    }

    fn tick_after(&mut self, time: Millis) -> Vec<ManagerCommand<u8, u8>> {
        self.now = self.now.plus(time);
        self.core.tick(self.now, |_| CurrentUsage::default());
        self.commands()
    }

    fn commands(&mut self) -> Vec<ManagerCommand<u8, u8>> {
        let all = std::iter::from_fn(|| self.core.next_command());
        all.filter(|command| !matches!(command, ManagerCommand::SetQueuePosition { .. })).collect()
    }
}

fn sent(commands: &[ManagerCommand<u8, u8>]) -> LeaseCall {
    match commands {
        [ManagerCommand::SendRequest { call, .. }] => *call,
        _ => panic!("{commands:?}"),
    }
}

#[test]
fn requests_for_one_tenant_share_one_lease_request_up_to_a_bound() {
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    assert_eq!(router.request(2, false), []);
    let error = LeaseError::RouterQueueFull;
    assert_eq!(router.request(3, false), [ManagerCommand::Refuse { waiter: 3, error }]);
    let terms = LeaseTerms { expires_in: LEASE, linger: 10_000 };
    let served = router.finish(call, RequestOutcome::Granted { terms, woke: true });
    let valid_until = router.core.valid_until(1);
    assert_eq!(
        served,
        [
            ManagerCommand::AdoptGrant { tenant: 1, valid_until, woke: true, is_awaited: true },
            ManagerCommand::ServeLeased { tenant: 1, waiter: 1 },
            ManagerCommand::ServeLeased { tenant: 1, waiter: 2 },
        ]
    );
    let leased = ManagerCommand::ServeLeased { tenant: 1, waiter: 4 };
    assert_eq!(router.request(4, false), [leased]);
}

#[test]
fn a_failed_wake_is_reused_until_its_time_is_over_or_the_tenant_runs() {
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    let error = LeaseError::WakeFailed("no image".into());
    let refused = |waiter| [ManagerCommand::Refuse { waiter, error: error.clone() }];
    assert_eq!(router.finish(call, RequestOutcome::Refused(error.clone())), refused(1));
    router.tick_after(9_999);
    assert_eq!(router.request(2, false), refused(2));
    sent(&router.request(3, true));
    let mut later = router;
    later.core.remove_waiter(1, 3);
    later.now = later.now.plus(1);
    assert_eq!(later.request(4, false), [], "the request of waiter 3 is in flight");
}

#[test]
fn an_outage_serves_running_tenants_unleased_and_retries_for_the_others() {
    let away = RequestOutcome::CallFailed(CallHealth::NoAnswer);
    let status = ManagerCommand::SetStatus(OrchestratorStatus::Away);
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, true));
    let unleased = ManagerCommand::ServeUnleased { tenant: 1, waiter: 1 };
    assert_eq!(router.finish(call, away.clone()), [status.clone(), unleased]);

    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    assert_eq!(router.finish(call, away.clone()), [status]);
    assert_eq!(router.tick_after(999), []);
    let call = sent(&router.tick_after(1));
    router.finish(call, away);
    router.now = router.now.plus(10_000);
    let error = LeaseError::OrchestratorUnavailable;
    let refused = router.request(2, false);
    assert_eq!(refused[0], ManagerCommand::Refuse { waiter: 2, error }, "longer than a restart");
}

#[test]
fn a_call_that_fails_for_want_of_resources_is_no_outage() {
    let local = RequestOutcome::CallFailed(CallHealth::OutOfResources);
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, true));
    let error = LeaseError::OutOfResources;
    assert_eq!(router.finish(call, local), [ManagerCommand::Refuse { waiter: 1, error }]);
    router.core.on_probe_finished(router.now, CallHealth::OutOfResources);
    router.core.on_call_health(router.now, CallHealth::OutOfResources);
    assert_eq!(router.core.status(), OrchestratorStatus::Reachable);
    sent(&router.request(2, true));
}
