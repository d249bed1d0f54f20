//! The reconciler reaches the desired state through every failure; each script must be played completely.

use axum::http::Method;
use protocol::orchestrator::{ObservedTenant, Phase};
use protocol::{State, TenantId};
use uuid::Uuid;

use crate::harness::{Call, FakeOrchestrator, Reply, Server, TestClient, acme, crashed, observed};

async fn request(owner: &TestClient, verb: &str) {
    let path = format!("/api/admin/tenants/acme/{verb}");
    let response = owner.send(Method::POST, &path, &[], "").await;
    assert_eq!(response.status, 202, "{}", response.text());
}

async fn delete(owner: &TestClient) {
    let response = owner.send(Method::DELETE, "/api/admin/tenants/acme", &[], "").await;
    assert_eq!(response.status, 202, "{}", response.text());
    assert_eq!(response.json()["state"], "deleting");
}

async fn with_acme(script: &[(Call, Reply)]) -> (Server, TestClient, TenantId) {
    let (server, owner) = Server::with_owner(FakeOrchestrator::scripted(script)).await;
    owner.post("/api/admin/tenants", acme()).await;
    let id = server.row("acme").await.tenant_id();
    (server, owner, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_running_once_it_is_ready() {
    let (server, owner, id) = with_acme(&[(Call::Run, Reply::Observed(Phase::Starting))]).await;
    server.until_state("acme", State::Starting).await;
    server.orchestrator.publish(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
    let shown = owner.get("/api/admin/tenants/acme").await.json();
    assert_eq!(shown["container_port"], 41_234);
    assert_eq!(shown["container_id"], format!("container-of-{id}"));
    assert_eq!(shown["revision"], 1, "what its owner wants is what it was");
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_container_is_prepared_as_it_is_started() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Run, Reply::Observed(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    request(&owner, "stop").await;
    server.until_state("acme", State::Stopped).await;
    server.orchestrator.publish_gone(id);
    request(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    let prepared = server.orchestrator.prepared_tenants.lock().unwrap().clone();
    let started = server.orchestrator.specs.lock().unwrap()[0].spec.clone();
    assert_eq!(prepared, [started], "once, beside the database");
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_stopped_started_restarted_and_deleted() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Restart, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Remove, Reply::Gone),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    request(&owner, "stop").await;
    server.until_state("acme", State::Stopped).await;
    request(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    request(&owner, "restart").await;
    server.until("acme", |t| t.is_some_and(|t| t.restarts_done == 1)).await;
    delete(&owner).await;
    server.until("acme", |tenant| tenant.is_none()).await;
    assert_eq!(owner.get("/api/admin/tenants/acme").await.problem(), "404 tenant_not_found");
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_requested_restart_is_shown_at_once() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Restart, Reply::Observed(Phase::Starting)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    let asked = owner.send(Method::POST, "/api/admin/tenants/acme/restart", &[], "").await;
    assert_eq!(asked.status, 202, "{}", asked.text());
    assert_eq!(asked.json()["state"], "starting");
    server.until("acme", |t| t.is_some_and(|t| t.restarts_done == 1)).await;
    assert_eq!(server.row("acme").await.state, State::Starting, "it is not what ran before");
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_requests_for_one_tenant_all_succeed() {
    let (_server, owner) = Server::with_running_acme().await;
    let asks = ["start", "restart", "stop"].map(|what| format!("/api/admin/tenants/acme/{what}"));
    let all = asks.iter().cycle().take(30).map(|path| owner.send(Method::POST, path, &[], ""));
    for response in futures_util::future::join_all(all).await {
        assert_eq!(response.status, 202, "{}", response.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_slug_is_free_again() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    for _ in 0..3 {
        assert_eq!(owner.post("/api/admin/tenants", acme()).await.status, 201);
        server.until_state("acme", State::Running).await;
        delete(&owner).await;
        server.until("acme", |tenant| tenant.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_missing_image_is_an_error_until_the_owner_starts_the_tenant() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Refused(422, "image_missing")),
        (Call::Run, Reply::Observed(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Error).await;
    let reason = server.row("acme").await.state_reason.unwrap();
    assert_eq!(reason, "The engine says image_missing. (image_missing)");
    request(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    assert_eq!(server.row("acme").await.state_reason, None);
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_engine_is_reported_and_retried() {
    let (server, _owner, _) = with_acme(&[
        (Call::Run, Reply::Refused(503, "engine_unavailable")),
        (Call::Run, Reply::Refused(503, "engine_unavailable")),
        (Call::Run, Reply::Observed(Phase::Ready)),
    ])
    .await;
    server.until("acme", |t| t.is_some_and(|t| t.state_reason.is_some())).await;
    assert_eq!(server.row("acme").await.state, State::Provisioning);
    server.until_state("acme", State::Running).await;
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_response_is_recovered_by_the_watch() {
    let (server, _owner, id) =
        with_acme(&[(Call::Run, Reply::ResponseLost(Phase::Starting))]).await;
    server.until_state("acme", State::Starting).await;
    server.orchestrator.publish(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_crashes_end_in_an_error_and_a_stop() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Starting)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Restart, Reply::Observed(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Starting).await;
    for n in 1..=5 {
        server.orchestrator.publish(crashed(id, n));
    }
    server.until_state("acme", State::Error).await;
    assert!(server.row("acme").await.state_reason.unwrap().contains("exit code 3"));
    server.until("acme", |t| t.is_some_and(|t| t.upstream.is_none())).await;
    assert_eq!(server.row("acme").await.state, State::Error, "stopped, and still an error");
    request(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.assert_script_done();
}

/// Otherwise the engine goes on restarting the container of the old image, ever more slowly.
#[tokio::test(flavor = "multi_thread")]
async fn a_start_before_the_stop_of_a_crash_loop_replaces_the_container() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Starting)),
        (Call::Stop, Reply::Refused(422, "no_stop_yet")),
        (Call::Restart, Reply::Observed(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Starting).await;
    for n in 1..=5 {
        server.orchestrator.publish(crashed(id, n));
    }
    let is_refused = |reason: &String| reason.contains("no_stop_yet");
    server
        .until("acme", |t| t.is_some_and(|t| t.state_reason.as_ref().is_some_and(is_refused)))
        .await;
    request(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_never_becomes_ready_is_an_error() {
    let (server, _owner, id) = with_acme(&[(Call::Run, Reply::Observed(Phase::Starting))]).await;
    server.until_state("acme", State::Starting).await;
    server.advance_clock(std::time::Duration::from_secs(121));
    server.until_state("acme", State::Error).await;
    server.orchestrator.publish(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_removed_by_hand_is_recreated() {
    let (server, _owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Run, Reply::Observed(Phase::Starting)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.publish_gone(id);
    server.until_state("acme", State::Starting).await;
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn frozen_and_sleeping_tenants_are_left_alone() {
    let (server, _owner, id) = with_acme(&[(Call::Run, Reply::Observed(Phase::Ready))]).await;
    server.until_state("acme", State::Running).await;
    for (phase, state) in [
        (Phase::Frozen, State::Frozen),
        (Phase::Sleeping, State::Sleeping),
        (Phase::Starting, State::Starting),
        (Phase::Ready, State::Running),
        (Phase::Frozen, State::Frozen),
    ] {
        server.orchestrator.publish(observed(id, phase));
        server.until_state("acme", state).await;
    }
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owners_start_wakes_a_sleeping_tenant_once() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Wake, Reply::Refused(503, "wake_queue_full")),
        (Call::Wake, Reply::Observed(Phase::Starting)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.publish(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    request(&owner, "start").await;
    server.until_state("acme", State::Starting).await;
    server.until("acme", |t| t.is_some_and(|t| t.wakes_done == 1)).await;
    server.orchestrator.publish(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
    server.orchestrator.publish(observed(id, Phase::Frozen));
    server.until_state("acme", State::Frozen).await;
    server.orchestrator.assert_script_done();
}

/// The row still shows a running tenant although the tenant fell asleep a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn an_owners_start_is_not_lost_when_the_row_is_stale() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Wake, Reply::Observed(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    request(&owner, "start").await;
    server.until("acme", |t| t.is_some_and(|t| t.wakes_done == 1)).await;
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fatally_refused_wake_is_not_retried() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Wake, Reply::Refused(422, "image_missing")),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.publish(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    request(&owner, "start").await;
    server.until("acme", |t| t.is_some_and(|t| t.wakes_asked == 1 && t.wakes_done == 1)).await;
    assert_eq!(server.row("acme").await.state, State::Sleeping);
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_change_leaves_the_tenant_running() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Run, Reply::Refused(502, "engine_refused")),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    let limits = serde_json::json!({ "limits": { "memory_bytes": 33_554_432 } });
    owner.json(Method::PATCH, "/api/admin/tenants/acme", &[], limits).await;
    server.until("acme", |t| t.is_some_and(|t| t.state_reason.is_some())).await;
    let row = server.row("acme").await;
    assert_eq!((row.state, row.changes_asked, row.changes_done), (State::Running, 1, 0));
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_requested_during_an_outage_is_not_lost() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Wake, Reply::Observed(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.publish(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    server.orchestrator.set_reachable(false);
    while server.visitor.get("/readyz").await.json()["orchestrator"] == "connected" {}
    request(&owner, "start").await;
    let server = server.restart().await;
    server.orchestrator.set_reachable(true);
    server.until_state("acme", State::Running).await;
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_generation_and_a_change_do_not_wake_a_tenant() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Run, Reply::Observed(Phase::Sleeping)),
        (Call::Run, Reply::Newer(Phase::Sleeping)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.publish(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    let policy = serde_json::json!({ "policy": { "wake_on": "any_request" } });
    owner.json(Method::PATCH, "/api/admin/tenants/acme", &[], policy).await;
    server.until("acme", |t| t.is_some_and(|t| t.changes_asked == 1 && t.changes_done == 1)).await;
    server.database.sql("UPDATE tenants SET generation = 2").await;
    server.until("acme", |_| server.orchestrator.calls().len() == 3).await;
    assert_eq!(server.row("acme").await.state, State::Sleeping);
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_control_plane_continues_after_its_restart() {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let server = server.restart().await;
    assert_eq!(server.row("acme").await.state, State::Provisioning);
    server.orchestrator.set_reachable(true);
    server.until_state("acme", State::Running).await;
    assert_eq!(server.orchestrator.calls(), [Call::Run]);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_orchestrator_does_not_mean_absent_tenants() {
    let (server, _owner, id) = with_acme(&[(Call::Run, Reply::Observed(Phase::Ready))]).await;
    server.until_state("acme", State::Running).await;
    let before = server.row("acme").await;
    server.orchestrator.set_reachable(false);
    while server.visitor.get("/readyz").await.json()["orchestrator"] == "connected" {}
    server.orchestrator.set_reachable(true);
    while server.visitor.get("/readyz").await.json()["orchestrator"] != "connected" {}
    server
        .orchestrator
        .publish(ObservedTenant { reason: Some("x".into()), ..observed(id, Phase::Ready) });
    server.until("acme", |t| t.is_some_and(|t| t.state_reason.is_some())).await;
    let after = server.row("acme").await;
    assert_eq!((after.state, after.state_since), (before.state, before.state_since));
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_wins_over_concurrent_starts() {
    for _ in 0..5 {
        let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
        let path = |verb: &str| format!("/api/admin/tenants/acme/{verb}");
        let starts = ["start", "stop", "restart", "start"].map(|verb| {
            let (owner, path) = (owner.clone(), path(verb));
            async move { owner.send(Method::POST, &path, &[], "").await }
        });
        let (_, deleted) = tokio::join!(
            futures_util::future::join_all(starts),
            owner.send(Method::DELETE, "/api/admin/tenants/acme", &[], "")
        );
        assert_eq!(deleted.status, 202);
        server.until("acme", |tenant| tenant.is_none()).await;
        assert_eq!(server.database.count("departed").await, 1);
        server.stop().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn only_containers_of_known_tenants_are_removed() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Remove, Reply::Gone),
        (Call::Remove, Reply::Gone),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    let foreign = TenantId::new(Uuid::now_v7());
    server.orchestrator.publish(observed(foreign, Phase::Ready));
    delete(&owner).await;
    server.until("acme", |tenant| tenant.is_none()).await;
    // The leftover container of the deleted tenant is removed; the foreign container stays.
    server.orchestrator.publish(observed(id, Phase::Exited));
    while server.orchestrator.observed(id).is_some() {
        tokio::task::yield_now().await;
    }
    assert!(server.orchestrator.observed(foreign).is_some());
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_changed_by_hand_is_reconciled() {
    let (server, _owner, _) = with_acme(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.database.sql("UPDATE tenants SET desired = 'stopped'").await;
    server.until_state("acme", State::Stopped).await;
    server.orchestrator.assert_script_done();
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_tenants_are_created_at_once() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let all = (0..40).map(|n| {
        let request = serde_json::json!({ "slug": format!("t-{n:02}"), "name": "T" });
        owner.post("/api/admin/tenants", request)
    });
    for response in futures_util::future::join_all(all).await {
        assert_eq!(response.status, 201);
    }
    for n in 0..40 {
        server.until_state(&format!("t-{n:02}"), State::Running).await;
    }
    assert_eq!(server.orchestrator.calls(), vec![Call::Run; 40]);
}
