//! Sessions are extended by use, end for good, and are stored as a hash.

use std::time::Duration;

use serde_json::json;

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, Setup};

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
    insta::assert_snapshot!(attributes, @" Path=/; HttpOnly; SameSite=Lax; Max-Age=43200");
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
