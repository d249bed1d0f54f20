//! Freezing and stopping idle tenants, and the reasons that keep a tenant awake. The tests use the
//! engine in memory and virtual time.

use std::time::Duration;

use futures_util::future::join_all;
use orchestrator::core_back::{BusyError, CORE_BACK_TIMEOUT};
use orchestrator::driver::memory::TenantBehavior;
use orchestrator::sleep::SleepSettings;
use orchestrator::tenants::state_dir::TargetState;
use protocol::busy::BusyList;
use protocol::orchestrator::{ApplyRequest, Phase};
use protocol::spec::{Policy, Spec};
use tokio::time::{sleep, timeout};

use crate::support::router::{Router, lease_error};
use crate::support::simulation::{
    SHORT_DELAYS, Simulation, ready_tenant, seconds, sleep_status, sleeping_tenant, with_policy,
};
use crate::support::{AWAKE, Running, apply, spec};

#[tokio::test(start_paused = true)]
async fn an_idle_tenant_freezes_and_later_is_thawed_and_stopped() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    let awake = sleep_status(&running, spec.id);
    assert!(awake.awake_because[0].starts_with("The orchestrator has just started"), "{awake:?}");
    sleep(seconds(15)).await;
    running.until_phase(spec.id, Phase::Frozen).await;
    let frozen = sleep_status(&running, spec.id);
    assert!(frozen.asleep_because.unwrap().starts_with("Nobody used it for 1"));
    assert!(frozen.awake_because.is_empty() && frozen.freezes_at.is_none());
    let sleeps_at = frozen.sleeps_at.unwrap();
    running.until_phase(spec.id, Phase::Sleeping).await;
    assert_eq!(simulation.calls(spec.id), ["start", "busy", "freeze", "thaw", "busy", "stop"]);
    let asleep = sleep_status(&running, spec.id);
    assert_eq!(asleep.asleep_because.unwrap(), "Nobody used it for 30 s.");
    assert_eq!(asleep.sleeps_at, None);
    let persisted = simulation.state_dir().read(spec.id);
    assert_eq!(persisted.target, TargetState::Asleep);
    assert_eq!(persisted.last_use.unwrap() + seconds(30), sleeps_at);
}

#[tokio::test(start_paused = true)]
async fn the_lease_of_a_dead_holder_expires() {
    let (_simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
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
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    router.visit(spec.id).await.unwrap();
    for _ in 0..12 {
        sleep(seconds(5)).await;
        assert_eq!(router.renew(spec.id, 0), Some(15_000));
    }
    let because = sleep_status(&running, spec.id);
    assert_eq!(because.awake_because, ["In use: 1 request."]);
    assert_eq!(simulation.count(spec.id, "freeze"), 0);
    // After the release only the idle time counts, from the last use on.
    router.release(spec.id);
    let idle = sleep_status(&running, spec.id);
    assert!(idle.freezes_at.is_some());
    assert!(idle.awake_because[0].starts_with("It was last used at "), "{idle:?}");
    let frozen = running.until_phase(spec.id, Phase::Frozen);
    timeout(seconds(11), frozen).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_lease_request_during_a_suspend_waits_for_it_and_is_granted() {
    let (ten, lease) = (Some(seconds(10)), seconds(1));
    let freezes = SleepSettings {
        freeze_after: ten,
        sleep_after: None,
        lease_duration: lease,
        ..SHORT_DELAYS
    };
    let stops = SleepSettings {
        freeze_after: None,
        sleep_after: ten,
        lease_duration: lease,
        ..SHORT_DELAYS
    };
    for (settings, calls) in [
        (freezes, ["start", "busy", "freeze", "thaw"]),
        (stops, ["start", "busy", "stop", "start"]),
    ] {
        let simulation = Simulation::new();
        let running = simulation.controller(settings);
        let spec = ready_tenant(&running).await;
        simulation.engine.set_behavior(
            spec.id,
            TenantBehavior { engine: seconds(1), ..TenantBehavior::default() },
        );
        sleep(Duration::from_millis(10_500)).await;
        assert_eq!(simulation.calls(spec.id), calls[..2], "the call is under way");
        let grant = Router::new(&running.controller).visit(spec.id).await.unwrap();
        assert_eq!(
            (grant.woke, simulation.calls(spec.id)),
            (true, calls.map(str::to_owned).to_vec())
        );
        let failed = |line: &&str| line.contains("result=\"failed\"");
        assert_eq!(running.controller.metrics_text(None).lines().find(failed), None);
    }
}

#[tokio::test(start_paused = true)]
async fn a_lease_request_during_the_busy_check_cancels_the_suspend() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    // A slow engine: the suspend acquires its turn long after the decision.
    simulation
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
    assert_eq!(simulation.count(spec.id, "busy"), 1, "decided, and waiting for its turn");
    let router = Router::new(&running.controller);
    let grant = router.visit(spec.id).await.unwrap();
    assert!(!grant.woke, "granted at once: the engine was not called yet");
    simulation.engine.set_behavior(spec.id, TenantBehavior::default());
    sleep(seconds(14)).await;
    assert!(router.renew(spec.id, 0).is_some());
    held.await.unwrap().unwrap();
    sleep(seconds(1)).await;
    assert_eq!(simulation.count(spec.id, "freeze"), 0);
}

#[tokio::test(start_paused = true)]
async fn an_owners_stop_overrides_leases_and_no_request_wakes_the_tenant() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    router.visit(spec.id).await.unwrap();
    let stopped = running.controller.operations.stop(spec.id).await.unwrap();
    assert_eq!((stopped.phase, router.renew(spec.id, 0)), (Phase::Stopped, None));
    let response = lease_error(router.visit(spec.id).await);
    assert_eq!((response.0, response.1), (409, "tenant_stopped"));
    assert_eq!(
        running.controller.sleep.wake(spec.id).await.unwrap_err().code.as_str(),
        "tenant_stopped"
    );

    let other = sleeping_tenant(&running).await;
    let (waited, stopped) =
        tokio::join!(router.visit(other.id), running.controller.operations.stop(other.id));
    assert_eq!((lease_error(waited).1, stopped.unwrap().phase), ("tenant_stopped", Phase::Stopped));
    // The next process knows that the owner stopped the tenant.
    drop(running);
    let next = simulation.controller_later(seconds(100), SHORT_DELAYS);
    next.until_phase(other.id, Phase::Stopped).await;
    assert_eq!(
        lease_error(Router::new(&next.controller).visit(other.id).await).1,
        "tenant_stopped"
    );
}

#[tokio::test(start_paused = true)]
async fn the_idle_time_survives_a_restart_and_nothing_sleeps_for_one_lease_duration() {
    let simulation = Simulation::new();
    let long = SleepSettings { freeze_after: None, sleep_after: Some(seconds(60)), ..SHORT_DELAYS };
    let running = simulation.controller(long);
    let spec = ready_tenant(&running).await;
    Router::new(&running.controller).visit(spec.id).await.unwrap();
    sleep(seconds(20)).await;
    let sleeps_at = sleep_status(&running, spec.id).sleeps_at.unwrap();
    drop(running);
    sleep(seconds(35)).await;
    let next = simulation.controller_later(seconds(56), long);
    next.until_phase(spec.id, Phase::Ready).await;
    let after = sleep_status(&next, spec.id);
    assert!(after.awake_because[0].starts_with("The orchestrator has just started"), "{after:?}");
    let early = next.until_phase(spec.id, Phase::Sleeping);
    assert!(timeout(Duration::from_millis(14_900), early).await.is_err(), "leases may be live");
    next.until_phase(spec.id, Phase::Sleeping).await;
    let slept = simulation.state_dir().read(spec.id);
    assert_eq!(slept.last_use.unwrap() + seconds(60), sleeps_at, "the idle time was not reset");
    // The process after that finds a sleeping tenant, not a crash.
    drop(next);
    let last = simulation.controller_later(seconds(100), long);
    assert_eq!(last.until_phase(spec.id, Phase::Sleeping).await.exits, 0);
    assert!(Router::new(&last.controller).visit(spec.id).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_with_an_unhealthy_service_is_served_after_a_restart() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    simulation
        .engine
        .set_behavior(spec.id, TenantBehavior { ready_after: None, ..TenantBehavior::default() });
    drop(running);
    let next = simulation
        .controller_later(seconds(1), SleepSettings { freeze_after: None, ..SHORT_DELAYS });
    next.until_phase(spec.id, Phase::Starting).await;
    let router = Router::new(&next.controller);
    assert_eq!(router.visit(spec.id).await.unwrap().generation, 1);
    router.release(spec.id);
    assert!(router.visit(spec.id).await.is_ok());
    assert_eq!(simulation.calls(spec.id), ["start"]);
}

fn backup() -> BusyList {
    let backup = r#"{"busy":[{"reason":"backup","owner":"core","until":"2099-01-01T00:00:00Z"}]}"#;
    serde_json::from_str(backup).unwrap()
}

#[tokio::test(start_paused = true)]
async fn declared_work_keeps_a_tenant_awake_up_to_its_policys_limit() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    simulation.engine.set_busy_list(spec.id, Ok(backup()));
    sleep(seconds(60)).await;
    running.until_phase(spec.id, Phase::Ready).await;
    let because = sleep_status(&running, spec.id).awake_because;
    assert!(because[0].starts_with("Busy inside since") && because[0].ends_with(": “backup”."));
    let capped = Policy { max_awake_seconds: Some(90), ..Policy::default() };
    running.controller.operations.apply(with_policy(&spec, capped)).await.unwrap();
    running.until_phase(spec.id, Phase::Frozen).await;
    let because = sleep_status(&running, spec.id).asleep_because.unwrap();
    assert!(because.contains("for longer than its policy allows"), "{because}");

    let mute = ready_tenant(&running).await;
    simulation
        .engine
        .set_busy_list(mute.id, Err(BusyError::NoResponse("no response within 200 ms".to_owned())));
    running.until_phase(mute.id, Phase::Frozen).await;
    let because = sleep_status(&running, mute.id).asleep_because.unwrap();
    assert!(because.ends_with("did not say whether it was busy: no response within 200 ms."));
    assert!(
        running
            .controller
            .metrics_text(None)
            .contains("cial_busy_checks_total{response=\"none\"} 1")
    );
}

/// Starts `count` tenants whose busy checks take as long as they may, and then another process, which finds all of them
/// idle at the same moment.
async fn find_idle(simulation: &Simulation, count: usize, busy: &BusyList) -> Running {
    let first = simulation.controller(AWAKE);
    let specs: Vec<_> = (0..count).map(|n| spec(&format!("t-{n}"), "")).collect();
    join_all(specs.iter().map(|spec| first.run(spec))).await;
    for spec in &specs {
        first.until_phase(spec.id, Phase::Ready).await;
        let slow = TenantBehavior { engine: CORE_BACK_TIMEOUT, ..TenantBehavior::default() };
        simulation.engine.set_behavior(spec.id, slow);
        simulation.engine.set_busy_list(spec.id, Ok(busy.clone()));
    }
    drop(first);
    let next = simulation.controller_later(seconds(3_600), SHORT_DELAYS);
    while count_calls(simulation, "busy") == 0 {
        sleep(Duration::from_millis(10)).await;
    }
    next
}

fn count_calls(simulation: &Simulation, call: &str) -> usize {
    simulation.engine.calls().iter().filter(|recorded| recorded.starts_with(call)).count()
}

#[tokio::test(start_paused = true)]
async fn three_hundred_idle_tenants_are_checked_within_two_seconds() {
    let simulation = Simulation::new();
    let _running = find_idle(&simulation, 300, &BusyList::default()).await;
    sleep(seconds(2)).await;
    assert!(count_calls(&simulation, "busy") >= 300);
}

/// More tenants than can be checked before the authority takes a report for missing.
#[tokio::test(start_paused = true)]
async fn a_busy_tenant_stays_awake_however_many_checks_wait() {
    let simulation = Simulation::new();
    let _running = find_idle(&simulation, 2_000, &backup()).await;
    sleep(seconds(30)).await;
    assert_eq!(count_calls(&simulation, "freeze"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_whose_busy_check_failed_locally_stays_awake() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    let error = BusyError::Local("Too many open files".to_owned());
    simulation.engine.set_busy_list(spec.id, Err(error));
    sleep(seconds(60)).await;
    assert_eq!(simulation.count(spec.id, "freeze"), 0);
    assert!(simulation.count(spec.id, "busy") > 1, "the check is repeated");
    let because = sleep_status(&running, spec.id).awake_because;
    assert!(because[0].contains("Too many open files"), "{because:?}");
    simulation.engine.set_busy_list(spec.id, Ok(BusyList::default()));
    running.until_phase(spec.id, Phase::Frozen).await;
}

#[tokio::test(start_paused = true)]
async fn work_declared_right_before_a_freeze_prevents_the_stop() {
    let (simulation, running, spec) = Simulation::with_frozen(SHORT_DELAYS).await;
    let backup = r#"{"busy":[{"reason":"backup","owner":"core","until":"2099-01-01T00:00:00Z"}]}"#;
    simulation.engine.set_busy_list(spec.id, Ok(serde_json::from_str(backup).unwrap()));
    running.until_phase(spec.id, Phase::Ready).await;
    sleep(seconds(60)).await;
    assert_eq!((simulation.count(spec.id, "freeze"), simulation.count(spec.id, "stop")), (1, 0));
    let because = sleep_status(&running, spec.id).awake_because;
    assert!(because[0].ends_with(": “backup”."), "{because:?}");
    let kept = "cial_sleeps_total{depth=\"sleeping\",result=\"kept_awake\"} 1";
    assert!(running.controller.metrics_text(None).contains(kept));
    simulation.engine.set_busy_list(spec.id, Ok(BusyList::default()));
    running.until_phase(spec.id, Phase::Sleeping).await;
    assert_eq!(simulation.calls(spec.id).last().unwrap(), "stop");
}

#[tokio::test(start_paused = true)]
async fn an_apply_to_a_frozen_or_sleeping_tenant_does_not_wake_it() {
    let (simulation, running, spec) = Simulation::with_frozen(SHORT_DELAYS).await;
    let never = Policy { sleep_after_seconds: Some(0), ..Policy::default() };
    let kept = running.controller.operations.apply(with_policy(&spec, never)).await.unwrap();
    assert_eq!((kept.phase, sleep_status(&running, spec.id).sleeps_at), (Phase::Frozen, None));
    sleep(seconds(60)).await;
    let kept = running.controller.operations.apply(apply(&spec, true)).await.unwrap();
    assert_eq!(kept.phase, Phase::Frozen);
    // The tenant's idle time is already over, so the policy stops it at once.
    running.until_phase(spec.id, Phase::Sleeping).await;
    let next = Spec { generation: 2, ..spec.clone() };
    let recreated = running.controller.operations.apply(apply(&next, true)).await.unwrap();
    assert_eq!((recreated.phase, recreated.generation), (Phase::Sleeping, 2));
    assert_ne!(recreated.container_id, kept.container_id);
    assert_eq!(simulation.count(spec.id, "start"), 1, "nothing of this woke it");
    let again = ApplyRequest { restart: true, ..apply(&next, true) };
    running.controller.operations.apply(again).await.unwrap();
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(simulation.count(spec.id, "start"), 2, "a restart does");
}

#[tokio::test(start_paused = true)]
async fn a_policy_applies_at_once_and_an_older_one_does_not_replace_it() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    simulation
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
        let because = sleep_status(&running, spec.id).awake_because;
        assert!(because.contains(&"Its policy is never to sleep.".to_owned()), "{because:?}");
        assert!(!changes[2].is_finished());
    }
    for change in changes {
        change.await.unwrap().unwrap();
    }
    assert_eq!(simulation.count(spec.id, "freeze"), 0);
}

#[tokio::test(start_paused = true)]
async fn a_deleted_tenant_is_unknown_and_has_no_state_file() {
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    let router = Router::new(&running.controller);
    let (waited, gone) =
        tokio::join!(router.visit(spec.id), running.controller.operations.delete(spec.id));
    gone.unwrap();
    assert!(["tenant_stopped", "no_such_tenant"].contains(&lease_error(waited).1));
    assert_eq!(lease_error(router.visit(spec.id).await).1, "no_such_tenant");
    sleep(seconds(30)).await;
    assert_eq!(std::fs::read_dir(simulation.state.path()).unwrap().count(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_state_file_is_not_written_with_every_renewal() {
    let (_simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
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
