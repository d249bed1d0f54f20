//! A locked-out owner sets a new password by a one-time link.

use std::time::Duration;

use app_api::accounts;
use app_api::audit::Actor;
use serde_json::json;

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, TestClient, TestResponse};

async fn token(server: &Server) -> String {
    let mut conn = server.database.conn().await;
    let made = accounts::reset_token(&mut conn, Actor::command("test"), EMAIL, server.now())
        .await
        .unwrap();
    made.unwrap().reveal().to_owned()
}

async fn reset(browser: &TestClient, token: &str, password: &str) -> TestResponse {
    browser.submit("/admin/reset", &[("token", token), ("password", password)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_link_works_once_and_ends_every_session() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let token = token(&server).await;
    let visitor = &server.visitor;
    let page = visitor.visit(&format!("/admin/reset?token={token}")).await;
    assert_eq!(page.status, 200);
    assert!(page.text().contains(&token));
    let weak = reset(visitor, &token, "short").await;
    assert_eq!(weak.status, 422);
    assert!(weak.text().contains("Use at least 8 characters"), "{}", weak.text());
    let done = reset(visitor, &token, "another good one").await;
    assert_eq!((done.status.as_u16(), done.header("location")), (303, "/admin/login"));
    assert_eq!(owner.get("/api/auth/session").await.status, 401);
    let sign_in = async |password: &str| {
        let request = json!({ "email": EMAIL, "password": password });
        visitor.post("/api/auth/sign-in/email", request).await.status.as_u16()
    };
    assert_eq!(sign_in(PASSWORD).await, 401);
    assert_eq!(sign_in("another good one").await, 200);
    assert_eq!(reset(visitor, &token, "a third good one").await.status, 410, "once");
    assert_eq!(visitor.visit(&format!("/admin/reset?token={token}")).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reset_link_expires_and_is_replaced_by_the_next() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let first = token(&server).await;
    let second = token(&server).await;
    assert_eq!(reset(&server.visitor, &first, "another good one").await.status, 410);
    server.advance_clock(Duration::from_secs(1_800));
    assert_eq!(reset(&server.visitor, &second, "another good one").await.status, 410);
    let mut conn = server.database.conn().await;
    let none = accounts::reset_token(
        &mut conn,
        Actor::command("test"),
        "nobody@example.com",
        server.now(),
    )
    .await;
    assert!(none.unwrap().is_none());
}

/// Counted, not timed: a reset without a live link costs no hash.
#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_resets_costs_no_hash() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let before = server.metric("cial_password_hashes_total").await;
    for _ in 0..20 {
        let flood = (0..50).map(|_| reset(&server.visitor, "no-such-token", "another good one"));
        for response in futures_util::future::join_all(flood).await {
            assert_eq!(response.status, 410);
        }
    }
    assert_eq!(server.metric("cial_password_hashes_total").await, before);
    let request = json!({ "email": EMAIL, "password": PASSWORD });
    assert_eq!(server.visitor.post("/api/auth/sign-in/email", request).await.status, 200);
    assert_eq!(server.metric("cial_password_hashes_total").await, before + 1);
}
