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

use crate::support::asking::{Router, refused};
use crate::support::doze::{RULES, World, asleep, frozen, ready, told, with_policy};

#[tokio::test(start_paused = true)]
async fn concurrent_requests_thaw_a_frozen_tenant_once() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = frozen(&running).await;
    let router = Router::new(&running.controller);
    let asks = (0..50).map(|_| router.ask(spec.id, RequestIntent::Background, 1_000));
    let grants = join_all(asks).await;
    assert!(grants.iter().all(|grant| grant.as_ref().unwrap().woke));
    assert_eq!((world.count(spec.id, "thaw"), world.count(spec.id, "start")), (1, 1));
    let wake = told(&running, spec.id).last_wake.unwrap();
    assert_eq!((wake.from, wake.phases_ms.engine, wake.total_ms), (IdleState::Frozen, 100, 100));
}

#[tokio::test(start_paused = true)]
async fn the_phase_and_the_wake_that_led_to_it_are_published_together() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = frozen(&running).await;
    let feed = running.controller.store.feed().unwrap().clone();
    let mut changes = feed.subscribe();
    let published = async {
        while feed.get(&spec.id).map(|observed| observed.phase) != Some(Phase::Ready) {
            changes.recv().await.unwrap();
        }
        told(&running, spec.id)
    };
    let router = Router::new(&running.controller);
    let (status, grant) = tokio::join!(published, router.visit(spec.id));
    assert!(grant.unwrap().woke);
    assert_eq!(status.phase, Some(Phase::Ready));
    assert_eq!(status.last_wake.map(|wake| wake.from), Some(IdleState::Frozen));
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_responds_is_ready_before_the_thaw_call_returns() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = frozen(&running).await;
    let thawed_after = Some(Duration::from_millis(5));
    world
        .engine
        .set_behavior(spec.id, TenantBehavior { thawed_after, ..TenantBehavior::default() });
    let router = Router::new(&running.controller);
    assert!(router.visit(spec.id).await.unwrap().woke);
    assert_eq!(world.count(spec.id, "thaw"), 0, "the engine has not said so yet");
    let wake = told(&running, spec.id).last_wake.unwrap();
    assert_eq!((wake.from, wake.phases_ms.engine, wake.total_ms), (IdleState::Frozen, 5, 5));
    // The stop takes less time than the rest of the thaw.
    let engine = Duration::from_millis(10);
    world.engine.set_behavior(spec.id, TenantBehavior { engine, ..TenantBehavior::default() });
    running.controller.operations.stop(spec.id).await.unwrap();
    let calls = world.calls(spec.id);
    assert!(calls.ends_with(&["thaw".to_owned(), "stop".to_owned()]), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_thaw_that_outlasts_its_wake_still_counts_against_the_limit() {
    let world = World::new();
    let running = world.controller(SleepSettings { concurrent_thaws: 1, ..RULES });
    let (one, other) = (frozen(&running).await, frozen(&running).await);
    for spec in [&one, &other] {
        let thawed_after = Some(Duration::from_millis(5));
        world
            .engine
            .set_behavior(spec.id, TenantBehavior { thawed_after, ..TenantBehavior::default() });
    }
    let router = Router::new(&running.controller);
    let thaws = || [world.count(one.id, "thaw"), world.count(other.id, "thaw")];
    assert!(router.visit(one.id).await.unwrap().woke);
    assert_eq!(thaws(), [0, 0], "the engine is still at it");
    assert!(router.visit(other.id).await.unwrap().woke);
    assert_eq!(thaws(), [1, 0], "and was not asked for another before it had ended");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_responds_and_whose_thaw_fails_is_inspected_again() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = frozen(&running).await;
    let thawed_after = Some(Duration::from_millis(5));
    let script = TenantBehavior { thawed_after, refuses_thaw: true, ..TenantBehavior::default() };
    world.engine.set_behavior(spec.id, script);
    let router = Router::new(&running.controller);
    assert!(router.visit(spec.id).await.unwrap().woke);
    // Earlier than a resync inspects the tenant or its idle time freezes it.
    let looked = running.until_phase(spec.id, Phase::Frozen);
    tokio::time::timeout(Duration::from_secs(1), looked).await.expect("looked at at once");
    world.engine.set_behavior(spec.id, TenantBehavior::default());
    assert!(router.visit(spec.id).await.unwrap().woke);
    assert_eq!(world.count(spec.id, "thaw"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_thousand_concurrent_requests_start_a_sleeping_tenant_once() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let router = Router::new(&running.controller);
    let grants = join_all((0..1_000).map(|_| router.visit(spec.id))).await;
    assert!(grants.iter().all(|grant| grant.as_ref().unwrap().woke));
    assert_eq!(world.count(spec.id, "start"), 2, "the first one, and one wake");
    let wake = told(&running, spec.id).last_wake.unwrap();
    let (phases, total) = (wake.phases_ms, wake.total_ms);
    assert_eq!(
        (wake.from, phases.queue, total),
        (IdleState::Sleeping, 0, phases.engine + phases.boot)
    );
    assert_eq!(world.state_dir().read(spec.id).target, TargetState::Running);
}

#[tokio::test(start_paused = true)]
async fn a_background_request_wakes_a_sleeping_tenant_only_by_policy() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let router = Router::new(&running.controller);
    let answer = refused(router.ask(spec.id, RequestIntent::Background, 1_000).await);
    assert_eq!((answer.0, answer.1), (409, "wake_required"));
    let any = Policy { wake_on: Some(WakeOn::AnyRequest), ..Policy::default() };
    let kept = running.controller.operations.apply(with_policy(&spec, any)).await.unwrap();
    assert_eq!(kept.phase, Phase::Sleeping, "handing a policy over wakes nobody");
    assert!(router.ask(spec.id, RequestIntent::Background, 1_000).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn wakes_beyond_the_queue_are_refused_with_a_position_and_a_retry_time() {
    let world = World::new();
    let running =
        world.controller(SleepSettings { concurrent_starts: 1, queued_wakes: 1, ..RULES });
    let mut sleepers = Vec::new();
    for _ in 0..3 {
        sleepers.push(ready(&running).await);
    }
    for sleeper in &sleepers {
        running.until_phase(sleeper.id, Phase::Sleeping).await;
    }
    let router = Router::new(&running.controller);
    let (first, second, third) = tokio::join!(
        router.visit(sleepers[0].id),
        router.ask(sleepers[1].id, RequestIntent::Visit, 50),
        router.visit(sleepers[2].id),
    );
    assert!(first.unwrap().woke);
    let places =
        [&second, &third].map(|answer| answer.as_ref().err().and_then(|no| no.queue_position));
    assert_eq!(places, [Some(0), Some(2)], "first of the queue; no room in it");
    let (status, code, again, detail) = refused(second);
    assert_eq!((status, code, again), (503, "waking", true), "{detail}");
    let (status, code, again, detail) = refused(third);
    assert_eq!((status, code, again), (503, "wake_queue_full", true));
    assert_eq!(detail, "2 requests wait for a wake already. Try again later.");
    assert!(running.controller.metrics_text(None).contains("cial_wake_queue_full_total 1\n"));
    // The caller of the second wake left, and the wake continued.
    running.until_phase(sleepers[1].id, Phase::Ready).await;
    assert_eq!(world.count(sleepers[2].id, "start"), 1, "the third was not");
}

#[tokio::test(start_paused = true)]
async fn a_failed_wake_gives_a_reason_and_the_tenant_sleeps() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let router = Router::new(&running.controller);
    world
        .engine
        .set_behavior(spec.id, TenantBehavior { refuses_start: true, ..TenantBehavior::default() });
    let answers = join_all((0..10).map(|_| router.visit(spec.id))).await;
    for answer in answers {
        let (status, code, _, detail) = refused(answer);
        assert_eq!((status, code), (502, "wake_failed"));
        assert!(detail.contains("it was told to"), "{detail}");
    }
    let seen = running.until_phase(spec.id, Phase::Sleeping).await;
    assert!(seen.reason.unwrap().contains("it was told to"));
    assert_eq!(world.state_dir().read(spec.id).target, TargetState::Asleep);
    let failed = "cial_wakes_total{from=\"sleeping\",result=\"failed\"} 1\n";
    assert!(
        running.controller.metrics_text(None).contains(failed),
        "one wake, whoever waited for it"
    );
    world.engine.set_behavior(spec.id, TenantBehavior::default());
    assert!(router.visit(spec.id).await.unwrap().woke);
    let ready = running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!((ready.reason, ready.exits), (None, 0));
}

#[tokio::test(start_paused = true)]
async fn a_panicking_engine_call_counts_as_refused_and_frees_its_permit() {
    let world = World::new();
    let running = world.controller(SleepSettings { concurrent_starts: 1, ..RULES });
    let (broken, other) = (asleep(&running).await, asleep(&running).await);
    let router = Router::new(&running.controller);
    world
        .engine
        .set_behavior(broken.id, TenantBehavior { breaks: true, ..TenantBehavior::default() });
    assert_eq!(refused(router.visit(broken.id).await).1, "wake_failed");
    assert!(router.visit(other.id).await.unwrap().woke);
    world.engine.set_behavior(broken.id, TenantBehavior::default());
    running.controller.operations.resync().await;
    running.until_phase(broken.id, Phase::Exited).await;
    running.run(&broken).await;
    running.until_phase(broken.id, Phase::Ready).await;

    // Repeats the test for a suspend.
    world
        .engine
        .set_behavior(broken.id, TenantBehavior { breaks: true, ..TenantBehavior::default() });
    tokio::time::sleep(Duration::from_secs(20)).await;
    assert!(world.count(broken.id, "busy") > 0, "decided");
    assert!(!router.visit(broken.id).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn a_wake_does_not_wait_for_operations_on_other_tenants() {
    let world = World::new();
    let running = world.controller(SleepSettings { concurrent_starts: 1, ..RULES });
    let (held, free) = (asleep(&running).await, asleep(&running).await);
    let slow = TenantBehavior { engine: Duration::from_secs(30), ..TenantBehavior::default() };
    world.engine.set_behavior(held.id, slow);
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
    assert_eq!(first.unwrap_err().code, "waking", "its turn came late");
    assert!(changing.await.unwrap().is_ok());
    running.until_phase(held.id, Phase::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn an_exit_and_a_readiness_timeout_after_a_wake_are_different_errors() {
    let world = World::new();
    let running = world.controller(RULES);
    let (dies, mute) = (asleep(&running).await, asleep(&running).await);
    let router = Router::new(&running.controller);
    let exits_after = Some((Duration::from_millis(5), 7));
    world.engine.set_behavior(
        dies.id,
        TenantBehavior { ready_after: None, exits_after, ..TenantBehavior::default() },
    );
    world
        .engine
        .set_behavior(mute.id, TenantBehavior { ready_after: None, ..TenantBehavior::default() });
    let (status, code, _, detail) = refused(router.visit(dies.id).await);
    assert_eq!((status, code), (502, "wake_failed"));
    assert_eq!(detail, "Its container ended with code 7; see its logs.");
    let exited = running.until_phase(dies.id, Phase::Exited).await;
    assert_eq!(exited.exits, 1, "an exit like any other");
    let (status, code, _, detail) = refused(router.visit(mute.id).await);
    assert_eq!((status, code), (502, "wake_failed"));
    assert!(detail.contains("not all responded within 45 s"), "{detail}");
    running.until_phase(mute.id, Phase::Starting).await;
}

#[tokio::test(start_paused = true)]
async fn a_container_paused_by_another_program_is_thawed_by_a_request() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    world.engine.pause_externally(spec.id);
    running.until_phase(spec.id, Phase::Frozen).await;
    let router = Router::new(&running.controller);
    assert!(router.ask(spec.id, RequestIntent::Background, 1_000).await.unwrap().woke);
    assert_eq!(world.count(spec.id, "thaw"), 1);
}

#[tokio::test(start_paused = true)]
async fn a_wake_recreates_a_missing_or_outdated_container() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let router = Router::new(&running.controller);
    world.engine.remove_externally(spec.id);
    running.until(spec.id, |o| o.is_none()).await;
    assert!(router.visit(spec.id).await.unwrap().woke, "its note says what it is made of");
    let before = running.until_phase(spec.id, Phase::Sleeping).await;
    world.engine.rebuild_image();
    running.until(spec.id, |o| o.is_some_and(|o| o.image_outdated)).await;
    assert!(router.visit(spec.id).await.unwrap().woke);
    let after = running.until_phase(spec.id, Phase::Ready).await;
    assert!(after.container_id != before.container_id && !after.image_outdated);
}

#[tokio::test(start_paused = true)]
async fn an_owners_wake_leaves_no_lease() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let seen = running.controller.sleep.wake(spec.id).await.unwrap();
    assert_eq!(seen.phase, Phase::Sleeping, "what comes of it is told by the watch");
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(running.controller.sleep.wake(spec.id).await.unwrap().phase, Phase::Ready);
    assert!(told(&running, spec.id).freezes_at.is_some(), "no lease is left");
    let nobody = crate::support::spec("nobody", "").id;
    assert_eq!(running.controller.sleep.wake(nobody).await.unwrap_err().status, 404);
}

#[tokio::test(start_paused = true)]
async fn wake_progress_reports_each_step() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
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
    world
        .engine
        .set_behavior(spec.id, TenantBehavior { refuses_start: true, ..TenantBehavior::default() });
    let watching =
        tokio::spawn(running.controller.sleep.wake_progress(spec.id).unwrap().collect::<Vec<_>>());
    tokio::task::yield_now().await;
    assert!(Router::new(&running.controller).visit(spec.id).await.is_err());
    let last = watching.await.unwrap().pop().unwrap();
    assert_eq!(last.step, WakeStep::Failed);
    assert!(last.reason.unwrap().contains("it was told to"));
}

#[tokio::test(start_paused = true)]
async fn a_shutdown_responds_to_those_who_wait() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let router = Router::new(&running.controller);
    let going = async {
        tokio::task::yield_now().await;
        running.controller.sleep.shut_down();
    };
    let (answers, ()) = tokio::join!(join_all((0..5).map(|_| router.visit(spec.id))), going);
    for answer in answers.into_iter().chain([router.visit(spec.id).await]) {
        let (status, code, again, _) = refused(answer);
        assert_eq!((status, code, again), (503, "leaving", true));
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_waits_for_listing_and_wake_no_longer_than_its_limit() {
    let world = World::new();
    let before = world.controller(RULES);
    let spec = asleep(&before).await;
    drop(before);
    world.engine.disconnect("away");
    let running = world.controller_later(Duration::from_secs(3_600), RULES);
    world
        .engine
        .set_behavior(spec.id, TenantBehavior { ready_after: None, ..TenantBehavior::default() });
    let back = async {
        tokio::time::sleep(Duration::from_secs(20)).await;
        world.engine.reconnect();
    };
    let router = Router::new(&running.controller);
    let visit = router.ask(spec.id, RequestIntent::Visit, 30_000);
    let visit = tokio::time::timeout(Duration::from_millis(30_100), visit);
    let (answer, ()) = tokio::join!(visit, back);
    assert_eq!(refused(answer.expect("it waited for longer")).1, "waking");
}

#[tokio::test(start_paused = true)]
async fn the_first_byte_time_counts_once_per_wake() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let router = Router::new(&running.controller);
    router.visit(spec.id).await.unwrap();
    let before = told(&running, spec.id).last_wake.unwrap();
    assert_eq!(before.phases_ms.first_byte, None);
    for millis in [7, 9_000] {
        router.answered(spec.id, millis);
    }
    let after = told(&running, spec.id).last_wake.unwrap();
    assert_eq!(after.phases_ms.first_byte, Some(7));
    assert_eq!(after.total_ms, before.total_ms + 7);
    let count = "cial_wake_seconds_count{from=\"sleeping\",phase=\"first_byte\"} 1\n";
    assert!(running.controller.metrics_text(None).contains(count));
}

/// Many tenants are suspended at the same time, each by a slow call.
#[tokio::test(start_paused = true)]
async fn an_operation_does_not_wait_for_suspends_of_other_tenants() {
    let world = World::new();
    let running =
        world.controller(SleepSettings { concurrent_suspends: 1, sleep_after: None, ..RULES });
    let mut tenants = Vec::new();
    for _ in 0..4 {
        let spec = ready(&running).await;
        world.engine.set_behavior(
            spec.id,
            TenantBehavior { engine: Duration::from_secs(20), ..TenantBehavior::default() },
        );
        tenants.push(spec);
    }
    tokio::time::sleep(Duration::from_secs(16)).await;
    assert!(tenants.iter().all(|spec| world.count(spec.id, "busy") == 1), "all have been decided");
    let last = tenants.last().unwrap();
    world.engine.set_behavior(last.id, TenantBehavior::default());
    let stopped = running.controller.operations.stop(last.id);
    let stopped = tokio::time::timeout(Duration::from_secs(1), stopped).await;
    assert_eq!(stopped.unwrap().unwrap().phase, Phase::Stopped);
}
