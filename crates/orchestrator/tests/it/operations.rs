//! Operations run one at a time per tenant, and a delete precedes all others. The tests use the
//! engine in memory and virtual time.

use std::time::Duration;

use orchestrator::driver::memory::TenantBehavior;
use orchestrator::driver::{DriverError, DriverErrorCode};
use protocol::leases::RenewRequest;
use protocol::orchestrator::{ApplyRequest, ObservedTenant, Phase};
use protocol::spec::Spec;
use uuid::Uuid;

use crate::support::simulation::Simulation;
use crate::support::{AWAKE, apply, spec};

fn code<T: std::fmt::Debug>(outcome: Result<T, DriverError>) -> DriverErrorCode {
    outcome.unwrap_err().code
}

#[tokio::test(start_paused = true)]
async fn twenty_applies_at_once_make_one_container() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(AWAKE);
    let applies = (0..20).map(|_| running.controller.operations.apply(apply(&spec, true)));
    let seen = futures_util::future::join_all(applies).await;
    let first = seen[0].as_ref().unwrap().container_id.clone();
    assert!(seen.iter().all(|s| s.as_ref().unwrap().container_id == first));
    assert_eq!(simulation.engine.calls(), ["create acme".to_owned(), format!("start {}", spec.id)]);
}

#[tokio::test(start_paused = true)]
async fn an_apply_returns_after_the_start_call_and_readiness_is_published_later() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let slow =
        TenantBehavior { ready_after: Some(Duration::from_secs(5)), ..TenantBehavior::default() };
    simulation.engine.set_behavior(spec.id, slow);
    let running = simulation.controller(AWAKE);
    let response = running.run(&spec).await;
    assert_eq!((response.phase, response.upstream), (Phase::Starting, None));
    let ready = running.until_phase(spec.id, Phase::Ready).await;
    assert!(ready.upstream.is_some() && ready.reason.is_none(), "{ready:?}");
}

#[tokio::test(start_paused = true)]
async fn a_prepared_container_is_only_started_by_an_apply() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(AWAKE);
    running.controller.operations.prepare(spec.clone()).await.unwrap();
    running.until_phase(spec.id, Phase::Created).await;
    assert_eq!(simulation.engine.calls(), ["create acme"]);
    running.run(&spec).await;
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(simulation.engine.calls(), ["create acme".to_owned(), format!("start {}", spec.id)]);
}

#[tokio::test(start_paused = true)]
async fn a_late_prepare_undoes_nothing() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    let before = running.until_phase(spec.id, Phase::Ready).await;
    let calls = simulation.engine.calls();
    let late = Spec { generation: 9, ..spec.clone() };
    running.controller.operations.prepare(late).await.unwrap();
    assert_eq!(simulation.engine.calls(), calls);
    assert_eq!(running.until_phase(spec.id, Phase::Ready).await, before);
    running.controller.operations.delete(spec.id).await.unwrap();
    let deleted = running.controller.operations.prepare(spec).await;
    assert_eq!(code(deleted), DriverErrorCode::TenantDeleted);
}

#[tokio::test(start_paused = true)]
async fn an_apply_to_a_running_tenant_changes_nothing() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    let before = running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(running.run(&spec).await, before);
    assert_eq!(simulation.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_restart_starts_the_container_again_and_counts_no_exit() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    running.until_phase(spec.id, Phase::Ready).await;
    let again = ApplyRequest { restart: true, ..apply(&spec, true) };
    running.controller.operations.apply(again).await.unwrap();
    let ready = running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!((simulation.starts(), ready.exits, ready.last_exit), (2, 0, None));
}

#[tokio::test(start_paused = true)]
async fn a_restart_without_a_required_secret_ends_nothing_that_runs() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    running.until_phase(spec.id, Phase::Ready).await;
    let lacking = TenantBehavior { lacks_secret: true, ..TenantBehavior::default() };
    simulation.engine.set_behavior(spec.id, lacking);
    let before = simulation.engine.calls();
    let restart = || ApplyRequest { restart: true, ..apply(&spec, true) };
    let refused = running.controller.operations.apply(restart()).await;
    assert_eq!(code(refused), DriverErrorCode::SecretMissing);
    assert_eq!(simulation.engine.calls(), before, "neither a stop nor a start");
    running.until_phase(spec.id, Phase::Ready).await;
    // Without a restart, the running program keeps what it started with.
    running.controller.operations.apply(apply(&spec, true)).await.unwrap();

    simulation.engine.set_behavior(spec.id, TenantBehavior::default());
    running.controller.operations.apply(restart()).await.unwrap();
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(simulation.starts(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_stop_is_no_exit_even_for_the_next_process() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    let stopped = running.controller.operations.stop(spec.id).await.unwrap();
    assert_eq!((stopped.phase, stopped.exits), (Phase::Stopped, 0));
    assert_eq!((stopped.container_port, stopped.upstream), (None, None));
    drop(running);
    let next = simulation.controller(AWAKE);
    next.until_phase(spec.id, Phase::Stopped).await;
    let woken = next.run(&spec).await;
    assert_eq!((woken.phase, woken.container_id), (Phase::Starting, stopped.container_id));
    assert_eq!((woken.exits, woken.last_exit), (0, None));
    next.controller.operations.stop(spec.id).await.unwrap();
    let again = next.run(&spec).await;
    assert_eq!((again.exits, again.last_exit), (0, None));
}

#[tokio::test(start_paused = true)]
async fn an_apply_without_run_stops_the_tenant() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(AWAKE);
    let created = running.controller.operations.apply(apply(&spec, false)).await.unwrap();
    assert_eq!(created.phase, Phase::Created);
    running.run(&spec).await;
    let stopped = running.controller.operations.apply(apply(&spec, false)).await.unwrap();
    assert_eq!(stopped.phase, Phase::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_crash_is_counted_with_its_code_and_its_readiness() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    running.until_phase(spec.id, Phase::Ready).await;
    simulation.engine.exit_container(spec.id, 9);
    let exited = running.until_phase(spec.id, Phase::Exited).await;
    let exit = exited.last_exit.unwrap();
    assert_eq!((exited.exits, exit.code, exit.was_ready), (1, 9, true));
    assert_eq!(exited.reason.unwrap(), "Its container ended with code 9; see its logs.");

    let hopeless = TenantBehavior {
        ready_after: None,
        exits_after: Some((Duration::from_millis(5), 1)),
        ..TenantBehavior::default()
    };
    simulation.engine.set_behavior(spec.id, hopeless);
    for round in 2..=5 {
        running.run(&spec).await;
        let exited = running
            .until(spec.id, |o| o.is_some_and(|o| o.exits == round && o.phase == Phase::Exited))
            .await
            .unwrap();
        assert!(!exited.last_exit.unwrap().was_ready);
    }
    // The log of the engine in memory names the container.
    let shows_log = |o: Option<&ObservedTenant>| {
        o.and_then(|o| o.last_lines.as_deref()).is_some_and(|lines| lines.starts_with("container "))
    };
    running.until(spec.id, shows_log).await;
}

#[tokio::test(start_paused = true)]
async fn a_delete_refuses_waiting_and_later_starts() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(AWAKE);
    let controller = &running.controller;
    let (first, gone, late) = tokio::join!(
        controller.operations.apply(apply(&spec, true)),
        controller.operations.delete(spec.id),
        controller.operations.apply(apply(&spec, true)),
    );
    gone.unwrap();
    // The first apply may have ended before the delete; its container is gone, too.
    assert!(first.is_ok() || code(first) == DriverErrorCode::TenantDeleted);
    assert_eq!(code(late), DriverErrorCode::TenantDeleted);
    assert_eq!(
        code(controller.operations.apply(apply(&spec, true)).await),
        DriverErrorCode::TenantDeleted
    );
    assert_eq!(code(controller.operations.stop(spec.id).await), DriverErrorCode::TenantDeleted);
    running.until(spec.id, |o| o.is_none()).await;
    assert!(!simulation.engine.has_volumes(spec.id));
    assert_eq!(simulation.starts(), 0, "{:?}", simulation.engine.calls());
    controller.operations.delete(spec.id).await.unwrap();
}

#[tokio::test(start_paused = true)]
async fn an_unreachable_engine_keeps_the_known_phases_and_gives_a_reason() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    let ready = running.until_phase(spec.id, Phase::Ready).await;
    simulation.engine.disconnect("The container engine is not reachable.");
    let unreachable =
        running.until(spec.id, |o| o.is_some_and(|o| o.reason.is_some())).await.unwrap();
    assert_eq!((unreachable.phase, &unreachable.upstream), (Phase::Ready, &ready.upstream));
    assert_eq!(
        running.controller.store.engine_status().unwrap_err(),
        "The container engine is not reachable."
    );
    assert_eq!(
        code(running.controller.operations.apply(apply(&spec, true)).await),
        DriverErrorCode::EngineUnreachable
    );
    assert_eq!(
        code(
            running.controller.operations.delete(Uuid::now_v7().to_string().parse().unwrap()).await
        ),
        DriverErrorCode::EngineUnreachable
    );
    simulation.engine.reconnect();
    running.until(spec.id, |o| o == Some(&ready)).await;
    assert_eq!(running.controller.store.engine_status(), Ok(()));
}

#[tokio::test(start_paused = true)]
async fn a_lack_of_descriptors_is_not_an_unreachable_engine() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    let ready = running.until_phase(spec.id, Phase::Ready).await;
    simulation.engine.fail_calls(DriverErrorCode::OutOfResources, "Too many open files.");
    running.controller.operations.resync().await;
    assert_eq!(running.controller.store.engine_status(), Ok(()));
    assert_eq!(running.controller.store.feed().unwrap().get(&spec.id), Some(ready));
    let error = running.controller.operations.apply(apply(&spec, true)).await.unwrap_err();
    assert_eq!(error.code, DriverErrorCode::OutOfResources);
    let shown = running.controller.store.feed().unwrap().get(&spec.id).unwrap();
    assert_eq!(shown.reason, None, "it is not about the tenant");
}

#[tokio::test(start_paused = true)]
async fn no_tenant_counts_as_gone_before_the_first_listing() {
    let simulation = Simulation::new();
    simulation.engine.disconnect("unreachable");
    let running = simulation.controller(AWAKE);
    running.controller.operations.resync().await;
    assert_eq!(
        running.controller.store.feed().map(|_| ()).unwrap_err().code,
        DriverErrorCode::NotListed
    );
    // "No lease" would end the leases of an earlier process, even in an empty response.
    let renew = RenewRequest { holder: uuid::Uuid::now_v7(), leases: Vec::new() };
    let none = running.controller.sleep.renew_leases(&renew).unwrap_err();
    assert_eq!((none.code.status(), none.code.as_str()), (503, "not_listed"));
    simulation.engine.reconnect();
    running.controller.operations.resync().await;
    assert!(running.controller.store.feed().is_ok());
    assert!(running.controller.sleep.renew_leases(&renew).is_ok());
}

#[tokio::test(start_paused = true)]
async fn changes_by_other_programs_are_observed() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    let before = running.until_phase(spec.id, Phase::Ready).await;
    simulation.engine.pause_externally(spec.id);
    running.until_phase(spec.id, Phase::Frozen).await;
    simulation.engine.remove_externally(spec.id);
    running.until(spec.id, |o| o.is_none()).await;
    running.run(&spec).await;
    let after = running.until_phase(spec.id, Phase::Ready).await;
    assert_ne!(after.container_id, before.container_id);
}

#[tokio::test(start_paused = true)]
async fn a_rebuilt_image_is_reported_and_used_at_the_next_start() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    let before = running.until_phase(spec.id, Phase::Ready).await;
    simulation.engine.rebuild_image();
    running.until(spec.id, |o| o.is_some_and(|o| o.image_outdated)).await;
    assert_eq!(
        running.run(&spec).await.container_id,
        before.container_id,
        "a running container is kept"
    );
    running.controller.operations.stop(spec.id).await.unwrap();
    let after = running.run(&spec).await;
    assert!(after.container_id != before.container_id && !after.image_outdated, "{after:?}");
}

#[tokio::test(start_paused = true)]
async fn an_engine_error_is_the_tenants_reason_until_the_next_success() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(AWAKE);
    running.controller.operations.apply(apply(&spec, false)).await.unwrap();
    simulation
        .engine
        .set_behavior(spec.id, TenantBehavior { image_exists: false, ..TenantBehavior::default() });
    let next = Spec { generation: 2, ..spec.clone() };
    let refusal = running.controller.operations.apply(apply(&next, true)).await.unwrap_err();
    assert_eq!(refusal.code, DriverErrorCode::ImageMissing);
    let seen = running.until(spec.id, |o| o.is_some_and(|o| o.reason.is_some())).await.unwrap();
    assert_eq!(seen.reason, Some(refusal.detail));
    simulation.engine.set_behavior(spec.id, TenantBehavior::default());
    running.run(&next).await;
    let ready = running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(ready.reason, None);
}

#[tokio::test(start_paused = true)]
async fn an_apply_completes_after_its_caller_left() {
    let (simulation, spec) = (Simulation::new(), spec("acme", ""));
    let running = simulation.controller(AWAKE);
    let operation = running.controller.operations.apply(apply(&spec, true));
    assert!(tokio::time::timeout(Duration::from_millis(1), operation).await.is_err());
    running.until_phase(spec.id, Phase::Ready).await;
    assert_eq!(simulation.starts(), 1);
}

#[tokio::test(start_paused = true)]
async fn the_temporary_file_of_a_killed_process_is_removed_at_the_next_start() {
    let (simulation, running, spec) = Simulation::with_run(AWAKE).await;
    drop(running);
    std::fs::write(simulation.state.path().join(format!(".{}.json", spec.id)), "{").unwrap();
    let next = simulation.controller(AWAKE);
    next.until_phase(spec.id, Phase::Ready).await;
    let entries = std::fs::read_dir(simulation.state.path()).unwrap();
    let names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert_eq!(names, [format!("{}.spec.json", spec.id)]);
}
