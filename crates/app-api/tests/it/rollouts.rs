//! Rollouts: the tenants of an app move to another release, wave by wave.

use std::time::Duration;

use app_api::db::tenant;
use app_api::tenant::Tenant;
use axum::http::Method;
use protocol::orchestrator::{ObservedTenant, Phase};
use protocol::problem::Code;
use protocol::response_counts::{self, CountedTenants, ResponseCount, ResponseCounts};
use protocol::{State, TenantId};
use serde_json::{Value, json};
use service::Secret;
use service::client::Client;
use testkit::{eventually, wait_for};
use uuid::Uuid;

use crate::harness::schema::Schemas;
use crate::harness::{
    Call, EMAIL, FakeOrchestrator, ROUTES_TOKEN, Server, TEST_TIMEOUT, TestClient, TestResponse,
    observed,
};

const SLUGS: [&str; 4] = ["acme", "globex", "hooli", "initech"];

/// An app with these images as releases, and four tenants that run on the first.
async fn with_tenants(images: &[&str]) -> (Server, TestClient) {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let app = json!({ "slug": "notes", "name": "Notes" });
    assert_eq!(owner.post("/v1/apps", app).await.status, 201);
    for image in images {
        let release = owner.post("/v1/apps/notes/releases", json!({ "image": image })).await;
        assert_eq!(release.status, 201, "{}", release.text());
    }
    for slug in SLUGS {
        let new = json!({ "slug": slug, "name": slug, "app": "notes", "release": "v1" });
        assert_eq!(owner.post("/v1/tenants", new).await.status, 201);
        server.until_state(slug, State::Running).await;
    }
    (server, owner)
}

async fn fall_asleep(server: &Server, slug: &str) {
    let row = server.row(slug).await;
    let asleep = observed(row.tenant_id(), Phase::Sleeping);
    server.orchestrator.publish(ObservedTenant { generation: row.generation, ..asleep });
    server.until_state(slug, State::Sleeping).await;
}

async fn start(owner: &TestClient, body: Value) -> TestResponse {
    owner.post("/v1/apps/notes/rollouts", body).await
}

/// The latest rollout, once `is_expected` is true of it. The clock moves while nothing starts: a start has a deadline.
async fn until(server: &Server, owner: &TestClient, is_expected: impl Fn(&Value) -> bool) -> Value {
    let mut conn = server.database.conn().await;
    let reached = wait_for("the rollout", TEST_TIMEOUT, async || {
        let rows = tenant::all(&mut conn).await?;
        if rows.iter().all(|row| row.state != State::Starting) {
            server.advance_clock(Duration::from_secs(1));
        }
        let latest = owner.get("/v1/apps/notes/rollouts").await.json()["rollouts"][0].clone();
        Ok(is_expected(&latest).then_some(latest))
    });
    match reached.await {
        Ok(latest) => latest,
        Err(error) => {
            panic!("{error}: {}", owner.get("/v1/apps/notes/rollouts").await.text())
        }
    }
}

async fn until_state(server: &Server, owner: &TestClient, state: &str) -> Value {
    until(server, owner, |rollout| rollout["state"] == state).await
}

/// Waits until the engine has a sleeping container of the second release for each tenant.
async fn until_handed_over(server: &Server, rows: &[Tenant]) {
    let is_handed_over = |row: &Tenant| {
        let observed = server.orchestrator.observed(row.tenant_id());
        observed.is_some_and(|o| o.generation == 2 && o.phase == Phase::Sleeping)
    };
    eventually("specs", TEST_TIMEOUT, async || Ok(rows.iter().all(is_handed_over))).await.unwrap();
}

async fn change(owner: &TestClient, rollout: &Value, verb: &str) -> TestResponse {
    let path = format!("/v1/apps/notes/rollouts/{}/{verb}", rollout["id"].as_str().unwrap());
    owner.send(Method::POST, &path, &[], "").await
}

async fn releases(server: &Server) -> Vec<String> {
    let mut releases = Vec::new();
    for slug in SLUGS {
        releases.push(server.row(slug).await.app.unwrap().release);
    }
    releases
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_move_in_waves_and_a_sleeping_one_is_not_woken() {
    let (server, owner) = with_tenants(&["notes:1", "notes:2"]).await;
    fall_asleep(&server, "acme").await;
    let body = json!({ "release": "v2", "waves": { "size": 3 } });
    let started = start(&owner, body).await;
    assert_eq!(started.status, 202, "{}", started.text());
    let described = Schemas::served(&server.visitor).await;
    assert_eq!(described.violations("Rollout", &started.json()), [""; 0]);
    let done = until_state(&server, &owner, "done").await;
    let waves: Vec<Vec<_>> = done["waves"]
        .as_array()
        .unwrap()
        .iter()
        .map(|wave| wave["tenants"].as_array().unwrap().iter().map(|t| &t["slug"]).collect())
        .collect();
    // Those that run come first: they show whether the release works.
    assert_eq!(waves, [vec!["globex", "hooli", "initech"], vec!["acme"]]);
    assert_eq!((&done["tenants"], &done["moved"]), (&json!(4), &json!(4)));
    assert_eq!(releases(&server).await, ["v2"; 4]);
    let row = server.row("acme").await;
    assert_eq!((row.state, row.generation), (State::Sleeping, 2));
    until_handed_over(&server, &[row]).await;
    assert!(!server.orchestrator.calls().contains(&Call::Wake));
    let actions = owner.get("/v1/audit?resource=app:notes").await.json();
    let actions: Vec<_> =
        actions["entries"].as_array().unwrap().iter().map(|e| e["action"].clone()).collect();
    assert_eq!(actions, ["rollout.finish", "rollout.start", "app.create"]);
    let back = start(&owner, json!({ "release": "v1", "waves": { "percent": 100 } })).await;
    assert_eq!(back.status, 202, "a rollback is the same call");
    until_state(&server, &owner, "done").await;
    assert_eq!(releases(&server).await, ["v1"; 4]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_release_that_does_not_run_is_rolled_back_with_its_reason() {
    let (server, owner) = with_tenants(&["notes:1", "notes:broken"]).await;
    let started = start(&owner, json!({ "release": "v2" })).await;
    assert_eq!(started.status, 202, "{}", started.text());
    let failed = until_state(&server, &owner, "failed").await;
    let reason = failed["reason"].as_str().unwrap();
    assert!(reason.starts_with("acme does not run on v2: The program ends at once."), "{reason}");
    assert!(failed["log"].as_str().unwrap().contains("[edge] log of"), "{failed}");
    let states: Vec<_> = failed["waves"].as_array().unwrap().iter().map(|w| &w["state"]).collect();
    assert_eq!(states, ["failed", "waiting"]);
    assert_eq!(releases(&server).await, ["v1"; 4]);
    server.until_state("acme", State::Running).await;
    assert_eq!(server.row("globex").await.generation, 1, "the other tenants were left alone");
    let entries = server.audited("rollout.fail").await;
    let [(actor, resource, _, after)] = &entries[..] else { panic!("one entry") };
    assert_eq!((actor.as_str(), resource.as_str()), ("rollout", "app:notes"));
    assert_eq!((&after["id"], &after["reason"]), (&failed["id"], &failed["reason"]));
    let refused = change(&owner, &failed, "resume").await;
    assert_eq!(refused.problem(), format!("409 {}", Code::RolloutEnded.as_str()));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_breaks_by_its_own_variables_stops_nobody() {
    let (server, owner) = with_tenants(&["notes:1", "notes:2"]).await;
    let path = "/v1/tenants/globex/env/BROKEN";
    assert_eq!(owner.json(Method::PUT, path, &[], json!({ "value": "1" })).await.status, 204);
    let id = server.row("globex").await.tenant_id();
    server.orchestrator.broken.lock().unwrap().insert(id);
    let body = json!({ "release": "v2", "waves": { "size": 2 } });
    assert_eq!(start(&owner, body).await.json()["max_failures"], 0);
    let done = until_state(&server, &owner, "done").await;
    assert_eq!(releases(&server).await, ["v2"; 4]);
    let note = &done["waves"][1]["tenants"][0];
    assert_eq!(note["slug"], "globex", "a tenant with untried variables comes last: {done}");
    let why = "The tenant's own variables changed, and it has not run with them.";
    assert_eq!((&note["state"], &note["reason"]), (&json!("moved"), &json!(why)));
    assert_eq!(server.row("globex").await.state, State::Error);

    owner.send(Method::DELETE, path, &[], "").await;
    server.orchestrator.broken.lock().unwrap().remove(&id);
    server.advance_clock(Duration::from_secs(1));
    assert_eq!(owner.send(Method::POST, "/v1/tenants/globex/restart", &[], "").await.status, 202);
    server.until_state("globex", State::Running).await;
    assert!(!server.row("globex").await.has_untried_variables(), "it runs with its variables");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_has_one_rollout_which_pauses_resumes_and_ends() {
    let (server, owner) = with_tenants(&["notes:1", "notes:2"]).await;
    let pinned =
        owner.json(Method::PATCH, "/v1/tenants/hooli", &[], json!({ "pinned": true })).await.json();
    assert_eq!(pinned["pinned"], true);
    for (body, problem) in [
        (json!({ "release": "v9" }), "422 invalid_fields"),
        (json!({ "release": "v2", "waves": { "percent": 101 } }), "422 invalid_fields"),
        (json!({ "release": "v2", "waves": { "size": 0 } }), "422 invalid_fields"),
        (json!({ "release": "v2", "window": "at night" }), "422 invalid_fields"),
        (json!({ "release": "v2", "waves": { "size": 1, "percent": 1 } }), "400 invalid_json"),
    ] {
        assert_eq!(start(&owner, body.clone()).await.problem(), problem, "{body}");
    }
    // No running tenant is replaced, so the rollout waits.
    let idle = start(&owner, json!({ "release": "v2", "window": "idle" })).await.json();
    let second = start(&owner, json!({ "release": "v1" })).await;
    assert_eq!(second.problem(), "409 rollout_active");
    assert_eq!(change(&owner, &idle, "pause").await.json()["state"], "paused");
    fall_asleep(&server, "acme").await;
    assert_eq!(change(&owner, &idle, "pause").await.status, 202, "twice is like once");
    assert_eq!(server.row("acme").await.generation, 1, "paused");
    assert_eq!(change(&owner, &idle, "resume").await.json()["state"], "running");
    let moved = until(&server, &owner, |rollout| rollout["moved"] == 1).await;
    assert_eq!((&moved["state"], &moved["tenants"]), (&json!("running"), &json!(3)));
    let aborted = change(&owner, &idle, "abort").await.json();
    assert_eq!(aborted["state"], "aborted");
    assert!(aborted["finished_at"].is_string());
    assert_eq!(releases(&server).await, ["v2", "v1", "v1", "v1"]);
    assert_eq!(change(&owner, &idle, "abort").await.problem(), "409 rollout_ended");
    for (action, before, after) in [
        ("rollout.pause", "running", "paused"),
        ("rollout.resume", "paused", "running"),
        ("rollout.abort", "running", "aborted"),
    ] {
        let (before, after) = (json!({ "state": before }), json!({ "state": after }));
        let expected = (EMAIL.to_owned(), "app:notes".to_owned(), before, after);
        assert_eq!(server.audited(action).await, [expected], "{action}");
    }
    let nothing = owner.get("/v1/apps/notes/rollouts/00000000-0000-0000-0000-000000000000").await;
    assert_eq!(nothing.problem(), "404 resource_not_found");
    let text = owner.get("/v1/apps/notes/rollouts/latest").await;
    assert_eq!(text.problem(), "404 not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_page_of_an_app_starts_a_rollout_and_shows_its_waves() {
    let (server, owner) = with_tenants(&["notes:1", "notes:broken"]).await;
    let listed = owner.visit("/admin/apps").await.text();
    assert!(listed.contains("href=\"/admin/apps/notes\""), "{listed}");
    assert_eq!(owner.submit("/admin/tenants/hooli/pin", &[]).await.status, 303);
    let tenant = owner.visit("/admin/tenants/hooli").await.text();
    assert!(tenant.contains("rollouts leave it alone") && tenant.contains("/unpin"), "{tenant}");
    let path = "/admin/apps/notes/rollouts";
    let faulty = [("release", "v2"), ("waves", "size"), ("number", "many"), ("window", "")];
    let refused = owner.submit(path, &faulty).await;
    assert_eq!(refused.status, 422);
    assert!(refused.text().contains("waves.size must be at least 1."), "{}", refused.text());
    let form = [("release", "v2"), ("waves", "size"), ("number", "2"), ("window", "idle")];
    assert_eq!(owner.submit(path, &form).await.status, 303);
    let page = owner.visit("/admin/apps/notes").await.text();
    assert!(page.contains("2 waiting") && page.contains("Window: idle"), "{page}");
    let viewer = server.sign_in_as("vera", "viewer", &[]).await;
    for (path, buttons) in
        [("/admin/apps/notes", &["/pause", "/abort"][..]), ("/admin/tenants/hooli", &["/unpin"])]
    {
        let (shown, seen) = (owner.visit(path).await.text(), viewer.visit(path).await.text());
        for button in buttons {
            assert!(shown.contains(button) && !seen.contains(button), "{path} {button}");
        }
    }
    let id = owner.get("/v1/apps/notes/rollouts").await.json()["rollouts"][0]["id"].clone();
    let act = async |verb: &str| {
        let path = format!("{path}/{}/{verb}", id.as_str().unwrap());
        assert_eq!(owner.submit(&path, &[]).await.status, 303, "{verb}");
        owner.visit("/admin/apps/notes").await.text()
    };
    assert!(act("pause").await.contains("/resume"));
    assert!(act("resume").await.contains("/pause"));
    assert!(act("abort").await.contains("Start rollout"));
    let seen = viewer.visit("/admin/apps/notes").await.text();
    assert!(seen.contains("Earlier rollouts") || seen.contains("aborted"), "{seen}");
    assert!(!seen.contains("Start rollout"), "{seen}");
    let form = [("release", "v2"), ("waves", "canary"), ("number", "1"), ("window", "")];
    assert_eq!(owner.submit(path, &form).await.status, 303);
    until_state(&server, &owner, "failed").await;
    let page = owner.visit("/admin/apps/notes").await.text();
    assert!(page.contains("acme does not run on v2") && page.contains("[edge] log of"), "{page}");
    assert!(page.contains("Earlier rollouts"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rollout_continues_after_a_kill() {
    let (server, owner) = with_tenants(&["notes:1", "notes:2"]).await;
    let started = start(&owner, json!({ "release": "v2", "waves": { "size": 1 } })).await;
    assert_eq!(started.status, 202);
    until(&server, &owner, |rollout| rollout["moved"] == 1).await;
    let server = server.restart().await;
    let mut again = server.visitor.new_client();
    again.cookie.clone_from(&owner.cookie);
    until_state(&server, &again, "done").await;
    assert_eq!(releases(&server).await, ["v2"; 4]);
    assert_eq!(server.database.count("rollouts").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn forty_sleeping_tenants_move_without_one_start() {
    let (server, owner) = with_tenants(&["notes:1", "notes:2"]).await;
    for slug in SLUGS {
        fall_asleep(&server, slug).await;
    }
    let ids: Vec<_> = (0..36).map(|_| Uuid::now_v7()).collect();
    // First, so that nothing of the rows seems to be missing.
    for id in &ids {
        server.orchestrator.publish(observed(TenantId::new(*id), Phase::Sleeping));
    }
    let copies: Vec<_> =
        ids.iter().enumerate().map(|(n, id)| format!("('{id}'::uuid, 'copy-{n}')")).collect();
    let copied = "name, limits, policy, state, image, env, release_id, app";
    let insert = format!(
        "INSERT INTO tenants (id, slug, {copied}) SELECT copy.id, copy.slug, {copied} \
         FROM tenants, (VALUES {}) AS copy (id, slug) WHERE tenants.slug = 'acme'",
        copies.join(", ")
    );
    server.database.sql(&insert).await;
    let rows = tenant::all(&mut server.database.conn().await).await.unwrap();
    assert_eq!(rows.len(), 40);
    let before = server.orchestrator.calls().len();
    assert_eq!(start(&owner, json!({ "release": "v2" })).await.status, 202);
    let done = until_state(&server, &owner, "done").await;
    assert_eq!(done["moved"], 40);
    until_handed_over(&server, &rows).await;
    let calls = server.orchestrator.calls().split_off(before);
    let starts = calls.iter().filter(|call| matches!(call, Call::Wake | Call::Restart)).count();
    assert_eq!(starts, 0, "{calls:?}");
}

/// Reports what a router counted, like (slug, generation, responses, server errors), and returns the slugs that app-api
/// wants to know of.
async fn count(server: &Server, counts: &[(&str, i64, u64, u64)]) -> Vec<String> {
    let mut tenants = Vec::new();
    for (slug, generation, responses, server_errors) in counts {
        tenants.push(ResponseCount {
            tenant: server.row(slug).await.tenant_id(),
            generation: *generation,
            responses: *responses,
            server_errors: *server_errors,
        });
    }
    let client = Client::new(format!("http://{}", server.internal), Secret::new(ROUTES_TOKEN));
    let body = ResponseCounts { tenants };
    let call = client.call(Method::POST, response_counts::PATH, Some(&body), TEST_TIMEOUT);
    let counted: CountedTenants = call.await.unwrap();
    let mut slugs = Vec::new();
    for slug in SLUGS {
        if counted.tenants.contains(&server.row(slug).await.tenant_id()) {
            slugs.push(slug.to_owned());
        }
    }
    slugs
}

/// Starts a rollout whose first wave is acme and globex, and waits until both moved. The clock stands still.
async fn start_watched(owner: &TestClient, change: Value) -> Value {
    let mut body = json!({ "release": "v2", "waves": { "size": 2 }, "watch_seconds": 3600 });
    body.as_object_mut().unwrap().extend(change.as_object().unwrap().clone());
    let started = start(owner, body).await;
    assert_eq!(started.status, 202, "{}", started.text());
    let moved = wait_for("the first wave", TEST_TIMEOUT, async || {
        let latest = owner.get("/v1/apps/notes/rollouts").await.json()["rollouts"][0].clone();
        Ok((latest["moved"] == 2).then_some(latest))
    });
    moved.await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wave_that_answers_with_errors_moves_back_and_the_figures_say_why() {
    let (server, owner) = with_tenants(&["notes:1", "notes:2"]).await;
    assert!(count(&server, &[("acme", 1, 50, 50)]).await.is_empty(), "no rollout is under way");
    let moved = start_watched(&owner, json!({})).await;
    assert_eq!(moved["waves"][0]["responses"], 0, "{moved}");
    // Responses of the earlier release, and of tenants that have not moved, say nothing.
    let counted = count(&server, &[("acme", 1, 50, 50), ("hooli", 1, 50, 50)]).await;
    assert_eq!(counted, ["acme", "globex"]);
    count(&server, &[("acme", 2, 10, 1), ("globex", 2, 9, 1)]).await;
    let rollout = owner.get("/v1/apps/notes/rollouts").await.json()["rollouts"][0].clone();
    let wave = &rollout["waves"][0];
    assert_eq!((&wave["responses"], &wave["server_errors"]), (&json!(19), &json!(2)));
    assert_eq!(rollout["state"], "running", "19 responses are too few: {rollout}");
    count(&server, &[("globex", 2, 11, 2)]).await;
    let failed = until_state(&server, &owner, "failed").await;
    let reason = failed["reason"].as_str().unwrap();
    let figures = "4 of 30 responses of wave 1 on v2 had a status of 5xx, or were none: more than 10 %. \
        Most of these were of globex: 3 of 20.";
    assert_eq!(reason, figures);
    let tenants = failed["waves"][0]["tenants"].as_array().unwrap();
    let states: Vec<_> = tenants.iter().map(|t| (&t["slug"], &t["state"])).collect();
    let expected =
        [("acme", "rolled_back"), ("globex", "failed")].map(|(a, b)| (json!(a), json!(b)));
    assert_eq!(states, expected.each_ref().map(|(a, b)| (a, b)));
    assert_eq!(releases(&server).await, ["v1"; 4]);
    assert_eq!(server.row("hooli").await.generation, 1, "the other tenants were left alone");
    let audited = owner.get("/v1/audit?action=rollout.fail").await.json();
    assert_eq!(audited["entries"][0]["after"]["reason"], figures);
    assert!(count(&server, &[]).await.is_empty(), "the rollout ended");
    let page = owner.visit("/admin/apps/notes").await.text();
    assert!(page.contains("4 of 30 responses with a status of 5xx"), "{page}");
}

#[tokio::test(flavor = "multi_thread")]
async fn errors_within_the_bound_let_the_next_wave_begin() {
    let (server, owner) = with_tenants(&["notes:1", "notes:2"]).await;
    let change = json!({ "max_error_percent": 50, "watch_seconds": 30 });
    let moved = start_watched(&owner, change).await;
    assert_eq!((&moved["max_error_percent"], &moved["watch_seconds"]), (&json!(50), &json!(30)));
    count(&server, &[("acme", 2, 40, 20)]).await;
    let done = until_state(&server, &owner, "done").await;
    assert_eq!(done["waves"][0]["server_errors"], 20);
    assert_eq!(releases(&server).await, ["v2"; 4]);
    for (field, value) in [
        ("max_error_percent", 0),
        ("max_error_percent", 101),
        ("watch_seconds", 4),
        ("watch_seconds", 86_401),
    ] {
        let mut body = json!({ "release": "v1" });
        body[field] = json!(value);
        let refused = start(&owner, body).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{field} {value}");
        assert_eq!(refused.json()["errors"][0]["field"], field);
    }
}
