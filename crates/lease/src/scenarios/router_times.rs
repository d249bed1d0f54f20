//! The holder's side of one router: when calls are due, and for how long refusals are reused.

use super::router::{RouterScenario, TERMS, sent};
use super::{LEASE, START};
use crate::holder::command::{
    CurrentUsage, ManagerCommand, RequestOutcome, RouteStatus, TenantRequest,
};
use crate::holder::error::LeaseError;
use crate::holder::outage::{CallHealth, OrchestratorStatus};
use crate::time::Moment;
use protocol::leases::RequestIntent;

const GRANTED: RequestOutcome = RequestOutcome::Granted { terms: TERMS, woke: false };
const UNREACHABLE: RequestOutcome = RequestOutcome::CallFailed(CallHealth::NoResponse);

fn refused(waiter: u8, error: LeaseError) -> Vec<ManagerCommand<u8, u8>> {
    vec![ManagerCommand::Refuse { waiter, error }]
}

/// A router whose tenant is leased since `START`.
fn leased() -> RouterScenario {
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, true));
    router.finish(call, GRANTED);
    router
}

#[test]
fn a_lease_ends_for_its_holder_a_sixtieth_early() {
    let router = leased();
    let end = START.plus(LEASE - LEASE / 60);
    assert_eq!(router.core.valid_until(1), end);
    assert_eq!(router.core.live_leases(end.minus(1)), 1);
    assert_eq!(router.core.live_leases(end), 0);
    assert_eq!(router.core.tenants().collect::<Vec<_>>(), [1]);
}

#[test]
fn a_lease_in_use_is_renewed_after_a_third_and_an_unused_one_released_after_its_linger() {
    let mut router = leased();
    assert_eq!(router.core.next_deadline(), Some(START.plus(20)));
    let used = CurrentUsage { in_use: true, last_used: START };
    assert_eq!(router.tick_with(20, used), []);
    assert_eq!(router.core.next_deadline(), Some(START.plus(1_020)), "no event ends the use");
    assert_eq!(router.tick_with(4_979, used), []);
    assert_eq!(router.core.next_deadline(), Some(START.plus(5_019)), "at least 20 ms later");
    let [ManagerCommand::SendRenewal { tenant: 1, call }] = router.tick_with(1, used)[..] else {
        panic!("not renewed after 5 s")
    };
    assert_eq!(router.tick_with(999, used), [], "the next attempt comes after a fifteenth");
    let renewals = router.tick_with(1, used);
    assert!(matches!(renewals[..], [ManagerCommand::SendRenewal { .. }]), "{renewals:?}");
    router.core.on_renewed(router.now, 1, call, Some(LEASE));
    let valid_until = START.plus(5_000 + LEASE - LEASE / 60);
    assert_eq!(router.commands(), [ManagerCommand::Publish { tenant: 1, valid_until }]);

    // The use ended before the renewal was sent.
    let unused = CurrentUsage { in_use: false, last_used: START.plus(4_990) };
    assert_eq!(router.tick_with(0, unused), []);
    assert_eq!(router.core.next_deadline(), Some(START.plus(15_000)));
    let release = ManagerCommand::Release { tenant: 1, last_used: unused.last_used };
    assert_eq!(router.tick_with(9_000, unused), [release]);
    assert_eq!(router.core.keep_lease(router.now, 1), valid_until);
    assert_eq!(router.core.next_deadline(), Some(router.now.plus(20)));
    assert_eq!(router.core.begin_release(router.now, 1), Some(call.number));
    assert_eq!(router.core.begin_release(router.now, 1), None);
    assert_eq!(router.core.valid_until(1), Moment(0));
}

#[test]
fn a_tenant_in_use_without_a_lease_is_requested_once_a_second() {
    let mut router = leased();
    router.core.discard_lease(1);
    assert_eq!(router.core.valid_until(1), Moment(0));
    let used = CurrentUsage { in_use: true, last_used: START };
    assert_eq!(router.tick_with(999, used), []);
    let requests = router.tick_with(1, used);
    let intent = RequestIntent::Background;
    assert!(matches!(requests[..], [ManagerCommand::SendRequest { intent: i, .. }] if i == intent));
    assert_eq!(router.tick_with(999, used), [], "one request is in flight");
}

#[test]
fn a_sleeping_tenant_is_not_requested_again_for_a_second_but_for_a_visit() {
    let mut router = RouterScenario::new();
    let background = RequestIntent::Background;
    let call = sent(&router.request_as(1, background, RouteStatus::NotRunning));
    // A visit that joins the request of another intent gets a request of its own.
    assert_eq!(router.request(2, false), []);
    let commands = router.finish(call, RequestOutcome::Refused(LeaseError::WakeRequired));
    assert_eq!(commands[..1], refused(1, LeaseError::WakeRequired));
    let visit = sent(&commands[1..]);
    router.finish(visit, RequestOutcome::Refused(LeaseError::Stopped));
    router.now = START.plus(999);
    let again = router.request_as(3, background, RouteStatus::NotRunning);
    assert_eq!(again, refused(3, LeaseError::WakeRequired));
    router.now = START.plus(1_000);
    sent(&router.request_as(4, background, RouteStatus::NotRunning));
}

#[test]
fn a_tenant_that_does_not_run_is_not_requested_for_a_second_or_until_its_route_changes() {
    for changes in [false, true] {
        let mut router = RouterScenario::new();
        let call = sent(&router.request(1, false));
        let not_running = LeaseError::NotRunning;
        let commands = router.finish(call, RequestOutcome::Refused(not_running.clone()));
        assert_eq!(commands, refused(1, not_running.clone()));
        router.now = START.plus(999);
        assert_eq!(router.request(2, false), refused(2, not_running));
        match changes {
            true => router.core.on_route_changed(router.now, 1, RouteStatus::NotRunning),
            false => router.now = START.plus(1_000),
        }
        sent(&router.request(3, false));
    }
}

#[test]
fn a_failed_wake_is_reused_for_ten_seconds_unless_a_visitor_retries() {
    let error = LeaseError::WakeFailed("no image".into());
    for retries_failure in [false, true] {
        let mut router = RouterScenario::new();
        let call = sent(&router.request(1, false));
        router.finish(call, RequestOutcome::Refused(error.clone()));
        router.now = START.plus(9_999);
        assert_eq!(router.request(2, false), refused(2, error.clone()));
        if retries_failure {
            let (intent, route) = (RequestIntent::Visit, RouteStatus::NotRunning);
            let retry = TenantRequest { intent, route, retries_failure, waiter: None };
            router.core.request_tenant(router.now, 1, retry);
            sent(&router.commands());
        } else {
            router.now = START.plus(10_000);
            sent(&router.request(3, false));
        }
    }
}

#[test]
fn a_request_that_waited_for_long_is_repeated_for_the_waiters_that_remain() {
    let waking = LeaseError::Waking { queue_position: Some(3) };
    for (waited, is_repeated) in [(4_999, false), (5_000, true)] {
        let mut router = RouterScenario::new();
        let call = sent(&router.request(1, false));
        router.now = START.plus(waited);
        router.core.on_request_finished(
            router.now,
            1,
            call,
            RequestOutcome::Refused(waking.clone()),
        );
        let commands: Vec<_> = std::iter::from_fn(|| router.core.next_command()).collect();
        let position =
            |queue_position| ManagerCommand::SetQueuePosition { tenant: 1, queue_position };
        assert_eq!(commands[..2], [position(None), position(Some(3))]);
        match is_repeated {
            true => assert!(sent(&commands[2..]).number > call.number),
            false => assert_eq!(commands[2..], refused(1, waking.clone())),
        }
    }
}

#[test]
fn a_silent_orchestrator_is_probed_once_a_second_while_a_request_waits() {
    let mut router = RouterScenario::new();
    sent(&router.request(1, false));
    assert_eq!(router.core.next_deadline(), Some(START.plus(1_000)));
    assert_eq!(router.tick_after(999), []);
    assert_eq!(router.tick_after(1), [ManagerCommand::SendProbe]);
    assert_eq!(router.tick_after(5_000), [], "one probe is in flight");
    router.core.on_probe_finished(router.now, CallHealth::Responded);
    assert_eq!(router.core.next_deadline(), Some(router.now.plus(1_000)));
    assert_eq!(router.tick_after(999), []);
    assert_eq!(router.tick_after(1), [ManagerCommand::SendProbe]);
}

#[test]
fn four_tenants_a_tick_find_out_whether_the_orchestrator_is_back() {
    let mut router = RouterScenario::new();
    for tenant in 1..=6 {
        let (intent, route) = (RequestIntent::Visit, RouteStatus::NotRunning);
        let waiter = Some(tenant);
        let request = TenantRequest { intent, route, retries_failure: false, waiter };
        router.core.request_tenant(router.now, tenant, request);
    }
    for command in router.commands() {
        let ManagerCommand::SendRequest { tenant, call, .. } = command else { panic!() };
        router.core.on_request_finished(router.now, tenant, call, UNREACHABLE);
    }
    assert_eq!(router.commands(), [ManagerCommand::SetStatus(OrchestratorStatus::Unreachable)]);
    let requests = router.tick_after(1_000);
    assert_eq!(requests.len(), 4, "{requests:?}");
    assert_eq!(router.core.next_deadline(), Some(router.now.plus(100)), "slower while unreachable");
    let ManagerCommand::SendRequest { tenant, call, .. } = requests[0] else { panic!() };
    router.core.on_request_finished(router.now, tenant, call, GRANTED);
    let reachable = ManagerCommand::SetStatus(OrchestratorStatus::Reachable);
    assert_eq!(router.commands()[0], reachable);
    assert_eq!(router.core.next_deadline(), Some(router.now), "the others at once");
    assert_eq!(router.tick_after(0).len(), 2);
}

#[test]
fn after_a_long_outage_refused_requests_cause_one_call_a_second() {
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    router.finish(call, UNREACHABLE);
    router.core.remove_waiter(router.now, 1, 1);
    router.now = START.plus(10_000);
    let unavailable = |waiter| refused(waiter, LeaseError::OrchestratorUnavailable);
    let commands = router.request(2, false);
    assert_eq!(commands[..1], unavailable(2));
    let call = sent(&commands[1..]);
    assert_eq!(router.request(3, false), unavailable(3), "one request is in flight");
    router.core.on_request_finished(
        router.now,
        1,
        call,
        RequestOutcome::CallFailed(CallHealth::OutOfResources),
    );
    router.now = router.now.plus(999);
    assert_eq!(router.request(4, false), unavailable(4));
    router.now = router.now.plus(1);
    assert_eq!(router.request(5, false).len(), 2);
    // A tenant that runs is requested, and served once the call fails.
    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, true));
    router.finish(call, UNREACHABLE);
    router.now = START.plus(10_000);
    sent(&router.request(2, true));
}

#[test]
fn rejected_calls_are_a_status_of_their_own_that_any_answer_ends() {
    let mut router = leased();
    let rejects = CallHealth::Failed { rejects_calls: true };
    router.core.on_call_health(router.now, rejects);
    let status = |status| [ManagerCommand::SetStatus(status)];
    assert_eq!(router.commands(), status(OrchestratorStatus::RejectsCalls));
    router.core.on_call_health(router.now, CallHealth::Failed { rejects_calls: false });
    assert_eq!(router.commands(), []);
    router.core.on_call_health(router.now, CallHealth::Responded);
    assert_eq!(router.commands(), status(OrchestratorStatus::Reachable));
    router.core.on_call_health(router.now, CallHealth::NoResponse);
    assert_eq!(router.commands(), status(OrchestratorStatus::Unreachable));
    router.core.on_call_health(router.now, CallHealth::Failed { rejects_calls: false });
    assert_eq!(router.commands(), status(OrchestratorStatus::Reachable), "it answers");

    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, true));
    let commands = router.finish(call, RequestOutcome::CallFailed(rejects));
    assert_eq!(commands[1..], refused(1, LeaseError::OrchestratorUnavailable));
}

#[test]
fn an_unlisted_tenant_is_forgotten_once_nothing_needs_it() {
    let forget = [ManagerCommand::Forget { tenant: 1 }];
    let mut router = leased();
    router.core.on_route_changed(router.now, 1, RouteStatus::Unlisted);
    assert_eq!(router.commands(), [], "its lease is live");
    router.core.begin_release(router.now, 1);
    assert_eq!(router.commands(), forget);
    assert_eq!(router.core.tenants().count(), 0);

    let mut router = RouterScenario::new();
    let call = sent(&router.request(1, false));
    router.core.on_route_changed(router.now, 1, RouteStatus::Unlisted);
    assert_eq!(router.commands(), [], "a request waits");
    let commands = router.finish(call, RequestOutcome::UnknownRoute);
    assert_eq!(commands[..1], refused(1, LeaseError::NotRunning));
    assert_eq!(commands[1..], forget);

    let mut router = leased();
    router.core.on_route_changed(router.now, 1, RouteStatus::NotRunning);
    router.core.begin_release(router.now, 1);
    assert_eq!(router.commands(), [], "a listed tenant is kept");
}

#[test]
fn numbers_of_requests_grow_across_tenants_and_after_one_is_forgotten() {
    let mut router = RouterScenario::new();
    let first = sent(&router.request_as(1, RequestIntent::Visit, RouteStatus::Unlisted));
    let commands = router.finish(first, GRANTED);
    assert!(matches!(commands[..], [ManagerCommand::AdoptGrant { .. }, ..]));
    router.core.begin_release(router.now, 1);
    assert_eq!(router.commands(), [ManagerCommand::Forget { tenant: 1 }]);
    let second = sent(&router.request(2, true));
    assert!(second.number > first.number);
}

#[test]
fn every_refusal_has_a_code_of_its_own() {
    let position = None;
    let errors = [
        LeaseError::Stopped,
        LeaseError::NotRunning,
        LeaseError::WakeRequired,
        LeaseError::Waking { queue_position: position },
        LeaseError::WakeQueueFull { queue_position: position },
        LeaseError::WakeFailed("".into()),
        LeaseError::OrchestratorUnavailable,
        LeaseError::RouterQueueFull,
        LeaseError::OutOfResources,
    ];
    assert_eq!(
        errors.map(|error| error.code().as_str()),
        [
            "stopped",
            "not_running",
            "wake_required",
            "waking",
            "wake_queue_full",
            "wake_failed",
            "wake_unavailable",
            "too_many_waiting",
            "out_of_resources",
        ]
    );
}
