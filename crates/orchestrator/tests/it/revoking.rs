//! Ended admin sessions reach the tenants whose sessions derive from them. The tests use the engine
//! in memory and virtual time.

use std::time::Duration;

use protocol::TenantId;
use protocol::orchestrator::{ApplyRequest, Phase};
use protocol::spec::Spec;
use tokio::time::{sleep, timeout};
use uuid::Uuid;

use crate::support::apply;
use crate::support::asking::Router;
use crate::support::doze::{RULES, World, asleep, frozen, ready};

const ENDED: Uuid = Uuid::from_u128(7);
const OTHER: Uuid = Uuid::from_u128(8);

fn revoke(spec: &Spec, sessions: &[Uuid]) -> ApplyRequest {
    ApplyRequest { revoked_sessions: sessions.to_vec(), ..apply(spec, true) }
}

async fn until_revoked(world: &World, id: TenantId, expected: &[&[Uuid]]) {
    let acknowledged = async {
        while world.engine.revoked(id) != expected {
            sleep(Duration::from_millis(10)).await;
        }
    };
    let within = timeout(Duration::from_secs(1), acknowledged).await;
    assert!(within.is_ok(), "{:?} instead of {expected:?}", world.engine.revoked(id));
}

#[tokio::test(start_paused = true)]
async fn a_running_tenant_receives_the_ended_sessions_at_once() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    until_revoked(&world, spec.id, &[&[ENDED]]).await;
    // The same list again triggers no delivery; a longer list does.
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    running.controller.operations.apply(revoke(&spec, &[ENDED, OTHER])).await.unwrap();
    until_revoked(&world, spec.id, &[&[ENDED], &[ENDED, OTHER]]).await;
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_does_not_acknowledge_is_asked_again() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = ready(&running).await;
    world.engine.fail_revocations(spec.id, 2);
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    until_revoked(&world, spec.id, &[&[ENDED]]).await;
}

#[tokio::test(start_paused = true)]
async fn a_frozen_or_sleeping_tenant_receives_the_ended_sessions_when_it_wakes() {
    let world = World::new();
    let running = world.controller(RULES);
    for suspended in [frozen(&running).await, asleep(&running).await] {
        running.controller.operations.apply(revoke(&suspended, &[ENDED])).await.unwrap();
        sleep(Duration::from_millis(500)).await;
        assert!(world.engine.revoked(suspended.id).is_empty(), "nobody listens there");
        Router::new(&running.controller).visit(suspended.id).await.unwrap();
        until_revoked(&world, suspended.id, &[&[ENDED]]).await;
    }
}

#[tokio::test(start_paused = true)]
async fn the_ended_sessions_survive_a_restart_of_the_orchestrator() {
    let world = World::new();
    let running = world.controller(RULES);
    let spec = asleep(&running).await;
    running.controller.operations.apply(revoke(&spec, &[ENDED])).await.unwrap();
    drop(running);
    let running = world.controller_later(Duration::from_secs(60), RULES);
    running.until_phase(spec.id, Phase::Sleeping).await;
    Router::new(&running.controller).visit(spec.id).await.unwrap();
    until_revoked(&world, spec.id, &[&[ENDED]]).await;
}
