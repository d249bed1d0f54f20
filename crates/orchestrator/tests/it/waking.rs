//! Waking frozen and sleeping tenants. The tests use the engine in memory and virtual time.

use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::future::join_all;
use orchestrator::driver::memory::TenantBehavior;
use orchestrator::sleep::SleepSettings;
use orchestrator::tenants::state_dir::TargetState;
use protocol::leases::{RequestIntent, WakeStep};
use protocol::orchestrator::Phase;
use protocol::sleep::IdleState;
use protocol::spec::{Policy, WakeOn};

use crate::support::router::{Router, lease_error};
use crate::support::simulation::{
    SHORT_DELAYS, Simulation, frozen_tenant, ready_tenant, sleep_status, sleeping_tenant,
    with_policy,
};

#[tokio::test(start_paused = true)]
async fn concurrent_requests_thaw_a_frozen_tenant_once() {
    let (simulation, running, spec) = Simulation::with_frozen(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    let requests = (0..50).map(|_| router.request(spec.id, RequestIntent::Background, 1_000));
    let grants = join_all(requests).await;
    assert!(grants.iter().all(|grant| grant.as_ref().unwrap().woke));
    assert_eq!((simulation.count(spec.id, "thaw"), simulation.count(spec.id, "start")), (1, 1));
    let wake = sleep_status(&running, spec.id).last_wake.unwrap();
    assert_eq!((wake.from, wake.phases_ms.engine, wake.total_ms), (IdleState::Frozen, 100, 100));
}

#[tokio::test(start_paused = true)]
async fn the_phase_and_the_wake_that_led_to_it_are_published_together() {
    let (_simulation, running, spec) = Simulation::with_frozen(SHORT_DELAYS).await;
    let feed = running.controller.store.feed().unwrap().clone();
    let mut changes = feed.subscribe();
    let published = async {
        while feed.get(&spec.id).map(|observed| observed.phase) != Some(Phase::Ready) {
            changes.recv().await.unwrap();
        }
        sleep_status(&running, spec.id)
    };
    let router = Router::new(&running.controller);
    let (status, grant) = tokio::join!(published, router.visit(spec.id));
    assert!(grant.unwrap().woke);
    assert_eq!(status.phase, Some(Phase::Ready));
    assert_eq!(status.last_wake.map(|wake| wake.from), Some(IdleState::Frozen));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_responds_is_ready_before_the_thaw_call_returns() {
    let (simulation, running, spec) = Simulation::with_frozen(SHORT_DELAYS).await;
    let thawed_after = Some(Duration::from_millis(5));
    simulation
        .engine
        .set_behavior(spec.id, TenantBehavior { thawed_after, ..TenantBehavior::default() });
    let router = Router::new(&running.controller);
    assert!(router.visit(spec.id).await.unwrap().woke);
    assert_eq!(simulation.count(spec.id, "thaw"), 0, "the engine has not reported it yet");
    let wake = sleep_status(&running, spec.id).last_wake.unwrap();
    assert_eq!((wake.from, wake.phases_ms.engine, wake.total_ms), (IdleState::Frozen, 5, 5));
    // The stop takes less time than the rest of the thaw.
    let engine = Duration::from_millis(10);
    simulation.engine.set_behavior(spec.id, TenantBehavior { engine, ..TenantBehavior::default() });
    running.controller.operations.stop(spec.id).await.unwrap();
    let calls = simulation.calls(spec.id);
    assert!(calls.ends_with(&["thaw".to_owned(), "stop".to_owned()]), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thaw_that_outlasts_its_wake_still_counts_against_the_limit() {
    let simulation = Simulation::new();
    let running = simulation.controller(SleepSettings { concurrent_thaws: 1, ..SHORT_DELAYS });
    let (one, other) = (frozen_tenant(&running).await, frozen_tenant(&running).await);
    for spec in [&one, &other] {
        let thawed_after = Some(Duration::from_millis(5));
        simulation
            .engine
            .set_behavior(spec.id, TenantBehavior { thawed_after, ..TenantBehavior::default() });
    }
    let router = Router::new(&running.controller);
    let thaws = || [simulation.count(one.id, "thaw"), simulation.count(other.id, "thaw")];
    assert!(router.visit(one.id).await.unwrap().woke);
    assert_eq!(thaws(), [0, 0], "the engine is still at it");
    assert!(router.visit(other.id).await.unwrap().woke);
    assert_eq!(thaws(), [1, 0], "no second thaw starts before the first ends");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_responds_and_whose_thaw_fails_is_inspected_again() {
    let (simulation, running, spec) = Simulation::with_frozen(SHORT_DELAYS).await;
    let thawed_after = Some(Duration::from_millis(5));
    let script = TenantBehavior { thawed_after, refuses_thaw: true, ..TenantBehavior::default() };
    simulation.engine.set_behavior(spec.id, script);
    let router = Router::new(&running.controller);
    assert!(router.visit(spec.id).await.unwrap().woke);
    // Earlier than a resync inspects the tenant or its idle time freezes it.
    let looked = running.until_phase(spec.id, Phase::Frozen);
    tokio::time::timeout(Duration::from_secs(1), looked).await.expect("looked at at once");
    simulation.engine.set_behavior(spec.id, TenantBehavior::default());
    assert!(router.visit(spec.id).await.unwrap().woke);
    assert_eq!(simulation.count(spec.id, "thaw"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_concurrent_requests_start_a_sleeping_tenant_once() {
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    let grants = join_all((0..1_000).map(|_| router.visit(spec.id))).await;
    assert!(grants.iter().all(|grant| grant.as_ref().unwrap().woke));
    assert_eq!(simulation.count(spec.id, "start"), 2, "the first one, and one wake");
    let wake = sleep_status(&running, spec.id).last_wake.unwrap();
    let (phases, total) = (wake.phases_ms, wake.total_ms);
    assert_eq!(
        (wake.from, phases.queue, total),
        (IdleState::Sleeping, 0, phases.engine + phases.boot)
    );
    assert_eq!(simulation.state_dir().read(spec.id).target, TargetState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_background_request_wakes_a_sleeping_tenant_only_by_policy() {
    let (_simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    let response = lease_error(router.request(spec.id, RequestIntent::Background, 1_000).await);
    assert_eq!((response.0, response.1), (409, "wake_required"));
    let any = Policy { wake_on: Some(WakeOn::AnyRequest), ..Policy::default() };
    let kept = running.controller.operations.apply(with_policy(&spec, any)).await.unwrap();
    assert_eq!(kept.phase, Phase::Sleeping, "a changed policy wakes no tenant");
    assert!(router.request(spec.id, RequestIntent::Background, 1_000).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn wakes_beyond_the_queue_are_refused_with_a_position_and_a_retry_time() {
    let simulation = Simulation::new();
    let running = simulation.controller(SleepSettings {
        concurrent_starts: 1,
        queued_wakes: 1,
        ..SHORT_DELAYS
    });
    let mut sleepers = Vec::new();
    for _ in 0..3 {
        sleepers.push(ready_tenant(&running).await);
    }
    for sleeper in &sleepers {
        running.until_phase(sleeper.id, Phase::Sleeping).await;
    }
    let router = Router::new(&running.controller);
    let (first, second, third) = tokio::join!(
        router.visit(sleepers[0].id),
        router.request(sleepers[1].id, RequestIntent::Visit, 50),
        router.visit(sleepers[2].id),
    );
    assert!(first.unwrap().woke);
    let places =
        [&second, &third].map(|response| response.as_ref().err().and_then(|no| no.queue_position));
    assert_eq!(places, [Some(0), Some(2)], "first of the queue; no room in it");
    let (status, code, again, detail) = lease_error(second);
    assert_eq!((status, code, again), (503, "waking", true), "{detail}");
    let (status, code, again, detail) = lease_error(third);
    assert_eq!((status, code, again), (503, "wake_queue_full", true));
    assert_eq!(detail, "2 requests wait for a wake already. Try again later.");
    assert!(running.controller.metrics_text(None).contains("cial_wake_queue_full_total 1\n"));
    // The caller of the second wake left, and the wake continued.
    running.until_phase(sleepers[1].id, Phase::Ready).await;
    assert_eq!(simulation.count(sleepers[2].id, "start"), 1, "the third was not");
}

#[tokio::test(start_paused = true)]
async fn a_failed_wake_gives_a_reason_and_the_tenant_sleeps() {
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    simulation
        .engine
        .set_behavior(spec.id, TenantBehavior { refuses_start: true, ..TenantBehavior::default() });
    let answers = join_all((0..10).map(|_| router.visit(spec.id))).await;
    for response in answers {
        let (status, code, _, detail) = lease_error(response);
        assert_eq!((status, code), (502, "wake_failed"));
        assert!(detail.contains("scripted refusal"), "{detail}");
    }
    let seen = running.until_phase(spec.id, Phase::Sleeping).await;
    assert!(seen.reason.unwrap().contains("scripted refusal"));
    assert_eq!(simulation.state_dir().read(spec.id).target, TargetState::Asleep);
    let failed = "cial_wakes_total{from=\"sleeping\",result=\"failed\"} 1\n";
    assert!(
        running.controller.metrics_text(None).contains(failed),
        "one wake, whoever waited for it"
    );
    simulation.engine.set_behavior(spec.id, TenantBehavior::default());
    assert!(router.visit(spec.id).await.unwrap().woke);
    let ready = running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!((ready.reason, ready.exits), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_engine_call_counts_as_refused_and_frees_its_permit() {
    let simulation = Simulation::new();
    let running = simulation.controller(SleepSettings { concurrent_starts: 1, ..SHORT_DELAYS });
    let (broken, other) = (sleeping_tenant(&running).await, sleeping_tenant(&running).await);
    let router = Router::new(&running.controller);
    simulation
        .engine
        .set_behavior(broken.id, TenantBehavior { breaks: true, ..TenantBehavior::default() });
    assert_eq!(lease_error(router.visit(broken.id).await).1, "wake_failed");
    assert!(router.visit(other.id).await.unwrap().woke);
    simulation.engine.set_behavior(broken.id, TenantBehavior::default());
    running.controller.operations.resync().await;
    running.until_phase(broken.id, Phase::Exited).await;
    running.run(&broken).await;
    running.until_phase(broken.id, Phase::Ready).await;

    // Repeats the test for a suspend.
    simulation
        .engine
        .set_behavior(broken.id, TenantBehavior { breaks: true, ..TenantBehavior::default() });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(simulation.count(broken.id, "busy") > 0, "decided");
    assert!(!router.visit(broken.id).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn a_wake_does_not_wait_for_operations_on_other_tenants() {
    let simulation = Simulation::new();
    let running = simulation.controller(SleepSettings { concurrent_starts: 1, ..SHORT_DELAYS });
    let (held, free) = (sleeping_tenant(&running).await, sleeping_tenant(&running).await);
    let slow = TenantBehavior { engine: Duration::from_secs(30), ..TenantBehavior::default() };
    simulation.engine.set_behavior(held.id, slow);
    let controller = running.controller.clone();
    let change = with_policy(&held, Policy { max_awake_seconds: Some(9), ..Policy::default() });
    let changing = tokio::spawn(async move { controller.operations.apply(change).await });
    tokio::time::sleep(Duration::from_millis(1)).await;
    let (one, other) = (Router::new(&running.controller), Router::new(&running.controller));
    let (first, second) = tokio::join!(one.visit(held.id), async {
        let visit = other.visit(free.id);
        tokio::time::timeout(Duration::from_secs(1), visit).await
    });
    assert!(second.expect("it stood behind the other").unwrap().woke);
    assert_eq!(first.unwrap_err().code.as_str(), "waking", "its turn came late");
    assert!(changing.await.unwrap().is_ok());
    running.until_phase(held.id, Phase::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_and_a_readiness_timeout_after_a_wake_are_different_errors() {
    let (simulation, running) = Simulation::start(SHORT_DELAYS);
    let (dies, mute) = (sleeping_tenant(&running).await, sleeping_tenant(&running).await);
    let router = Router::new(&running.controller);
    let exits_after = Some((Duration::from_millis(5), 7));
    simulation.engine.set_behavior(
        dies.id,
        TenantBehavior { ready_after: None, exits_after, ..TenantBehavior::default() },
    );
    simulation
        .engine
        .set_behavior(mute.id, TenantBehavior { ready_after: None, ..TenantBehavior::default() });
    let (status, code, _, detail) = lease_error(router.visit(dies.id).await);
    assert_eq!((status, code), (502, "wake_failed"));
    assert_eq!(detail, "Its container ended with code 7; see its logs.");
    let exited = running.until_phase(dies.id, Phase::Exited).await;
    assert_eq!(exited.exits, 1, "an exit like any other");
    let (status, code, _, detail) = lease_error(router.visit(mute.id).await);
    assert_eq!((status, code), (502, "wake_failed"));
    assert!(detail.contains("not all responded within 45 s"), "{detail}");
    running.until_phase(mute.id, Phase::Starting).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_paused_by_another_program_is_thawed_by_a_request() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    simulation.engine.pause_externally(spec.id);
    running.until_phase(spec.id, Phase::Frozen).await;
    let router = Router::new(&running.controller);
    assert!(router.request(spec.id, RequestIntent::Background, 1_000).await.unwrap().woke);
    assert_eq!(simulation.count(spec.id, "thaw"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wake_recreates_a_missing_or_outdated_container() {
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    simulation.engine.remove_externally(spec.id);
    running.until(spec.id, |o| o.is_none()).await;
    assert!(router.visit(spec.id).await.unwrap().woke, "its state file holds its spec");
    let before = running.until_phase(spec.id, Phase::Sleeping).await;
    simulation.engine.rebuild_image();
    running.until(spec.id, |o| o.is_some_and(|o| o.image_outdated)).await;
    assert!(router.visit(spec.id).await.unwrap().woke);
    let after = running.until_phase(spec.id, Phase::Ready).await;
    assert!(after.container_id != before.container_id && !after.image_outdated);
}

#[tokio::test(start_paused = true)]
async fn an_owners_wake_leaves_no_lease() {
    let (_simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let seen = running.controller.sleep.wake(spec.id).await.unwrap();
    assert_eq!(seen.phase, Phase::Sleeping, "the watch reports the outcome");
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(running.controller.sleep.wake(spec.id).await.unwrap().phase, Phase::Ready);
    assert!(sleep_status(&running, spec.id).freezes_at.is_some(), "no lease is left");
    let unknown = crate::support::spec("unknown", "").id;
    assert_eq!(running.controller.sleep.wake(unknown).await.unwrap_err().code.status(), 404);
}

#[tokio::test(start_paused = true)]
async fn wake_progress_reports_each_step() {
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let steps = running.controller.sleep.wake_progress(spec.id).unwrap();
    let watching = tokio::spawn(steps.map(|progress| progress.step).collect::<Vec<_>>());
    tokio::task::yield_now().await;
    Router::new(&running.controller).visit(spec.id).await.unwrap();
    let steps = watching.await.unwrap();
    assert_eq!(
        steps,
        [
            WakeStep::Asleep,
            WakeStep::Queued,
            WakeStep::Starting,
            WakeStep::Booting,
            WakeStep::Ready
        ]
    );

    running.until_phase(spec.id, Phase::Sleeping).await;
    simulation
        .engine
        .set_behavior(spec.id, TenantBehavior { refuses_start: true, ..TenantBehavior::default() });
    let watching =
        tokio::spawn(running.controller.sleep.wake_progress(spec.id).unwrap().collect::<Vec<_>>());
    tokio::task::yield_now().await;
    assert!(Router::new(&running.controller).visit(spec.id).await.is_err());
    let last = watching.await.unwrap().pop().unwrap();
    assert_eq!(last.step, WakeStep::Failed);
    assert!(last.reason.unwrap().contains("scripted refusal"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_responds_to_those_who_wait() {
    let (_simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    let going = async {
        tokio::task::yield_now().await;
        running.controller.sleep.shut_down();
    };
    let (answers, ()) = tokio::join!(join_all((0..5).map(|_| router.visit(spec.id))), going);
    for response in answers.into_iter().chain([router.visit(spec.id).await]) {
        let (status, code, again, _) = lease_error(response);
        assert_eq!((status, code, again), (503, "leaving", true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_listing_and_wake_no_longer_than_its_limit() {
    let simulation = Simulation::new();
    let before = simulation.controller(SHORT_DELAYS);
    let spec = sleeping_tenant(&before).await;
    drop(before);
    simulation.engine.disconnect("unreachable");
    let running = simulation.controller_later(Duration::from_secs(3_600), SHORT_DELAYS);
    simulation
        .engine
        .set_behavior(spec.id, TenantBehavior { ready_after: None, ..TenantBehavior::default() });
    let back = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        simulation.engine.reconnect();
    };
    let router = Router::new(&running.controller);
    let visit = router.request(spec.id, RequestIntent::Visit, 30_000);
    let visit = tokio::time::timeout(Duration::from_millis(30_100), visit);
    let (response, ()) = tokio::join!(visit, back);
    assert_eq!(lease_error(response.expect("it waited for longer")).1, "waking");
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_time_counts_once_per_wake() {
    let (_simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    router.visit(spec.id).await.unwrap();
    let before = sleep_status(&running, spec.id).last_wake.unwrap();
    assert_eq!(before.phases_ms.first_byte, None);
    for millis in [7, 9_000] {
        router.answered(spec.id, millis);
    }
    let after = sleep_status(&running, spec.id).last_wake.unwrap();
    assert_eq!(after.phases_ms.first_byte, Some(7));
    assert_eq!(after.total_ms, before.total_ms + 7);
    let count = "cial_wake_seconds_count{from=\"sleeping\",phase=\"first_byte\"} 1\n";
    assert!(running.controller.metrics_text(None).contains(count));
}

/// Many tenants are suspended at the same time, each by a slow call.
#[tokio::test(start_paused = true)]
async fn an_operation_does_not_wait_for_suspends_of_other_tenants() {
    let simulation = Simulation::new();
    let running = simulation.controller(SleepSettings {
        concurrent_suspends: 1,
        sleep_after: None,
        ..SHORT_DELAYS
    });
    let mut tenants = Vec::new();
    for _ in 0..4 {
        let spec = ready_tenant(&running).await;
        simulation.engine.set_behavior(
            spec.id,
            TenantBehavior { engine: Duration::from_secs(20), ..TenantBehavior::default() },
        );
        tenants.push(spec);
    }
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(
        tenants.iter().all(|spec| simulation.count(spec.id, "busy") == 1),
        "all have been decided"
    );
    let last = tenants.last().unwrap();
    simulation.engine.set_behavior(last.id, TenantBehavior::default());
    let stopped = running.controller.operations.stop(last.id);
    let stopped = tokio::time::timeout(Duration::from_secs(1), stopped).await;
    assert_eq!(stopped.unwrap().unwrap().phase, Phase::Stopped);
}
