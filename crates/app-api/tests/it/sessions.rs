//! Sessions slide, end for good, and are known to the database by a hash alone.

use std::time::Duration;

use serde_json::json;

use crate::world::{EMAIL, Fake, PASSWORD, Server, Setup};

const MINUTE: Duration = Duration::from_secs(60);

#[tokio::test(flavor = "multi_thread")]
async fn a_session_slides_while_it_is_used() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    for _ in 0..6 {
        server.pass(MINUTE * 29);
        assert_eq!(owner.get("/api/auth/session").await.status, 200);
    }
    server.pass(MINUTE * 30);
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
    assert_eq!(server.database.count("sessions").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn no_session_outlives_twelve_hours() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    for _ in 0..35 {
        server.pass(MINUTE * 20);
        assert_eq!(owner.get("/api/auth/session").await.status, 200);
    }
    server.pass(MINUTE * 20);
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_row_is_a_session_ended_at_once() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    server.database.sql("DELETE FROM sessions").await;
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_cookie_is_for_this_host_and_no_script_and_the_database_does_not_hold_it() {
    let server = Server::with(Fake::silent()).await;
    let answer = server.visitor.post("/api/auth/sign-up/email", crate::world::owner_wish()).await;
    let cookie = answer.header("set-cookie").to_owned();
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
async fn signing_in_again_ends_the_session_one_came_with() {
    let (server, mut owner) = Server::owned(Fake::silent()).await;
    let before = owner.clone();
    let wish = json!({ "email": EMAIL, "password": PASSWORD });
    let answer = owner.post("/api/auth/sign-in/email", wish).await;
    owner.keep(&answer);
    assert_ne!(owner.cookie, before.cookie);
    assert_eq!(before.get("/api/auth/session").await.status, 401);
    assert_eq!(owner.get("/api/auth/session").await.status, 200);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn over_https_the_cookie_is_locked_to_the_host() {
    let mut setup = Setup::new(Fake::silent()).await;
    setup.env.push(("CIAL_ADMIN_URL", "https://admin.example".into()));
    let server = setup.start().await;
    let answer = server.visitor.post("/api/auth/sign-up/email", crate::world::owner_wish()).await;
    let cookie = answer.header("set-cookie");
    assert!(cookie.starts_with("__Host-cial_admin="), "{cookie}");
    assert!(cookie.ends_with("; Secure"), "{cookie}");
    assert!(!cookie.contains("Domain"), "{cookie}");
    assert!(answer.header("strict-transport-security").contains("max-age"));
    let described = server.visitor.get("/api/openapi.json").await.json();
    let session = &described["components"]["securitySchemes"]["session"];
    assert_eq!(session["name"], cookie.split('=').next().unwrap());
}
