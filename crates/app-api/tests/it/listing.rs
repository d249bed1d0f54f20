//! Tenants are listed by page and filter, and changed in place.

use axum::http::Method;
use protocol::State;
use serde_json::json;

use crate::harness::{FakeOrchestrator, Server, TestClient};

async fn slugs(owner: &TestClient, query: &str) -> Vec<String> {
    let response = owner.get(&format!("/api/admin/tenants{query}")).await;
    assert_eq!(response.status, 200, "{}", response.text());
    let tenants = response.json()["tenants"].as_array().unwrap().clone();
    tenants.iter().map(|t| t["slug"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn tenants_are_listed_by_page_and_filter() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    for (slug, name) in [("ant", "First"), ("bee", "50% off_"), ("cow", "Third"), ("dog", "first")]
    {
        owner.post("/api/admin/tenants", json!({ "slug": slug, "name": name })).await;
    }
    for slug in ["ant", "bee", "cow", "dog"] {
        server.until_state(slug, State::Running).await;
    }
    owner.send(Method::POST, "/api/admin/tenants/cow/stop", &[], "").await;
    server.until_state("cow", State::Stopped).await;
    assert_eq!(slugs(&owner, "").await, ["ant", "bee", "cow", "dog"]);
    assert_eq!(slugs(&owner, "?state=stopped").await, ["cow"]);
    assert_eq!(slugs(&owner, "?q=FIRST").await, ["ant", "dog"]);
    assert_eq!(slugs(&owner, "?q=%25").await, ["bee"], "a percent sign is a percent sign");
    assert_eq!(slugs(&owner, "?q=o").await, ["bee", "cow", "dog"]);
    let first = owner.get("/api/admin/tenants?limit=3").await.json();
    let cursor = first["next_cursor"].as_str().unwrap();
    assert_eq!(slugs(&owner, &format!("?limit=3&cursor={cursor}")).await, ["dog"]);
    let last = owner.get(&format!("/api/admin/tenants?limit=3&cursor={cursor}")).await.json();
    assert!(last.get("next_cursor").is_none());
    for bad in ["state=awake", "limit=0", "limit=x", "cursor=!", "what=1", "q=%00"] {
        let response = owner.get(&format!("/api/admin/tenants?{bad}")).await;
        assert_eq!(response.problem(), "400 invalid_query", "{bad}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_applies_at_once_under_if_match() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/api/admin/tenants", crate::harness::acme()).await;
    server.until_state("acme", State::Running).await;
    server.until("acme", |t| t.is_some_and(|t| t.changes_done == t.changes_asked)).await;
    let before = owner.get("/api/admin/tenants/acme").await;
    let etag = before.header("etag").to_owned();
    let patch = |headers, body| owner.json(Method::PATCH, "/api/admin/tenants/acme", headers, body);
    let limits = json!({ "cpu_millis": 500, "memory_bytes": 268_435_456, "pids": 100 });
    let change = json!({ "name": "New", "limits": limits, "policy": { "sleep_after_seconds": 0 } });
    let matching = [("if-match", etag.as_str())];
    let changed = patch(&matching, change).await;
    assert_eq!(changed.status, 200, "{}", changed.text());
    assert_eq!(changed.json()["name"], "New");
    let shown = json!({ "cpu_millis": 500, "memory_bytes": 268_435_456, "pids": 100, "disk_bytes": 10_u64 << 30, "database_bytes": 1 << 30 });
    assert_eq!(changed.json()["limits"], shown);
    assert_eq!(changed.json()["policy"]["sleep_after_seconds"], 0);
    assert_eq!(changed.json()["generation"], before.json()["generation"]);
    assert!(changed.json()["revision"].as_i64() > before.json()["revision"].as_i64());
    let stale = patch(&matching, json!({ "name": "Other" })).await;
    assert_eq!(stale.problem(), "412 revision_mismatch");
    let current = owner.get("/api/admin/tenants/acme").await.header("etag").to_owned();
    let tag = format!("W/{current}");
    let weak_match = [("if-match", tag.as_str())];
    let weak = patch(&weak_match, json!({ "name": "Other" })).await;
    assert_eq!(weak.problem(), "412 revision_mismatch", "weak tags never match (RFC 9110 §13.1.1)");
    let out = patch(&[], json!({ "limits": { "pids": 1 } })).await;
    assert_eq!(out.problem(), "422 invalid_fields");
    assert_eq!(out.json()["errors"][0]["field"], "limits.pids");
    for no_such_shape in [json!({ "slug": "x" }), json!([]), json!({ "policy": [60] })] {
        assert_eq!(patch(&[], no_such_shape).await.problem(), "400 invalid_json");
    }
    assert_eq!(patch(&[("if-match", "x")], json!({})).await.problem(), "400 invalid_if_match");
    server.until("acme", |t| t.is_some_and(|t| t.changes_done == t.changes_asked)).await;
    let mark_fulfilled = server.orchestrator.specs.lock().unwrap().last().unwrap().clone();
    assert_eq!(mark_fulfilled.spec.limits.pids, 100);
    assert!(!mark_fulfilled.restart);
}

#[tokio::test(flavor = "multi_thread")]
async fn people_and_members_are_listed_by_page() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    owner.post("/v1/tenants", crate::harness::acme()).await;
    for name in ["ben", "eve", "mia"] {
        server.sign_in_as(name, "none", &[("acme", "viewer")]).await;
    }
    for (path, key, count) in
        [("/v1/users", "users", 4), ("/v1/tenants/acme/members", "members", 3)]
    {
        let all = owner.get(path).await.json();
        assert_eq!((all[key].as_array().unwrap().len(), &all["next"]), (count, &json!(null)));
        let mut paged = Vec::new();
        let mut query = "?limit=2".to_owned();
        loop {
            let page = owner.get(&format!("{path}{query}")).await.json();
            paged.extend(page[key].as_array().unwrap().clone());
            let Some(next) = page["next"].as_str() else { break };
            query = format!("?limit=2&cursor={next}");
        }
        assert_eq!(&json!(paged), &all[key], "{path}");
        assert_eq!(owner.get(&format!("{path}?limit=0")).await.problem(), "400 invalid_query");
    }
}
