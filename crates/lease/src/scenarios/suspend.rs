//! Suspends: idle time, busy reports, and requests that come in between.

use super::{LEASE, START, Scenario, freezes_after_a_minute};
use crate::authority::command::{CallId, CallOutcome, Command, EngineCall, Grant, LeaseResponse};
use crate::authority::reason::{AwakeReason, BusyReport};
use crate::authority::sleep_state::{HolderUsage, SleepPolicy};
use protocol::orchestrator::Phase;

#[test]
fn a_request_before_the_recheck_keeps_the_tenant_awake_and_voids_the_call() {
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
fn a_void_call_does_not_begin_a_later_decision() {
    let mut scenario = Scenario::new(Phase::Ready, freezes_after_a_minute());
    let decide = |scenario: &mut Scenario| {
        scenario.advance(75_000);
        let generation = scenario.busy_query();
        scenario.core.on_busy_report(scenario.now, 1, generation, BusyReport::NotBusy);
        scenario.engine_call().1
    };
    let first = decide(&mut scenario);
    scenario.request_lease(1, 1, false);
    scenario.commands();
    let second = decide(&mut scenario);
    assert!(!scenario.core.begin_call(scenario.now, 1, first));
    assert!(scenario.core.begin_call(scenario.now, 1, second));
}

#[test]
fn a_stop_that_the_engine_refuses_is_no_sleep() {
    let mut scenario = Scenario::new(Phase::Frozen, SleepPolicy::from_seconds(60, 120, 0, false));
    scenario.advance(120_000);
    let (_, call_id) = scenario.engine_call();
    assert!(scenario.core.begin_call(scenario.now, 1, call_id));
    scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Refused, Phase::Frozen);
    assert_eq!(scenario.core.sleep_state(1).unwrap().last_sleep(), None);
}

#[test]
fn a_request_after_the_recheck_waits_for_the_freeze_and_the_thaw() {
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
fn a_request_during_the_thaw_before_a_stop_is_served_without_the_stop() {
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
    assert_eq!(scenario.core.sleep_state(1).unwrap().last_sleep(), None, "it did not sleep");
}

#[test]
fn work_that_was_declared_right_before_the_freeze_is_reported_after_the_thaw() {
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
fn answer_busy_until_suspended(scenario: &mut Scenario) -> (EngineCall, CallId) {
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
fn an_occasional_visit_gives_busy_work_no_more_time() {
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
    let (call, _) = answer_busy_until_suspended(&mut scenario);
    // The first busy report comes after the lease duration (15 s) and 60 s of idle time; the busy
    // limit is 600 s.
    assert_eq!((call, scenario.now.since(START)), (EngineCall::Freeze, 75_000 + 600_000));
}

#[test]
fn a_tenant_frozen_for_being_busy_too_long_is_stopped_without_more_time_unless_visited() {
    for visited in [false, true] {
        let mut scenario =
            Scenario::new(Phase::Ready, SleepPolicy::from_seconds(60, 1_200, 600, false));
        let (call, call_id) = answer_busy_until_suspended(&mut scenario);
        assert_eq!(call, EngineCall::Freeze);
        assert!(scenario.core.begin_call(scenario.now, 1, call_id));
        if visited {
            scenario.request_lease(1, 1, true);
        }
        scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Done, Phase::Frozen);
        let (call, call_id) = answer_busy_until_suspended(&mut scenario);
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
            answer_busy_until_suspended(&mut scenario);
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
fn work_inside_keeps_a_tenant_awake_as_long_as_its_policy_allows() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::from_seconds(60, 0, 150, false));
    let mut queries = 0;
    let (call, _) = loop {
        scenario.advance(1_000);
        let commands = scenario.commands();
        match commands[..] {
            [] => {}
            [Command::QueryBusy { generation, .. }] => {
                queries += 1;
                let until = scenario.now.plus(900_000);
                scenario.core.on_busy_report(
                    scenario.now,
                    1,
                    generation,
                    BusyReport::Busy { until },
                );
                if queries < 4 {
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
fn a_tenant_in_use_reports_why_it_is_awake_and_an_idle_one_when_it_freezes() {
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
fn readiness_of_a_tenant_that_was_found_starting_is_no_use() {
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
