//! A tenant over its disk limit stops by itself and starts only when its owner raises the limit.
//! The tests use virtual time.

use orchestrator::driver::DriverErrorCode;
use protocol::orchestrator::Phase;
use protocol::spec::{Limits, Spec};

use crate::support::router::{Router, lease_error};
use crate::support::simulation::{
    SHORT_DELAYS, Simulation, ready_tenant, seconds, sleeping_tenant,
};
use crate::support::{AWAKE, apply};

fn raised(spec: &Spec) -> Spec {
    Spec { limits: Limits { disk_bytes: 20 << 30, ..spec.limits }, ..spec.clone() }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_fills_its_disk_is_stopped_within_seconds_and_is_no_crash() {
    let simulation = Simulation::new();
    let running = simulation.controller(AWAKE);
    let spec = ready_tenant(&running).await;
    // The first measurement is over before the tenant writes.
    tokio::time::sleep(seconds(20)).await;
    simulation.engine.set_disk_bytes(spec.id, 11 << 30);
    let stopped = running.until_phase(spec.id, Phase::Exited).await;
    assert_eq!(stopped.exits, 0);
    let error = running.controller.operations.apply(apply(&spec, true)).await.unwrap_err();
    assert_eq!(error.code, DriverErrorCode::DiskLimitReached, "{error}");
    running.run(&raised(&spec)).await;
    running.until_phase(spec.id, Phase::Ready).await;
}

#[tokio::test(start_paused = true)]
async fn a_visit_does_not_wake_a_tenant_that_is_over_its_limit() {
    let simulation = Simulation::new();
    let running = simulation.controller(SHORT_DELAYS);
    let spec = sleeping_tenant(&running).await;
    simulation.engine.set_disk_bytes(spec.id, 11 << 30);
    tokio::time::sleep(seconds(700)).await;
    let visit = Router::new(&running.controller).visit(spec.id).await;
    let (status, _, _, detail) = lease_error(visit);
    assert!(status >= 500 && detail.contains("Raise its disk limit"), "{status} {detail}");
    running.run(&raised(&spec)).await;
    assert!(Router::new(&running.controller).visit(spec.id).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_measure_stops_nobody() {
    let simulation = Simulation::new();
    let running = simulation.controller(AWAKE);
    let spec = ready_tenant(&running).await;
    simulation.engine.set_disk_bytes(spec.id, 11 << 30);
    simulation.engine.disconnect("gone");
    tokio::time::sleep(seconds(30)).await;
    simulation.engine.reconnect();
    assert_eq!(simulation.count(spec.id, "stop"), 0);
    running.until_phase(spec.id, Phase::Exited).await;
}
