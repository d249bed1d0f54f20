//! Other sites cannot act in an owner's name, and unknown host names are refused.

use serde_json::json;

use crate::harness::{FakeOrchestrator, Server, acme};

#[tokio::test(flavor = "multi_thread")]
async fn unsafe_methods_of_other_sites_are_refused() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let post = "POST".parse::<axum::http::Method>().unwrap();
    for headers in [
        &[("sec-fetch-site", "cross-site")][..],
        &[("sec-fetch-site", "same-site")],
        &[("origin", "http://acme.localhost:8080")],
        &[("origin", "null")],
        &[("origin", "http://localhost.evil.example")],
    ] {
        let response = owner.json(post.clone(), "/api/admin/tenants", headers, acme()).await;
        assert_eq!(response.problem(), "403 cross_site", "{headers:?}");
    }
    assert_eq!(server.database.count("tenants").await, 0);
    let fine = [("sec-fetch-site", "same-origin")];
    let made = owner.json(post.clone(), "/api/admin/tenants", &fine, acme()).await;
    assert_eq!(made.status, 201);
    let scripted = owner.post("/api/admin/tenants", json!({ "slug": "other", "name": "B" })).await;
    assert_eq!(scripted.status, 201, "programs say neither");
}

#[tokio::test(flavor = "multi_thread")]
async fn unknown_host_names_are_refused() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let get = "GET".parse::<axum::http::Method>().unwrap();
    for host in ["evil.example", "evil.example:3100", "acme.localhost:8080"] {
        let response = owner.send(get.clone(), "/api/admin/tenants", &[("host", host)], "").await;
        assert_eq!(response.problem(), "421 wrong_host", "{host}");
        let probe = owner.send(get.clone(), "/healthz", &[("host", host)], "").await;
        assert_eq!(probe.status, 200, "probes call by address");
    }
    for host in ["localhost:3100", "127.0.0.1:9", "[::1]:3100"] {
        let response = owner.send(get.clone(), "/api/admin/tenants", &[("host", host)], "").await;
        assert_eq!(response.status, 200, "{host}");
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_response_has_security_headers() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    for path in ["/admin/signup", "/healthz", "/api/admin/tenants", "/nothing"] {
        let response = server.visitor.visit(path).await;
        insta::allow_duplicates! {
            insta::assert_snapshot!(response.header("content-security-policy"), @"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; form-action 'self' http://*.localhost:8080; base-uri 'none'; frame-ancestors 'none'");
        }
        assert_eq!(response.header("x-content-type-options"), "nosniff");
        assert_eq!(response.header("cache-control"), "no-store");
        assert!(!response.header("x-request-id").is_empty());
    }
    let style = server.visitor.get(app_api::pages::assets::style_path()).await;
    assert!(style.header("cache-control").contains("immutable"));
}
