//! Freezing and stopping idle tenants, and the reasons that keep a tenant awake. The tests use the
//! engine in memory and virtual time.

use std::time::Duration;

use orchestrator::busy::BusyError;
use orchestrator::driver::memory::TenantBehavior;
use orchestrator::sleep::SleepSettings;
use orchestrator::tenants::state_dir::TargetState;
use protocol::busy::BusyList;
use protocol::orchestrator::{ApplyRequest, Phase};
use protocol::spec::{Policy, Spec};
use tokio::time::{sleep, timeout};

use crate::support::apply;
use crate::support::asking::{Router, refused};
use crate::support::doze::{RULES, World, asleep, frozen, ready, seconds, told, with_policy};

#[tokio::test(start_paused = true)]
async fn an_idle_tenant_freezes_and_later_is_thawed_and_stopped() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    let awake = told(&running, spec.id);
    assert!(awake.awake_because[0].starts_with("The orchestrator has just started"), "{awake:?}");
    sleep(seconds(15)).await;
    running.until_phase(spec.id, Phase::Frozen).await;
    let frozen = told(&running, spec.id);
    assert!(frozen.asleep_because.unwrap().starts_with("Nobody used it for 1"));
    assert!(frozen.awake_because.is_empty() && frozen.freezes_at.is_none());
    let sleeps_at = frozen.sleeps_at.unwrap();
    running.until_phase(spec.id, Phase::Sleeping).await;
    assert_eq!(world.calls(spec.id), ["start", "busy", "freeze", "thaw", "busy", "stop"]);
    let asleep = told(&running, spec.id);
    assert_eq!(asleep.asleep_because.unwrap(), "Nobody used it for 30 s.");
    assert_eq!(asleep.sleeps_at, None);
    let persisted = world.state_dir().read(spec.id);
    assert_eq!(persisted.target, TargetState::Asleep);
    assert_eq!(persisted.last_use.unwrap() + seconds(30), sleeps_at);
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_dead_holder_expires() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    let router = Router::new(&running.controller);
    let grant = router.visit(spec.id).await.unwrap();
    assert_eq!((grant.generation, grant.expires_in_ms, grant.woke), (1, 15_000, false));
    assert_eq!(grant.linger_ms, 2_500);
    let frozen = running.until_phase(spec.id, Phase::Frozen);
    assert!(timeout(Duration::from_millis(14_900), frozen).await.is_err(), "under a live lease");
    running.until_phase(spec.id, Phase::Frozen).await;
    assert_eq!(router.renew(spec.id, 0), None, "nothing may be sent under it any more");
}

#[tokio::test(start_paused = true)]
async fn a_tenant_in_use_stays_awake_until_its_idle_time_is_over() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    let router = Router::new(&running.controller);
    router.visit(spec.id).await.unwrap();
    for _ in 0..12 {
        sleep(seconds(5)).await;
        assert_eq!(router.renew(spec.id, 0), Some(15_000));
    }
    let because = told(&running, spec.id);
    assert_eq!(because.awake_because, ["In use: 1 request."]);
    assert_eq!(world.count(spec.id, "freeze"), 0);
    // After the release only the idle time counts, from the last use on.
    router.release(spec.id);
    let idle = told(&running, spec.id);
    assert!(idle.freezes_at.is_some());
    assert!(idle.awake_because[0].starts_with("It was last used at "), "{idle:?}");
    let frozen = running.until_phase(spec.id, Phase::Frozen);
    timeout(seconds(11), frozen).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_request_during_a_suspend_waits_for_it_and_is_granted() {
    let (ten, lease) = (Some(seconds(10)), seconds(1));
    let freezes =
        SleepSettings { freeze_after: ten, sleep_after: None, lease_duration: lease, ..RULES };
    let stops =
        SleepSettings { freeze_after: None, sleep_after: ten, lease_duration: lease, ..RULES };
    for (rules, calls) in [
        (freezes, ["start", "busy", "freeze", "thaw"]),
        (stops, ["start", "busy", "stop", "start"]),
    ] {
        let world = World::new();
        let running = world.controller(rules);
        let spec = ready(&running).await;
        world.engine.set_behavior(
            spec.id,
            TenantBehavior { engine: seconds(1), ..TenantBehavior::default() },
        );
        sleep(Duration::from_millis(10_500)).await;
        assert_eq!(world.calls(spec.id), calls[..2], "the call is under way");
        let grant = Router::new(&running.controller).visit(spec.id).await.unwrap();
        assert_eq!((grant.woke, world.calls(spec.id)), (true, calls.map(str::to_owned).to_vec()));
        let failed = |line: &&str| line.contains("result=\"failed\"");
        assert_eq!(running.controller.metrics_text(None).lines().find(failed), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_request_during_the_busy_check_cancels_the_suspend() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    // A slow engine: the suspend acquires its turn long after the decision.
    world
        .engine
        .set_behavior(spec.id, TenantBehavior { engine: seconds(20), ..TenantBehavior::default() });
    let change = with_policy(&spec, Policy { max_awake_seconds: Some(9), ..Policy::default() });
    let held = tokio::spawn({
        let controller = running.controller.clone();
        async move {
            sleep(seconds(14)).await;
            controller.operations.apply(change).await
        }
    });
    sleep(seconds(16)).await;
    assert_eq!(world.count(spec.id, "busy"), 1, "decided, and waiting for its turn");
    let router = Router::new(&running.controller);
    let grant = router.visit(spec.id).await.unwrap();
    assert!(!grant.woke, "granted at once: the engine was not called yet");
    world.engine.set_behavior(spec.id, TenantBehavior::default());
    sleep(seconds(14)).await;
    assert!(router.renew(spec.id, 0).is_some());
    held.await.unwrap().unwrap();
    sleep(seconds(1)).await;
    assert_eq!(world.count(spec.id, "freeze"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_owners_stop_overrides_leases_and_no_request_wakes_the_tenant() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    let router = Router::new(&running.controller);
    router.visit(spec.id).await.unwrap();
    let stopped = running.controller.operations.stop(spec.id).await.unwrap();
    assert_eq!((stopped.phase, router.renew(spec.id, 0)), (Phase::Stopped, None));
    let answer = refused(router.visit(spec.id).await);
    assert_eq!((answer.0, answer.1), (409, "tenant_stopped"));
    assert_eq!(running.controller.sleep.wake(spec.id).await.unwrap_err().code, "tenant_stopped");

    let other = asleep(&running).await;
    let (waited, stopped) =
        tokio::join!(router.visit(other.id), running.controller.operations.stop(other.id));
    assert_eq!((refused(waited).1, stopped.unwrap().phase), ("tenant_stopped", Phase::Stopped));
    // The next process knows that the owner stopped the tenant.
    drop(running);
    let next = world.controller_later(seconds(100), RULES);
    next.until_phase(other.id, Phase::Stopped).await;
    assert_eq!(refused(Router::new(&next.controller).visit(other.id).await).1, "tenant_stopped");
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_survives_a_restart_and_nothing_sleeps_for_one_lease_duration() {
    let world = World::new();
    let long = SleepSettings { freeze_after: None, sleep_after: Some(seconds(60)), ..RULES };
    let running = world.controller(long);
    let spec = ready(&running).await;
    Router::new(&running.controller).visit(spec.id).await.unwrap();
    sleep(seconds(20)).await;
    let sleeps_at = told(&running, spec.id).sleeps_at.unwrap();
    drop(running);
    sleep(seconds(35)).await;
    let next = world.controller_later(seconds(56), long);
    next.until_phase(spec.id, Phase::Ready).await;
    let after = told(&next, spec.id);
    assert!(after.awake_because[0].starts_with("The orchestrator has just started"), "{after:?}");
    let early = next.until_phase(spec.id, Phase::Sleeping);
    assert!(timeout(Duration::from_millis(14_900), early).await.is_err(), "leases may be live");
    next.until_phase(spec.id, Phase::Sleeping).await;
    let slept = world.state_dir().read(spec.id);
    assert_eq!(slept.last_use.unwrap() + seconds(60), sleeps_at, "it did not begin anew");
    // The process after that finds a sleeping tenant, not a crash.
    drop(next);
    let last = world.controller_later(seconds(100), long);
    assert_eq!(last.until_phase(spec.id, Phase::Sleeping).await.exits, 0);
    assert!(Router::new(&last.controller).visit(spec.id).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_an_ill_service_is_served_after_a_restart() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    world
        .engine
        .set_behavior(spec.id, TenantBehavior { ready_after: None, ..TenantBehavior::default() });
    drop(running);
    let next = world.controller_later(seconds(1), SleepSettings { freeze_after: None, ..RULES });
    next.until_phase(spec.id, Phase::Starting).await;
    let router = Router::new(&next.controller);
    assert_eq!(router.visit(spec.id).await.unwrap().generation, 1);
    router.release(spec.id);
    assert!(router.visit(spec.id).await.is_ok());
    assert_eq!(world.calls(spec.id), ["start"]);
}

#[tokio::test(start_paused = true)]
async fn declared_work_keeps_a_tenant_awake_up_to_its_policys_limit() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    let backup = r#"{"busy":[{"reason":"backup","owner":"core","until":"2099-01-01T00:00:00Z"}]}"#;
    let backup: BusyList = serde_json::from_str(backup).unwrap();
    world.engine.set_busy_list(spec.id, Ok(backup));
    sleep(seconds(60)).await;
    running.until_phase(spec.id, Phase::Ready).await;
    let because = told(&running, spec.id).awake_because;
    assert!(because[0].starts_with("Busy inside since") && because[0].ends_with(": “backup”."));
    let capped = Policy { max_awake_seconds: Some(90), ..Policy::default() };
    running.controller.operations.apply(with_policy(&spec, capped)).await.unwrap();
    running.until_phase(spec.id, Phase::Frozen).await;
    let because = told(&running, spec.id).asleep_because.unwrap();
    assert!(because.contains("for longer than its policy allows"), "{because}");

    let mute = ready(&running).await;
    world
        .engine
        .set_busy_list(mute.id, Err(BusyError::NoResponse("no response within 200 ms".to_owned())));
    running.until_phase(mute.id, Phase::Frozen).await;
    let because = told(&running, mute.id).asleep_because.unwrap();
    assert!(because.ends_with("did not say whether it was busy: no response within 200 ms."));
    assert!(
        running
            .controller
            .metrics_text(None)
            .contains("cial_busy_checks_total{response=\"none\"} 1")
    );
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_could_not_be_asked_whether_it_is_busy_stays_awake() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    let error = BusyError::Local("Too many open files".to_owned());
    world.engine.set_busy_list(spec.id, Err(error));
    sleep(seconds(60)).await;
    assert_eq!(world.count(spec.id, "freeze"), 0);
    assert!(world.count(spec.id, "busy") > 1, "it is asked again");
    let because = told(&running, spec.id).awake_because;
    assert!(because[0].contains("Too many open files"), "{because:?}");
    world.engine.set_busy_list(spec.id, Ok(BusyList::default()));
    running.until_phase(spec.id, Phase::Frozen).await;
}

#[tokio::test(start_paused = true)]
async fn work_declared_right_before_a_freeze_prevents_the_stop() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = frozen(&running).await;
    let backup = r#"{"busy":[{"reason":"backup","owner":"core","until":"2099-01-01T00:00:00Z"}]}"#;
    world.engine.set_busy_list(spec.id, Ok(serde_json::from_str(backup).unwrap()));
    running.until_phase(spec.id, Phase::Ready).await;
    sleep(seconds(60)).await;
    assert_eq!((world.count(spec.id, "freeze"), world.count(spec.id, "stop")), (1, 0));
    let because = told(&running, spec.id).awake_because;
    assert!(because[0].ends_with(": “backup”."), "{because:?}");
    let kept = "cial_sleeps_total{depth=\"sleeping\",result=\"kept_awake\"} 1";
    assert!(running.controller.metrics_text(None).contains(kept));
    world.engine.set_busy_list(spec.id, Ok(BusyList::default()));
    running.until_phase(spec.id, Phase::Sleeping).await;
    assert_eq!(world.calls(spec.id).last().unwrap(), "stop");
}

#[tokio::test(start_paused = true)]
async fn an_apply_to_a_frozen_or_sleeping_tenant_does_not_wake_it() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = frozen(&running).await;
    let never = Policy { sleep_after_seconds: Some(0), ..Policy::default() };
    let kept = running.controller.operations.apply(with_policy(&spec, never)).await.unwrap();
    assert_eq!((kept.phase, told(&running, spec.id).sleeps_at), (Phase::Frozen, None));
    sleep(seconds(60)).await;
    let kept = running.controller.operations.apply(apply(&spec, true)).await.unwrap();
    assert_eq!(kept.phase, Phase::Frozen);
    // The tenant's idle time is already over, so the policy stops it at once.
    running.until_phase(spec.id, Phase::Sleeping).await;
    let next = Spec { generation: 2, ..spec.clone() };
    let anew = running.controller.operations.apply(apply(&next, true)).await.unwrap();
    assert_eq!((anew.phase, anew.generation), (Phase::Sleeping, 2));
    assert_ne!(anew.container_id, kept.container_id);
    assert_eq!(world.count(spec.id, "start"), 1, "nothing of this woke it");
    let again = ApplyRequest { restart: true, ..apply(&next, true) };
    running.controller.operations.apply(again).await.unwrap();
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(world.count(spec.id, "start"), 2, "a restart does");
}

#[tokio::test(start_paused = true)]
async fn a_policy_applies_at_once_and_an_older_one_does_not_replace_it() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    world
        .engine
        .set_behavior(spec.id, TenantBehavior { engine: seconds(20), ..TenantBehavior::default() });
    let never =
        Policy { freeze_after_seconds: Some(0), sleep_after_seconds: Some(0), ..Policy::default() };
    let mut changes = Vec::new();
    for policy in [spec.policy, Policy { max_awake_seconds: Some(9), ..spec.policy }, never] {
        let (controller, change) = (running.controller.clone(), with_policy(&spec, policy));
        changes.push(tokio::spawn(async move { controller.operations.apply(change).await }));
    }
    // During the engine call of the first change, then of the second one.
    for _ in 0..2 {
        sleep(seconds(15)).await;
        let because = told(&running, spec.id).awake_because;
        assert!(because.contains(&"Its policy is never to sleep.".to_owned()), "{because:?}");
        assert!(!changes[2].is_finished());
    }
    for change in changes {
        change.await.unwrap().unwrap();
    }
    assert_eq!(world.count(spec.id, "freeze"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_tenant_is_unknown_and_has_no_state_file() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    let router = Router::new(&running.controller);
    let (waited, gone) =
        tokio::join!(router.visit(spec.id), running.controller.operations.delete(spec.id));
    gone.unwrap();
    assert!(["tenant_stopped", "no_such_tenant"].contains(&refused(waited).1));
    assert_eq!(refused(router.visit(spec.id).await).1, "no_such_tenant");
    sleep(seconds(30)).await;
    assert_eq!(std::fs::read_dir(&world.state.0).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_state_file_is_not_written_with_every_renewal() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    let router = Router::new(&running.controller);
    router.visit(spec.id).await.unwrap();
    let written = || {
        let figures = running.controller.metrics_text(None);
        let line = figures.lines().find_map(|l| l.strip_prefix("cial_state_writes_total "));
        line.unwrap().parse::<u32>().unwrap()
    };
    let before = written();
    for _ in 0..1_000 {
        sleep(Duration::from_millis(20)).await;
        router.renew(spec.id, 0).unwrap();
    }
    let more = written() - before;
    assert!((1..=5).contains(&more), "{more} in 20 s");
}
