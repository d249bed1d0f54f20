//! Other sites cannot act in an owner's name, and other names for this address do not work.

use serde_json::json;

use crate::world::{Fake, Server, acme};

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_methods_need_this_very_site() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    let post = "POST".parse::<axum::http::Method>().unwrap();
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://acme.localhost:8080")],
        &[("origin", "null")],
        &[("origin", "http://localhost.evil.example")],
    ] {
        let answer = owner.json(post.clone(), "/api/admin/tenants", headers, acme()).await;
        assert_eq!(answer.problem(), "403 cross_site", "{headers:?}");
    }
    assert_eq!(server.database.count("tenants").await, 0);
    let fine = [("sec-fetch-site", "same-origin")];
    let made = owner.json(post.clone(), "/api/admin/tenants", &fine, acme()).await;
    assert_eq!(made.status, 201);
    let scripted = owner.post("/api/admin/tenants", json!({ "slug": "other", "name": "B" })).await;
    assert_eq!(scripted.status, 201, "programs say neither");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_that_is_made_to_point_here_gets_nothing() {
    let (server, owner) = Server::owned(Fake::silent()).await;
    let get = "GET".parse::<axum::http::Method>().unwrap();
    for host in ["evil.example", "evil.example:3100", "acme.localhost:8080"] {
        let answer = owner.send(get.clone(), "/api/admin/tenants", &[("host", host)], "").await;
        assert_eq!(answer.problem(), "421 wrong_host", "{host}");
        let probe = owner.send(get.clone(), "/healthz", &[("host", host)], "").await;
        assert_eq!(probe.status, 200, "probes call by address");
    }
    for host in ["localhost:3100", "127.0.0.1:9", "[::1]:3100"] {
        let answer = owner.send(get.clone(), "/api/admin/tenants", &[("host", host)], "").await;
        assert_eq!(answer.status, 200, "{host}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_answer_tells_browsers_what_to_hold_to() {
    let server = Server::with(Fake::silent()).await;
    for path in ["/admin/signup", "/healthz", "/api/admin/tenants", "/nothing"] {
        let answer = server.visitor.visit(path).await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(answer.header("content-security-policy"), @"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self' http://*.localhost:8080; base-uri 'none'; frame-ancestors 'none'");
        }
        assert_eq!(answer.header("x-content-type-options"), "nosniff");
        assert_eq!(answer.header("cache-control"), "no-store");
        assert!(!answer.header("x-request-id").is_empty());
    }
    let style = server.visitor.get(app_api::pages::assets::style_path()).await;
    assert!(style.header("cache-control").contains("immutable"));
}
