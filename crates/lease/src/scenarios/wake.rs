//! Wakes: who waits, who is refused, how a wake ends.

use super::{LEASE, START, Scenario, freezes_after_a_minute};
use crate::Authority;
use crate::authority::command::{
    AuthoritySettings, CallOutcome, Command, EngineCall, Grant, LeaseResponse, WakeError,
    WakeProgress,
};
use crate::authority::reason::AwakeReason;
use crate::authority::sleep_state::SleepPolicy;
use crate::authority::wake_queue::WakeTimings;
use protocol::orchestrator::Phase;

#[test]
fn a_thousand_requests_at_once_are_one_start() {
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
fn a_request_beyond_a_bound_is_refused_with_another_seed_each_time() {
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
fn a_wake_that_waits_for_its_tenants_lock_takes_no_slot() {
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
fn which_requests_wake_a_tenant_depends_on_its_phase_and_policy() {
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
fn a_failed_wake_refuses_all_waiters_and_the_next_request_tries_again() {
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
fn a_request_during_a_wake_shares_the_end_of_the_wake() {
    for phase in [Phase::Created, Phase::Exited, Phase::Stopped] {
        let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
        scenario.request_lease(1, 1, true);
        let (_, call_id) = scenario.engine_call();
        // Somebody replaces the container before the call begins.
        scenario.core.on_phase_observed(scenario.now, 1, phase);
        scenario.request_lease(1, 2, true);
        assert_eq!(scenario.responses(), [], "{phase:?}");
        assert!(!scenario.core.begin_call(scenario.now, 1, call_id));
        assert_eq!(scenario.responses(), [LeaseResponse::NotRunning; 2], "{phase:?}");
    }
}

#[test]
fn a_start_from_before_the_orchestrators_own_is_waited_for() {
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
fn a_refused_start_keeps_no_tenant_awake_once_it_is_ready() {
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
fn a_tenant_frozen_from_outside_under_a_live_lease_is_thawed() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::default());
    scenario.request_lease(1, 1, true);
    scenario.commands();
    scenario.core.on_phase_observed(scenario.now, 1, Phase::Frozen);
    assert_eq!(scenario.engine_call().0, EngineCall::Thaw);
}

#[test]
fn the_owners_stop_refuses_all_waiters_and_nothing_wakes_the_tenant() {
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
fn a_deleted_tenant_refuses_its_waiters_and_gives_its_slot_to_the_next() {
    let mut scenario = Scenario::new(Phase::Sleeping, SleepPolicy::default());
    let now = scenario.now;
    scenario.core.add_tenant(now, 2, Phase::Sleeping, SleepPolicy::default(), now);
    scenario.request_lease(1, 1, true);
    let (_, call_id) = scenario.engine_call();
    scenario.request_lease(2, 2, true);
    assert_eq!(scenario.commands(), [], "one start at a time");
    scenario.core.remove_tenant(1);
    let refused = Command::Respond { waiter: 1, response: LeaseResponse::Unknown };
    assert_eq!(scenario.commands(), [refused]);
    // The call of the removed tenant held the only slot; it is void when its turn comes.
    assert!(!scenario.core.begin_call(now, 1, call_id));
    assert_eq!(scenario.engine_call().0, EngineCall::Start);
    scenario.request_lease(1, 3, true);
    assert_eq!(scenario.responses(), [LeaseResponse::Unknown]);
}

#[test]
fn a_tenant_that_only_its_owner_starts_is_not_running() {
    for phase in [Phase::Created, Phase::Exited, Phase::Starting] {
        let mut scenario = Scenario::new(phase, SleepPolicy::default());
        scenario.commands();
        scenario.request_lease(1, 1, true);
        assert_eq!(scenario.responses(), [LeaseResponse::NotRunning], "{phase:?}");
    }
}

#[test]
fn a_refused_thaw_under_a_live_lease_is_tried_again_after_the_retry_delay() {
    let mut scenario = Scenario::new(Phase::Ready, SleepPolicy::default());
    scenario.request_lease(1, 1, true);
    scenario.commands();
    scenario.core.on_phase_observed(scenario.now, 1, Phase::Frozen);
    let (_, call_id) = scenario.engine_call();
    assert!(scenario.core.begin_call(scenario.now, 1, call_id));
    scenario.core.on_call_finished(scenario.now, 1, call_id, CallOutcome::Refused, Phase::Frozen);
    scenario.advance(4_999);
    assert_eq!(scenario.commands(), []);
    scenario.advance(1);
    assert_eq!(scenario.engine_call().0, EngineCall::Thaw);
}
