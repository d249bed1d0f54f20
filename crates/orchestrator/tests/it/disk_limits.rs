//! A tenant over its disk limit stops by itself and starts only when its owner raises the limit.
//! The tests use virtual time.

use orchestrator::driver::{Driver as _, DriverErrorCode};
use protocol::orchestrator::{DiskEnforcement, Phase};
use protocol::spec::{Limits, Spec};

use crate::support::router::{Router, lease_error};
use crate::support::simulation::{SHORT_DELAYS, Simulation, seconds};
use crate::support::{AWAKE, apply};

fn raised(spec: &Spec) -> Spec {
    Spec { limits: Limits { disk_bytes: 20 << 30, ..spec.limits }, ..spec.clone() }
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_fills_its_disk_is_stopped_within_seconds_and_is_no_crash() {
    let (simulation, running, spec) = Simulation::with_ready(AWAKE).await;
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
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    simulation.engine.set_disk_bytes(spec.id, 11 << 30);
    tokio::time::sleep(seconds(700)).await;
    let visit = Router::new(&running.controller).visit(spec.id).await;
    let (status, _, _, detail) = lease_error(visit);
    assert!(status >= 500 && detail.contains("Raise its disk limit"), "{status} {detail}");
    running.run(&raised(&spec)).await;
    assert!(Router::new(&running.controller).visit(spec.id).await.unwrap().woke);
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_the_filesystem_enforces_stops_nobody_until_it_does_not() {
    let (simulation, running, spec) = Simulation::with_ready(AWAKE).await;
    let limit_bytes = spec.limits.disk_bytes;
    simulation.engine.enforce_disk_limit(spec.id, limit_bytes);
    // The engine counts holes in files, too, and the filesystem does not.
    simulation.engine.set_disk_bytes(spec.id, limit_bytes + 1);
    tokio::time::sleep(seconds(700)).await;
    assert_eq!(simulation.count(spec.id, "stop"), 0);
    let enforced_by = || running.controller.operations.disk_use(spec.id).unwrap().enforced_by;
    assert_eq!(enforced_by(), DiskEnforcement::Filesystem);

    simulation.engine.end_quotas();
    assert_eq!(enforced_by(), DiskEnforcement::Measurement);
    // The engine measures again.
    tokio::time::sleep(seconds(700)).await;
    running.until_phase(spec.id, Phase::Exited).await;
}

#[tokio::test(start_paused = true)]
async fn a_limit_that_was_not_set_on_the_filesystem_is_set_later() {
    let (simulation, running, spec) = Simulation::with_ready(AWAKE).await;
    simulation.engine.enforce_disk_limit(spec.id, 1 << 30);
    let enforced_by = || running.controller.operations.disk_use(spec.id).unwrap().enforced_by;
    assert_eq!(enforced_by(), DiskEnforcement::Measurement, "it is another limit");
    tokio::time::sleep(seconds(20)).await;
    assert_eq!(enforced_by(), DiskEnforcement::Filesystem);
    let quota = simulation.engine.quota(spec.id).unwrap();
    assert_eq!(quota.limit_bytes, spec.limits.disk_bytes);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_is_told_its_share_of_the_disk_when_that_changes() {
    let (simulation, running, spec) = Simulation::with_ready(AWAKE).await;
    tokio::time::sleep(seconds(700)).await;
    let told = || {
        let reports = simulation.engine.disk_reports().into_iter();
        let of_tenant = reports.filter(|report| report.tenant == spec.id);
        of_tenant.map(|report| (report.limit_bytes, report.used_bytes)).collect::<Vec<_>>()
    };
    let before = told();
    assert_eq!(before.last().map(|(limit, _)| *limit), Some(spec.limits.disk_bytes));
    tokio::time::sleep(seconds(700)).await;
    assert_eq!(told(), before, "nothing changed");
    simulation.engine.set_disk_bytes(spec.id, 1 << 30);
    tokio::time::sleep(seconds(700)).await;
    running.run(&raised(&spec)).await;
    tokio::time::sleep(seconds(20)).await;
    let after = told();
    let expected = [(spec.limits.disk_bytes, Some(1 << 30)), (20 << 30, Some(1 << 30))];
    assert_eq!(after[before.len()..], expected);
}

#[tokio::test(start_paused = true)]
async fn an_engine_that_cannot_measure_stops_nobody() {
    let (simulation, running, spec) = Simulation::with_ready(AWAKE).await;
    simulation.engine.set_disk_bytes(spec.id, 11 << 30);
    simulation.engine.disconnect("gone");
    tokio::time::sleep(seconds(30)).await;
    simulation.engine.reconnect();
    assert_eq!(simulation.count(spec.id, "stop"), 0);
    running.until_phase(spec.id, Phase::Exited).await;
}
