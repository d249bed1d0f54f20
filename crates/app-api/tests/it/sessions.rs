//! Sessions are extended by use, end for good, and are stored as a hash.

use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::http::Method;
use diesel::sql_query;
use diesel_async::{AsyncPgConnection, RunQueryDsl as _};
use http_body_util::BodyExt as _;
use protocol::api_keys::Role;
use serde_json::json;
use tokio::time::timeout;

use crate::harness::callers::TestKey;
use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, Setup, TEST_TIMEOUT, TestClient};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_used_session_is_extended() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for _ in 0..6 {
        server.advance_clock(MINUTE * 29);
        assert_eq!(owner.get("/api/auth/session").await.status, 200);
    }
    server.advance_clock(MINUTE * 30);
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
    assert_eq!(server.database.count("sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_ends_after_twelve_hours() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for _ in 0..35 {
        server.advance_clock(MINUTE * 20);
        assert_eq!(owner.get("/api/auth/session").await.status, 200);
    }
    server.advance_clock(MINUTE * 20);
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn deleting_the_row_ends_the_session_at_once() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    server.database.sql("DELETE FROM sessions").await;
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_is_restricted_and_only_its_hash_is_stored() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let response =
        server.visitor.post("/api/auth/sign-up/email", crate::harness::owner_sign_up()).await;
    let cookie = response.header("set-cookie").to_owned();
    let (token, attributes) = cookie.split_once(';').unwrap();
    insta::assert_snapshot!(attributes, @" Path=/; HttpOnly; SameSite=Lax; Max-Age=1800");
    let token = token.strip_prefix("cial_admin=").unwrap();
    assert_eq!(token.len(), 43, "256 bits");
    let stored = format!("sessions WHERE encode(token_hash, 'escape') LIKE '%{token}%'");
    assert_eq!(server.database.count(&stored).await, 0);
    let hashed = format!("sessions WHERE token_hash = sha256('{token}')");
    assert_eq!(server.database.count(&hashed).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn sign_in_ends_the_previous_session() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let before = owner.clone();
    let request = json!({ "email": EMAIL, "password": PASSWORD });
    let response = owner.post("/api/auth/sign-in/email", request).await;
    owner.store_cookie(&response);
    assert_ne!(owner.cookie, before.cookie);
    assert_eq!(before.get("/api/auth/session").await.status, 401);
    assert_eq!(owner.get("/api/auth/session").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_cookie_has_the_host_prefix() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.env.push(("CIAL_ADMIN_URL", "https://admin.example".into()));
    setup.env.push(("CIAL_TRUSTED_PROXIES", "none".into()));
    let server = setup.start().await;
    let response =
        server.visitor.post("/api/auth/sign-up/email", crate::harness::owner_sign_up()).await;
    let cookie = response.header("set-cookie");
    assert!(cookie.starts_with("__Host-cial_admin="), "{cookie}");
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    assert!(!cookie.contains("Domain"), "{cookie}");
    assert!(response.header("strict-transport-security").contains("max-age"));
    let described = server.visitor.get("/api/openapi.json").await.json();
    let session = &described["components"]["securitySchemes"]["session"];
    assert_eq!(session["name"], cookie.split('=').next().unwrap());
}

#[tokio::test(flavor = "multi_thread")]
async fn another_cookie_of_any_bytes_does_not_hide_the_session() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let own = owner.cookie.clone().unwrap();
    let with_cookie = |cookie: String| {
        let mut client = owner.new_client();
        client.cookie = Some(cookie);
        client
    };
    for cookie in [format!("a=é; {own}"), format!("{own}; b=\u{202e}"), format!("x; {own};")] {
        let client = with_cookie(cookie.clone());
        assert_eq!(client.get("/api/auth/session").await.status, 200, "{cookie}");
    }
    // A planted second value signs no visitor in, and sign-out still ends the real session.
    let planted = with_cookie(format!("a=é; {own}; cial_admin={}", "A".repeat(43)));
    assert_eq!(planted.get("/api/auth/session").await.status, 401);
    let out = planted.send("POST".parse().unwrap(), "/api/auth/sign-out", &[], "").await;
    assert_eq!(out.status, 204);
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
    assert_eq!(server.database.count("sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_is_renewed_only_near_its_end() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for (minutes, renewed) in [(0, false), (19, false), (1, true), (19, false), (1, true)] {
        server.advance_clock(MINUTE * minutes);
        let response = owner.get("/api/auth/session").await;
        let set = response.header("set-cookie");
        assert_eq!(!set.is_empty(), renewed, "{set}");
        if renewed {
            let own = owner.cookie.as_deref().unwrap();
            assert_eq!(set, format!("{own}; Path=/; HttpOnly; SameSite=Lax; Max-Age=1800"));
        }
    }
    // Unused beyond its end.
    server.advance_clock(MINUTE * 31);
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_response_that_ends_the_session_does_not_renew_it() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    server.advance_clock(MINUTE * 25);
    let out = owner.submit("/admin/logout", &[]).await;
    let set: Vec<_> = out.headers.get_all("set-cookie").iter().collect();
    assert!(set.len() == 1 && set[0].to_str().unwrap().contains("Max-Age=0"), "{set:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_role_replaces_the_token_and_the_id() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let old = owner.clone();
    let id = async |client: &TestClient| {
        client.get("/api/auth/session").await.json()["session"]["id"].clone()
    };
    let before = id(&owner).await;
    server.database.sql("UPDATE users SET role = 'admin'").await;
    server.database.sql("UPDATE users SET role = 'owner'").await;
    let replaced = owner.get("/api/auth/session").await;
    assert_eq!(replaced.status, 200);
    owner.store_cookie(&replaced);
    assert_ne!(owner.cookie, old.cookie);
    let after = id(&owner).await;
    assert_ne!(after, before);
    // Requests that were on their way still pass; a copy of the old cookie does not later.
    assert_eq!(id(&old).await, after);
    server.advance_clock(Duration::from_secs(10));
    assert_eq!(old.get("/api/auth/session").await.status, 401);
    assert_eq!(owner.get("/api/auth/session").await.status, 200);
    assert_eq!(server.database.count("sessions").await, 1);
    // The replaced cookie still signs the session out: a stolen session ends from either side.
    old.send("POST".parse().unwrap(), "/api/auth/sign-out", &[], "").await;
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
}

async fn second_session(owner: &TestClient, user_agent: &str) -> TestClient {
    let mut second = owner.new_client();
    let body = json!({ "email": EMAIL, "password": PASSWORD });
    let headers = [("user-agent", user_agent)];
    let response = second.json("POST".parse().unwrap(), "/api/auth/sign-in/email", &headers, body);
    second.store_cookie(&response.await);
    second
}

#[tokio::test(flavor = "multi_thread")]
async fn people_list_and_end_their_own_sessions() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    server.advance_clock(MINUTE);
    let second = second_session(&owner, "Mozilla/5.0 (X11; Linux) Firefox/145.0").await;
    let third = second_session(&owner, "curl/8").await;
    let list = owner.get("/v1/sessions").await.json();
    let sessions = list["sessions"].as_array().unwrap();
    let of = |device: &str| sessions.iter().find(|s| s["device"] == device).unwrap();
    assert_eq!(sessions.len(), 3);
    let firefox = of("Firefox on Linux");
    assert_eq!(firefox["address"], "127.0.0.1");
    assert_eq!(firefox["is_current"], false);
    assert_eq!(of("Unknown device")["is_current"], true);
    assert_eq!(firefox["last_seen_at"], "2027-01-15T08:01:00.000Z");
    assert!(!list.to_string().contains("hash"), "{list}");

    let page = owner.visit("/admin/account").await.text();
    assert!(page.contains("Firefox on Linux") && page.contains("this one"), "{page}");
    let path = format!("/v1/sessions/{}", firefox["id"].as_str().unwrap());
    let delete = "DELETE".parse::<axum::http::Method>().unwrap();
    assert_eq!(owner.send(delete.clone(), &path, &[], "").await.status, 204);
    assert_eq!(second.get("/api/auth/session").await.status, 401);
    for gone in [path.as_str(), "/v1/sessions/none", "/v1/sessions/%ff"] {
        assert_eq!(owner.send(delete.clone(), gone, &[], "").await.problem(), "404 not_found");
    }
    assert_eq!(third.get("/api/auth/session").await.status, 200);
    assert_eq!(owner.send(delete, "/v1/sessions", &[], "").await.status, 204);
    assert_eq!(third.get("/api/auth/session").await.status, 401);
    assert_eq!(owner.get("/api/auth/session").await.status, 200);

    let fourth = second_session(&owner, "curl/8").await;
    assert_eq!(owner.submit("/admin/account/sessions/revoke", &[]).await.status, 303);
    assert_eq!(fourth.get("/api/auth/session").await.status, 401);
    let own = owner.get("/v1/sessions").await.json()["sessions"][0]["id"].clone();
    let end = format!("/admin/account/sessions/{}/revoke", own.as_str().unwrap());
    assert_eq!(owner.submit(&end, &[]).await.header("location"), "/admin/account");
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn nobody_ends_the_session_of_somebody_else() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let other = "INSERT INTO users (id, email, name, role, password_hash) \
        VALUES ('00000000-0000-7000-8000-000000000001', 'eve@example.com', 'Eve', 'none', 'x')";
    server.database.sql(other).await;
    let session = "INSERT INTO sessions (id, token_hash, user_id, created_at, last_seen_at, expires_at) \
        VALUES ('00000000-0000-7000-8000-000000000002', 'x', '00000000-0000-7000-8000-000000000001', \
        '2027-01-15', '2027-01-15', '2028-01-15')";
    server.database.sql(session).await;
    let path = "/v1/sessions/00000000-0000-7000-8000-000000000002";
    let delete = "DELETE".parse::<axum::http::Method>().unwrap();
    assert_eq!(owner.send(delete.clone(), path, &[], "").await.problem(), "404 not_found");
    owner.send(delete, "/v1/sessions", &[], "").await;
    assert_eq!(server.database.count("sessions").await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_persons_key_lists_and_ends_sessions_as_far_as_its_role_and_scope_go() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let grace = server.sign_in_as("grace", "none", &[]).await;
    let of_owner = TestKey { person: Some(EMAIL), ..TestKey::new(None, Role::Admin) };
    let call = async |key: TestKey<'_>, method: Method, path: &str| {
        server.visitor.with_key(&server.insert_key(key).await).send(method, path, &[], "").await
    };
    let listed = call(of_owner, Method::GET, "/v1/sessions").await.json();
    assert_eq!(listed["sessions"].as_array().unwrap().len(), 1, "no one else's: {listed}");
    assert_eq!(listed["sessions"][0]["is_current"], false);
    let id = listed["sessions"][0]["id"].as_str().unwrap();
    let path = format!("/v1/sessions/{id}");

    let of_acme = TestKey { tenant: Some("acme"), ..of_owner };
    let of_nobody = TestKey { person: None, ..of_owner };
    let of_grace = TestKey { person: Some("grace@example.com"), ..of_owner };
    for (key, method, path, refusal) in [
        (TestKey { role: Role::Read, ..of_owner }, Method::DELETE, &*path, "403 insufficient_role"),
        (
            TestKey { role: Role::Write, ..of_owner },
            Method::DELETE,
            "/v1/sessions",
            "403 insufficient_role",
        ),
        (of_acme, Method::GET, "/v1/sessions", "403 forbidden"),
        (of_acme, Method::DELETE, &path, "403 forbidden"),
        (TestKey { is_admin: true, ..of_nobody }, Method::GET, "/v1/sessions", "403 forbidden"),
        (of_nobody, Method::DELETE, &path, "403 forbidden"),
        (of_grace, Method::DELETE, &path, "404 not_found"),
    ] {
        let response = call(key, method, path).await;
        assert_eq!(response.problem(), refusal, "{key:?} {path}");
    }
    let reading = TestKey { role: Role::Read, ..of_owner };
    assert_eq!(call(reading, Method::GET, "/v1/sessions").await.status, 200);
    assert_eq!(owner.get("/api/auth/session").await.status, 200);

    assert_eq!(call(of_owner, Method::DELETE, &path).await.status, 204);
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
    let (first, second) = (server.new_session_of(EMAIL).await, server.new_session_of(EMAIL).await);
    assert_eq!(call(of_owner, Method::DELETE, "/v1/sessions").await.status, 204);
    for ended in [first, second] {
        assert_eq!(ended.get("/api/auth/session").await.status, 401);
    }
    assert_eq!(grace.get("/api/auth/session").await.status, 200);
    let by_key = "audit_log WHERE action LIKE 'session.revoke%' AND actor_kind = 'key'";
    assert_eq!(server.database.count(by_key).await, 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_ends_with_the_session_that_requested_it() {
    let (server, owner) = Server::with_running_acme().await;
    let second = second_session(&owner, "curl/8").await;
    server.orchestrator.endless_logs.store(true, Ordering::Relaxed);
    let path = "/api/admin/tenants/acme/logs?follow=1";
    let follow = async |client: &TestClient| {
        client.send_streaming("GET".parse().unwrap(), path, &[], "").await.into_body()
    };
    let (mut kept, ended) = (follow(&owner).await, follow(&second).await);
    second.send("POST".parse().unwrap(), "/api/auth/sign-out", &[], "").await;
    let end = tokio::time::timeout(TEST_TIMEOUT, ended.collect()).await;
    end.expect("the stream outlives its session").unwrap();
    // The first stream shows its line and stays open.
    assert!(kept.frame().await.is_some());
    let more = tokio::time::timeout(Duration::from_millis(700), kept.frame()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_role_and_an_ending_session_lock_in_one_order() {
    let (server, owner) = Server::with_running_acme().await;
    let grace = server.sign_in_as("grace", "viewer", &[]).await;
    assert_eq!(grace.get("/v1/tenants/acme/open").await.status, 303);
    let id = grace.get("/api/auth/session").await.json()["user"]["id"].clone();
    // An ending session holds its row, and will revoke its grants next.
    let mut ending = server.database.conn().await;
    let of_grace = "IN (SELECT id FROM users WHERE name = 'grace')";
    let run = async |conn: &mut AsyncPgConnection, text: String| {
        sql_query(text).execute(conn).await.unwrap();
    };
    run(&mut ending, "BEGIN".to_owned()).await;
    run(&mut ending, format!("SELECT FROM sessions WHERE user_id {of_grace} FOR UPDATE")).await;
    let changed = tokio::spawn(async move {
        let path = format!("/v1/users/{}", id.as_str().unwrap());
        owner.json(Method::PATCH, &path, &[], json!({ "role": "admin" })).await
    });
    let waiters =
        "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    let waiting = async {
        while server.database.count(waiters).await == 0 {
            tokio::task::yield_now().await;
        }
    };
    timeout(TEST_TIMEOUT, waiting).await.expect("the change does not wait");
    run(&mut ending, format!("UPDATE sso_grants SET revoked = true WHERE user_id {of_grace}"))
        .await;
    run(&mut ending, "COMMIT".to_owned()).await;
    assert_eq!(changed.await.unwrap().status, 200);
}
