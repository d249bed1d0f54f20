//! Ended admin sessions reach the tenants whose sessions derive from them. The tests use the engine
//! in memory and virtual time.

use std::time::Duration;

use protocol::TenantId;
use protocol::orchestrator::{ApplyRequest, Phase};
use protocol::spec::Spec;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::support::apply;
use crate::support::router::Router;
use crate::support::simulation::{SHORT_DELAYS, Simulation, frozen_tenant, sleeping_tenant};

const ENDED: Uuid = Uuid::from_u128(7);
const OTHER: Uuid = Uuid::from_u128(8);

fn revoke(spec: &Spec, sessions: &[Uuid]) -> ApplyRequest {
    ApplyRequest { revoked_sessions: sessions.to_vec(), ..apply(spec, true) }
}

async fn until_revoked(simulation: &Simulation, id: TenantId, expected: &[&[Uuid]]) {
    let acknowledged = async {
        while simulation.engine.revoked(id) != expected {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let within = timeout(Duration::from_secs(1), acknowledged).await;
    assert!(within.is_ok(), "{:?} instead of {expected:?}", simulation.engine.revoked(id));
}

#[tokio::test(start_paused = true)]
async fn a_running_tenant_receives_the_ended_sessions_at_once() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    until_revoked(&simulation, spec.id, &[&[ENDED]]).await;
    // The same list again triggers no delivery; a longer list does.
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    running.controller.operations.apply(revoke(&spec, &[ENDED, OTHER])).await.unwrap();
    until_revoked(&simulation, spec.id, &[&[ENDED], &[ENDED, OTHER]]).await;
}

#[tokio::test(start_paused = true)]
async fn an_unacknowledged_revocation_is_repeated() {
    let (simulation, running, spec) = Simulation::with_ready(SHORT_DELAYS).await;
    simulation.engine.fail_revocations(spec.id, 2);
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    until_revoked(&simulation, spec.id, &[&[ENDED]]).await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_or_sleeping_tenant_receives_the_ended_sessions_when_it_wakes() {
    let (simulation, running) = Simulation::start(SHORT_DELAYS);
    for suspended in [frozen_tenant(&running).await, sleeping_tenant(&running).await] {
        running.controller.operations.apply(revoke(&suspended, &[ENDED])).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        assert!(
            simulation.engine.revoked(suspended.id).is_empty(),
            "a suspended tenant cannot receive it"
        );
        Router::new(&running.controller).visit(suspended.id).await.unwrap();
        until_revoked(&simulation, suspended.id, &[&[ENDED]]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_ended_sessions_survive_a_restart_of_the_orchestrator() {
    let (simulation, running, spec) = Simulation::with_sleeping(SHORT_DELAYS).await;
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    drop(running);
    let running = simulation.controller_later(Duration::from_secs(60), SHORT_DELAYS);
    running.until_phase(spec.id, Phase::Sleeping).await;
    Router::new(&running.controller).visit(spec.id).await.unwrap();
    until_revoked(&simulation, spec.id, &[&[ENDED]]).await;
}
