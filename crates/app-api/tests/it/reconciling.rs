//! What is wanted comes true, whatever breaks on the way: by scripts that must be used up.

use axum::http::Method;
use protocol::orchestrator::{ObservedTenant, Phase};
use protocol::{State, TenantId};
use uuid::Uuid;

use crate::world::{Browser, Call, Fake, Reply, Server, acme, crashed, observed};

async fn ask(owner: &Browser, verb: &str) {
    let path = format!("/api/admin/tenants/acme/{verb}");
    let answer = owner.send(Method::POST, &path, &[], "").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
}

async fn delete(owner: &Browser) {
    let answer = owner.send(Method::DELETE, "/api/admin/tenants/acme", &[], "").await;
    assert_eq!(answer.status, 202, "{}", answer.text());
    assert_eq!(answer.json()["state"], "deleting");
}

async fn with_acme(script: &[(Call, Reply)]) -> (Server, Browser, TenantId) {
    let (server, owner) = Server::owned(Fake::scripted(script)).await;
    owner.post("/api/admin/tenants", acme()).await;
    let id = server.row("acme").await.tenant_id();
    (server, owner, id)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_runs_only_once_its_health_answers() {
    let (server, owner, id) = with_acme(&[(Call::Run, Reply::Seen(Phase::Starting))]).await;
    server.until_state("acme", State::Starting).await;
    server.orchestrator.show(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
    let shown = owner.get("/api/admin/tenants/acme").await.json();
    assert_eq!(shown["container_port"], 41_234);
    assert_eq!(shown["container_id"], format!("container-of-{id}"));
    assert_eq!(shown["revision"], 1, "what its owner wants is what it was");
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn stop_start_restart_delete() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Stop, Reply::Seen(Phase::Stopped)),
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Restart, Reply::Seen(Phase::Ready)),
        (Call::Remove, Reply::Gone),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    ask(&owner, "stop").await;
    server.until_state("acme", State::Stopped).await;
    ask(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    ask(&owner, "restart").await;
    server.until("acme", |t| t.is_some_and(|t| t.restarts_done == 1)).await;
    delete(&owner).await;
    server.until("acme", |tenant| tenant.is_none()).await;
    assert_eq!(owner.get("/api/admin/tenants/acme").await.problem(), "404 tenant_not_found");
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restart_shows_from_the_moment_at_which_it_is_asked_for() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Restart, Reply::Seen(Phase::Starting)),
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
async fn as_many_callers_as_like_ask_at_once() {
    let (server, owner) = Server::owned(Fake::obedient()).await;
    owner.post("/api/admin/tenants", acme()).await;
    server.until_state("acme", State::Running).await;
    let asks = ["start", "restart", "stop"].map(|what| format!("/api/admin/tenants/acme/{what}"));
    let all = asks.iter().cycle().take(30).map(|path| owner.send(Method::POST, path, &[], ""));
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.status, 202, "{}", answer.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_slug_is_free_again() {
    let (server, owner) = Server::owned(Fake::obedient()).await;
    for _ in 0..3 {
        assert_eq!(owner.post("/api/admin/tenants", acme()).await.status, 201);
        server.until_state("acme", State::Running).await;
        delete(&owner).await;
        server.until("acme", |tenant| tenant.is_none()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broken_image_ends_in_an_error_that_says_why_and_a_start_tries_again() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Refused(422, "image_missing")),
        (Call::Run, Reply::Seen(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Error).await;
    let reason = server.row("acme").await.state_reason.unwrap();
    assert_eq!(reason, "The engine says image_missing. (image_missing)");
    ask(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    assert_eq!(server.row("acme").await.state_reason, None);
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_that_is_down_is_told_and_tried_again() {
    let (server, _owner, _) = with_acme(&[
        (Call::Run, Reply::Refused(503, "engine_unavailable")),
        (Call::Run, Reply::Refused(503, "engine_unavailable")),
        (Call::Run, Reply::Seen(Phase::Ready)),
    ])
    .await;
    server.until("acme", |t| t.is_some_and(|t| t.state_reason.is_some())).await;
    assert_eq!(server.row("acme").await.state, State::Provisioning);
    server.until_state("acme", State::Running).await;
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_answer_is_no_lost_tenant() {
    let (server, _owner, id) =
        with_acme(&[(Call::Run, Reply::DoneUnanswered(Phase::Starting))]).await;
    server.until_state("acme", State::Starting).await;
    server.orchestrator.show(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn five_crashes_end_in_an_error_and_a_stop() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Starting)),
        (Call::Stop, Reply::Seen(Phase::Stopped)),
        (Call::Run, Reply::Seen(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Starting).await;
    for n in 1..=5 {
        server.orchestrator.show(crashed(id, n));
    }
    server.until_state("acme", State::Error).await;
    assert!(server.row("acme").await.state_reason.unwrap().contains("exit code 3"));
    server.until("acme", |t| t.is_some_and(|t| t.upstream.is_none())).await;
    assert_eq!(server.row("acme").await.state, State::Error, "stopped, and still an error");
    ask(&owner, "start").await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_never_gets_ready_is_an_error_in_the_end() {
    let (server, _owner, id) = with_acme(&[(Call::Run, Reply::Seen(Phase::Starting))]).await;
    server.until_state("acme", State::Starting).await;
    server.pass(std::time::Duration::from_secs(121));
    server.until_state("acme", State::Error).await;
    server.orchestrator.show(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_removed_by_hand_is_made_again() {
    let (server, _owner, id) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Run, Reply::Seen(Phase::Starting)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.show_gone(id);
    server.until_state("acme", State::Starting).await;
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_frozen_or_sleeps_is_told_and_left_alone() {
    let (server, _owner, id) = with_acme(&[(Call::Run, Reply::Seen(Phase::Ready))]).await;
    server.until_state("acme", State::Running).await;
    for (phase, state) in [
        (Phase::Frozen, State::Frozen),
        (Phase::Sleeping, State::Sleeping),
        (Phase::Starting, State::Starting),
        (Phase::Ready, State::Running),
        (Phase::Frozen, State::Frozen),
    ] {
        server.orchestrator.show(observed(id, phase));
        server.until_state("acme", state).await;
    }
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn its_owners_start_wakes_a_sleeper_once() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Wake, Reply::Refused(503, "wake_queue_full")),
        (Call::Wake, Reply::Seen(Phase::Starting)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.show(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    ask(&owner, "start").await;
    server.until_state("acme", State::Starting).await;
    server.until("acme", |t| t.is_some_and(|t| t.wakes_done == 1)).await;
    server.orchestrator.show(observed(id, Phase::Ready));
    server.until_state("acme", State::Running).await;
    server.orchestrator.show(observed(id, Phase::Frozen));
    server.until_state("acme", State::Frozen).await;
    server.orchestrator.verify();
}

/// The row says that it runs, and it fell asleep a moment ago.
#[tokio::test(flavor = "multi_thread")]
async fn its_owners_start_is_not_lost_on_a_row_that_lags() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Wake, Reply::Seen(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    ask(&owner, "start").await;
    server.until("acme", |t| t.is_some_and(|t| t.wakes_done == 1)).await;
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_that_is_refused_for_good_is_not_asked_again() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Wake, Reply::Refused(422, "image_missing")),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.show(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    ask(&owner, "start").await;
    server.until("acme", |t| t.is_some_and(|t| t.wakes_asked == 1 && t.wakes_done == 1)).await;
    assert_eq!(server.row("acme").await.state, State::Sleeping);
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_that_the_engine_refuses_is_told_and_ends_nothing() {
    let (server, owner, _) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Run, Reply::Refused(502, "engine_refused")),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    let limits = serde_json::json!({ "limits": { "memory_bytes": 33_554_432 } });
    owner.json(Method::PATCH, "/api/admin/tenants/acme", &[], limits).await;
    server.until("acme", |t| t.is_some_and(|t| t.state_reason.is_some())).await;
    let row = server.row("acme").await;
    assert_eq!((row.state, row.changes_asked, row.changes_done), (State::Running, 1, 0));
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wake_asked_for_while_nobody_hears_is_not_lost() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Wake, Reply::Seen(Phase::Ready)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.show(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    server.orchestrator.be_heard(false);
    while server.visitor.get("/readyz").await.json()["orchestrator"] == "connected" {}
    ask(&owner, "start").await;
    let server = server.again().await;
    server.orchestrator.be_heard(true);
    server.until_state("acme", State::Running).await;
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_newer_generation_and_a_change_leave_a_sleeper_asleep() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Run, Reply::Seen(Phase::Sleeping)),
        (Call::Run, Reply::Newer(Phase::Sleeping)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.orchestrator.show(observed(id, Phase::Sleeping));
    server.until_state("acme", State::Sleeping).await;
    let policy = serde_json::json!({ "policy": { "wake_on": "any_request" } });
    owner.json(Method::PATCH, "/api/admin/tenants/acme", &[], policy).await;
    server.until("acme", |t| t.is_some_and(|t| t.changes_asked == 1 && t.changes_done == 1)).await;
    server.database.sql("UPDATE tenants SET generation = 2").await;
    server.until("acme", |_| server.orchestrator.calls().len() == 3).await;
    assert_eq!(server.row("acme").await.state, State::Sleeping);
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_control_plane_killed_in_the_middle_goes_on() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    owner.post("/api/admin/tenants", acme()).await;
    let server = server.again().await;
    assert_eq!(server.row("acme").await.state, State::Provisioning);
    server.orchestrator.be_heard(true);
    server.until_state("acme", State::Running).await;
    assert_eq!(server.orchestrator.calls(), [Call::Run]);
}

#[tokio::test(flavor = "multi_thread")]
async fn unheard_is_not_gone() {
    let (server, _owner, id) = with_acme(&[(Call::Run, Reply::Seen(Phase::Ready))]).await;
    server.until_state("acme", State::Running).await;
    let before = server.row("acme").await;
    server.orchestrator.be_heard(false);
    while server.visitor.get("/readyz").await.json()["orchestrator"] == "connected" {}
    server.orchestrator.be_heard(true);
    while server.visitor.get("/readyz").await.json()["orchestrator"] != "connected" {}
    server
        .orchestrator
        .show(ObservedTenant { reason: Some("x".into()), ..observed(id, Phase::Ready) });
    server.until("acme", |t| t.is_some_and(|t| t.state_reason.is_some())).await;
    let after = server.row("acme").await;
    assert_eq!((after.state, after.state_since), (before.state, before.state_since));
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delete_beats_every_start() {
    for _ in 0..5 {
        let (server, owner) = Server::owned(Fake::obedient()).await;
        owner.post("/api/admin/tenants", acme()).await;
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
async fn only_what_this_database_knew_is_cleared_away() {
    let (server, owner, id) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Remove, Reply::Gone),
        (Call::Remove, Reply::Gone),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    let foreign = TenantId::new(Uuid::now_v7());
    server.orchestrator.show(observed(foreign, Phase::Ready));
    delete(&owner).await;
    server.until("acme", |tenant| tenant.is_none()).await;
    // A leftover of the deleted one shows up; the foreign one was there first and stays.
    server.orchestrator.show(observed(id, Phase::Exited));
    while server.orchestrator.seen(id).is_some() {
        tokio::task::yield_now().await;
    }
    assert!(server.orchestrator.seen(foreign).is_some());
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_changed_by_hand_is_wanted_as_much() {
    let (server, _owner, _) = with_acme(&[
        (Call::Run, Reply::Seen(Phase::Ready)),
        (Call::Stop, Reply::Seen(Phase::Stopped)),
    ])
    .await;
    server.until_state("acme", State::Running).await;
    server.database.sql("UPDATE tenants SET desired = 'stopped'").await;
    server.until_state("acme", State::Stopped).await;
    server.orchestrator.verify();
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_tenants_at_once() {
    let (server, owner) = Server::owned(Fake::obedient()).await;
    let all = (0..40).map(|n| {
        let wish = serde_json::json!({ "slug": format!("t-{n:02}"), "name": "T" });
        owner.post("/api/admin/tenants", wish)
    });
    for answer in futures_util::future::join_all(all).await {
        assert_eq!(answer.status, 201);
    }
    for n in 0..40 {
        server.until_state(&format!("t-{n:02}"), State::Running).await;
    }
    assert_eq!(server.orchestrator.calls(), vec![Call::Run; 40]);
}
