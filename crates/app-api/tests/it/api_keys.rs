//! API keys: created with at most the creator's rights, shown once, revoked at once on every replica.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use http_body_util::BodyExt as _;
use protocol::api_keys::Role;
use serde_json::{Value, json};

use crate::harness::{
    FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestClient, TestResponse, acme,
};

/// Calls with a key.
async fn call(
    client: &TestClient,
    key: &str,
    method: Method,
    path: &str,
    body: Value,
) -> TestResponse {
    client.with_key(key).json(method, path, &[], body).await
}

async fn get(client: &TestClient, key: &str, path: &str) -> TestResponse {
    client.with_key(key).get(path).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_shown_once_and_only_its_hash_is_stored() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let new = json!({ "name": "ci", "role": "write" });
    let created = owner.post("/v1/tenants/acme/keys", new).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let key = created.json();
    let text = key["key"].as_str().unwrap();
    assert_eq!(key["tenant"], "acme");
    assert_eq!(key["is_admin"], false);
    // The clock of the tests begins at 1 800 000 000.
    assert_eq!(key["expires_at"], "2027-02-14T08:00:00.000Z");
    let location = created.header("location");
    assert_eq!(location, format!("/v1/tenants/acme/keys/{}", key["id"].as_str().unwrap()));
    let listed = owner.get("/v1/tenants/acme/keys").await;
    assert_eq!(listed.json()["next"], Value::Null);
    assert!(!listed.text().contains(text));
    assert_eq!(listed.json()["keys"][0]["name"], "ci");
    assert_eq!(listed.json()["keys"][0]["last_used_at"], Value::Null);
    let stored = format!("api_keys WHERE key_hash = sha256('{text}')");
    assert_eq!(server.database.count(&stored).await, 1);
    let leaked = format!("api_keys WHERE api_keys::text LIKE '%{}%'", &text[5..20]);
    assert_eq!(server.database.count(&leaked).await, 0);

    let caller = get(&owner, text, "/v1/auth/whoami").await.json();
    assert_eq!(caller["kind"], "key");
    assert_eq!(caller["tenant"], "acme");
    assert_eq!(caller["role"], "write");
    assert_eq!(caller["key"]["last_used_at"], "2027-01-15T08:00:00.000Z");
    // Written once a minute at most.
    for (seconds, expected) in [(59, "2027-01-15T08:00:00.000Z"), (1, "2027-01-15T08:01:00.000Z")] {
        server.advance_clock(Duration::from_secs(seconds));
        let caller = get(&owner, text, "/v1/auth/whoami").await.json();
        assert_eq!(caller["key"]["last_used_at"], expected);
    }
    let person = owner.get("/v1/auth/whoami").await.json();
    assert_eq!((&person["kind"], &person["role"]), (&json!("session"), &json!("owner")));
    assert_eq!(person["is_admin"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_admin_creates_keys_of_that_tenant_and_nothing_wider() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    owner.post("/v1/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
    let admin = server.key_of(Some("acme"), Role::Admin).await;
    let create = |path: &'static str, body: Value| call(&owner, &admin, Method::POST, path, body);
    let own = create("/v1/tenants/acme/keys", json!({ "name": "a", "role": "admin" })).await;
    assert_eq!(own.status, 201, "{}", own.text());
    let god = json!({ "name": "b", "role": "admin", "is_admin": true });
    assert_eq!(
        create("/v1/tenants/acme/keys", god.clone()).await.problem(),
        "403 insufficient_role"
    );
    assert_eq!(create("/v1/auth/keys", god.clone()).await.problem(), "403 forbidden");
    assert_eq!(create("/v1/tenants/globex/keys", god.clone()).await.problem(), "403 forbidden");
    // A key of all tenants is a tenant's admin everywhere and no more.
    let everywhere = server.key_of(None, Role::Admin).await;
    let refused = call(&owner, &everywhere, Method::POST, "/v1/auth/keys", god.clone()).await;
    assert_eq!(refused.problem(), "403 forbidden");
    // Even a caller who may do everything cannot confine such a key to a tenant.
    let confined = owner.post("/v1/tenants/acme/keys", god.clone()).await;
    assert_eq!(confined.problem(), "422 invalid_fields");
    let second = owner.post("/v1/auth/keys", god).await.json();
    let second = second["key"].as_str().unwrap();
    let made = call(
        &owner,
        second,
        Method::POST,
        "/v1/tenants",
        json!({ "slug": "by-key", "name": "By key" }),
    );
    let made = made.await;
    assert_eq!(made.status, 201, "{}", made.text());
    assert_eq!(made.json()["owner_id"], Value::Null);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_revoked_within_its_scope_only() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    owner.post("/v1/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
    let other = owner.post("/v1/tenants/globex/keys", json!({ "name": "g", "role": "read" })).await;
    let id = other.json()["id"].as_str().unwrap().to_owned();
    let key = other.json()["key"].as_str().unwrap().to_owned();
    let admin = server.key_of(Some("acme"), Role::Admin).await;
    let foreign = format!("/v1/tenants/acme/keys/{id}");
    let revoke = call(&owner, &admin, Method::DELETE, &foreign, Value::Null).await;
    assert_eq!(revoke.problem(), "404 not_found");
    let global = owner.send(Method::DELETE, &format!("/v1/auth/keys/{id}"), &[], "").await;
    assert_eq!(global.problem(), "404 not_found");
    assert_eq!(get(&owner, &key, "/v1/tenants/globex").await.status, 200);
    let own = format!("/v1/tenants/globex/keys/{id}");
    for _ in 0..2 {
        assert_eq!(owner.send(Method::DELETE, &own, &[], "").await.status, 204);
    }
    assert_eq!(get(&owner, &key, "/v1/tenants/globex").await.problem(), "401 invalid_key");
    let bad = owner.send(Method::DELETE, "/v1/auth/keys/none", &[], "").await;
    assert_eq!(bad.problem(), "404 not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn every_dead_key_gets_the_same_response() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let revoked = server.key_of(None, Role::Read).await;
    server.database.sql("UPDATE api_keys SET revoked = true").await;
    let new = json!({ "name": "short", "role": "read", "expires_in_days": 1 });
    let expiring = owner.post("/v1/auth/keys", new).await.json();
    let expiring = expiring["key"].as_str().unwrap().to_owned();
    assert_eq!(get(&owner, &expiring, "/v1/auth/whoami").await.status, 200);
    server.advance_clock(Duration::from_secs(24 * 3_600));
    let mut typo = revoked.clone();
    typo.replace_range(10..11, if &typo[10..11] == "A" { "B" } else { "A" });
    let mut bodies = Vec::new();
    for key in [&revoked, &expiring, &typo, "cial_", "", "clk_123", "é"] {
        let bearer = format!("Bearer {key}");
        let headers = [("authorization", bearer.as_str()), ("x-request-id", "0123456789abcdef")];
        let response = owner.new_client().send(Method::GET, "/v1/tenants", &headers, "").await;
        bodies.push((response.problem(), response.text()));
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
    assert_eq!(bodies[0].0, "401 invalid_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn invalid_requests_for_keys_name_their_fields() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let post = |body: Value| owner.post("/v1/auth/keys", body);
    let bad = post(json!({ "name": " ", "role": "read", "expires_in_days": 4_000 })).await;
    assert_eq!(bad.problem(), "422 invalid_fields");
    let errors = bad.json()["errors"].clone();
    let fields: Vec<_> = errors.as_array().unwrap().iter().map(|e| &e["field"]).collect();
    assert_eq!(fields, ["name", "expires_in_days"]);
    for body in [
        json!({ "name": "a" }),
        json!({ "name": "a", "role": "owner" }),
        json!({ "name": "a", "role": "read", "expires_in_days": -1 }),
        json!({ "name": "a", "role": "read", "tenant": "acme" }),
    ] {
        assert_eq!(post(body.clone()).await.problem(), "400 invalid_json", "{body}");
    }
    assert_eq!(server.database.count("api_keys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_revocation_ends_requests_and_streams_on_every_replica_within_a_second() {
    let setup = Setup::new(FakeOrchestrator::unreachable()).await;
    let replica = setup.replica();
    setup.orchestrator.endless_logs.store(true, Ordering::Relaxed);
    let (first, second) = (setup.start().await, replica.start().await);
    let owner = first.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    let created =
        owner.post("/v1/tenants/acme/keys", json!({ "name": "ci", "role": "read" })).await;
    let key = created.json()["key"].as_str().unwrap().to_owned();
    let (client, logs) = (second.visitor.with_key(&key), "/v1/tenants/acme/logs?follow=1");
    let mut stream = client.send_streaming(Method::GET, logs, &[], "").await;
    assert_eq!(stream.status(), 200);
    stream.frame().await.unwrap().unwrap();
    assert_eq!(get(&second.visitor, &key, "/v1/tenants/acme").await.status, 200);

    let revoked = owner.send(Method::DELETE, created.header("location"), &[], "").await;
    assert_eq!(revoked.status, 204);
    let ended = tokio::time::timeout(TEST_TIMEOUT, stream.frame()).await;
    assert!(ended.expect("the stream goes on").is_none());
    assert_eq!(get(&second.visitor, &key, "/v1/tenants/acme").await.problem(), "401 invalid_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lost_membership_ends_streams() {
    let (server, _owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    server.orchestrator.endless_logs.store(true, Ordering::Relaxed);
    let member = server.sign_in_as("mia", "none", &[("acme", "viewer")]).await;
    let logs = "/v1/tenants/acme/logs?follow=1";
    let mut stream = member.send_streaming(Method::GET, logs, &[], "").await;
    stream.frame().await.unwrap().unwrap();
    server.database.sql("DELETE FROM memberships").await;
    assert!(stream.frame().await.is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_of_keys_are_revoked_and_not_deleted() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let god = server.admin_key().await;
    let new = json!({ "name": "child", "role": "read" });
    let child = call(&owner, &god, Method::POST, "/v1/auth/keys", new).await;
    assert_eq!(child.status, 201);
    let mut conn = server.database.conn().await;
    let delete = diesel_async::RunQueryDsl::execute(
        diesel::sql_query("DELETE FROM api_keys WHERE is_admin"),
        &mut conn,
    );
    let error = delete.await.unwrap_err().to_string();
    assert!(error.contains("foreign key"), "{error}");
    // The keys of a tenant end with it; a new tenant of that name is another.
    let key = server.key_of(Some("acme"), Role::Read).await;
    server.database.sql("DELETE FROM tenants").await;
    assert_eq!(get(&owner, &key, "/v1/tenants/acme").await.problem(), "401 invalid_key");
    owner.post("/v1/tenants", acme()).await;
    assert_eq!(get(&owner, &key, "/v1/tenants/acme").await.problem(), "401 invalid_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_goes_before_a_cookie_and_other_schemes_do_not() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let key = format!("Bearer {}", server.key_of(Some("acme"), Role::Read).await);
    let with = |value: String| {
        let owner = owner.clone();
        async move {
            let headers = [("authorization", value.as_str())];
            owner.send(Method::GET, "/v1/auth/whoami", &headers, "").await
        }
    };
    assert_eq!(with(key.clone()).await.json()["kind"], "key");
    assert_eq!(with(key.replace("Bearer", "bearer")).await.json()["kind"], "key");
    assert_eq!(with("Bearer nonsense".into()).await.problem(), "401 invalid_key");
    assert_eq!(with("Basic YTpi".into()).await.json()["kind"], "session");
    // Pages are for people.
    let page = server.visitor.send(Method::GET, "/admin", &[("authorization", &key)], "").await;
    assert!(page.header("location").starts_with("/admin/login"), "{}", page.status);
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_listed_by_page() {
    let (_server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    for name in ["a", "b", "c"] {
        owner.post("/v1/tenants/acme/keys", json!({ "name": name, "role": "read" })).await;
    }
    let first = owner.get("/v1/tenants/acme/keys?limit=2").await.json();
    assert_eq!(first["keys"].as_array().unwrap().len(), 2);
    assert_eq!(first["keys"][0]["name"], "c");
    let cursor = first["next"].as_str().unwrap();
    let last = owner.get(&format!("/v1/tenants/acme/keys?limit=2&cursor={cursor}")).await.json();
    assert_eq!((&last["keys"][0]["name"], &last["next"]), (&json!("a"), &Value::Null));
}

#[tokio::test(flavor = "multi_thread")]
async fn keys_are_managed_by_forms_alone() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let admin = server.sign_in_as("admin", "none", &[("acme", "admin")]).await;
    for (caller, base, list, role) in [
        (&owner, "/admin/keys", "/v1/auth/keys", "everything"),
        (&admin, "/admin/tenants/acme/keys", "/v1/tenants/acme/keys", "write"),
    ] {
        let bad = [("name", ""), ("role", role), ("expires_in_days", "30")];
        let bad = caller.submit(base, &bad).await;
        assert!(bad.status == 422 && bad.text().contains("name-fault"), "{}", bad.text());
        let form = [("name", "ci"), ("role", role), ("expires_in_days", "1")];
        let created = caller.submit(base, &form).await;
        assert_eq!(created.status, 201, "{}", created.text());
        let text = created.text();
        let key = text.split("<code>").nth(1).unwrap().split('<').next().unwrap().to_owned();
        let whoami = get(caller, &key, "/v1/auth/whoami").await.json();
        assert_eq!(whoami["is_admin"], base == "/admin/keys");
        let page = caller.visit(base).await.text();
        assert!(page.contains(">ci<") && !page.contains(&key), "{page}");
        let listed = caller.get(list).await.json();
        let id = listed["keys"][0]["id"].as_str().unwrap().to_owned();
        let revoked = caller.submit(&format!("{base}/{id}/revoke"), &[]).await;
        assert_eq!(revoked.header("location"), base);
        assert_eq!(get(caller, &key, "/v1/auth/whoami").await.problem(), "401 invalid_key");
    }
    assert_eq!(admin.visit("/admin/keys").await.status, 403);
}
