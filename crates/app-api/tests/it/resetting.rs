//! A locked-out owner comes back in by a link that works once.

use std::time::Duration;

use app_api::accounts;
use serde_json::json;

use crate::world::{Answer, Browser, EMAIL, Fake, PASSWORD, Server};

async fn token(server: &Server) -> String {
    let mut conn = server.database.conn().await;
    let made = accounts::reset_token(&mut conn, EMAIL, server.now()).await.unwrap();
    made.unwrap().reveal().to_owned()
}

async fn reset(browser: &Browser, token: &str, password: &str) -> Answer {
    browser.submit("/admin/reset", &[("token", token), ("password", password)]).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_sets_a_password_once_and_ends_every_session() {
    let (server, owner) = Server::owned(Fake::silent()).await;
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
        let wish = json!({ "email": EMAIL, "password": password });
        visitor.post("/api/auth/sign-in/email", wish).await.status.as_u16()
    };
    assert_eq!(sign_in(PASSWORD).await, 401);
    assert_eq!(sign_in("another good one").await, 200);
    assert_eq!(reset(visitor, &token, "a third good one").await.status, 410, "once");
    assert_eq!(visitor.visit(&format!("/admin/reset?token={token}")).await.status, 410);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_link_ends_with_time_and_with_the_next_one() {
    let (server, _owner) = Server::owned(Fake::silent()).await;
    let first = token(&server).await;
    let second = token(&server).await;
    assert_eq!(reset(&server.visitor, &first, "another good one").await.status, 410);
    server.pass(Duration::from_secs(1_800));
    assert_eq!(reset(&server.visitor, &second, "another good one").await.status, 410);
    let mut conn = server.database.conn().await;
    let none = accounts::reset_token(&mut conn, "nobody@example.com", server.now()).await;
    assert!(none.unwrap().is_none());
}
