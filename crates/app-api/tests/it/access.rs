//! Every route enforces the access of the route table, and no other route exists.

use app_api::access::Access;
use app_api::routes::ROUTES;
use axum::http::StatusCode;

use crate::harness::{FakeOrchestrator, Server, TestClient, acme};

#[derive(Clone, Copy, Debug)]
enum Visitor {
    Nobody,
    Forger,
    SignedOut,
    Owner,
}

fn visiting(
    server: &Server,
    owner: &TestClient,
    ended: &TestClient,
    visitor: Visitor,
) -> TestClient {
    let mut browser = server.visitor.clone();
    browser.cookie = match visitor {
        Visitor::Nobody => None,
        Visitor::Forger => Some(format!("cial_admin={}", "A".repeat(43))),
        Visitor::SignedOut => ended.cookie.clone(),
        Visitor::Owner => owner.cookie.clone(),
    };
    browser
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_enforces_the_access_of_the_table() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/api/admin/tenants", acme()).await;
    let mut ended = owner.new_client();
    let body =
        serde_json::json!({ "email": crate::harness::EMAIL, "password": crate::harness::PASSWORD });
    ended.store_cookie(&ended.post("/api/auth/sign-in/email", body).await);
    ended.send("POST".parse().unwrap(), "/api/auth/sign-out", &[], "").await;
    for route in ROUTES {
        for who in [Visitor::Nobody, Visitor::Forger, Visitor::SignedOut] {
            let path = route.path.replace("{slug}", "acme");
            let browser = visiting(&server, &owner, &ended, who);
            let response = browser.send(route.method.clone(), &path, &[], "").await;
            let received = format!("{} {path} as {who:?}: {}", route.method, response.status);
            match route.access {
                Access::Anyone => {
                    assert_ne!(response.status, StatusCode::UNAUTHORIZED, "{received}")
                }
                Access::Owner if path.starts_with("/api/") || path.starts_with("/v1/") => {
                    assert_eq!(response.problem(), "401 unauthenticated", "{received}");
                }
                Access::Owner => {
                    assert_eq!(response.status, StatusCode::SEE_OTHER, "{received}");
                    assert!(
                        response.header("location").starts_with("/admin/login?next="),
                        "{received}"
                    );
                }
            }
        }
        // The owner comes last because some routes delete the tenant.
        if route.access == Access::Owner {
            let path = route.path.replace("{slug}", "unknown");
            let browser = visiting(&server, &owner, &ended, Visitor::Owner);
            let response = browser.send(route.method.clone(), &path, &[], "").await;
            assert_ne!(response.status, StatusCode::UNAUTHORIZED, "{} {path}", route.method);
            assert!(!response.header("location").contains("login"), "{} {path}", route.method);
            assert!(!response.status.is_server_error(), "{} {path}", route.method);
            // Invalid UTF-8 is a slug that no tenant has.
            if route.path.contains("{slug}") {
                let path = route.path.replace("{slug}", "%ff");
                let response = browser.send(route.method.clone(), &path, &[], "").await;
                assert_eq!(response.problem(), "404 tenant_not_found", "{} {path}", route.method);
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_callers_do_not_learn_what_exists() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    owner.post("/api/admin/tenants", acme()).await;
    let nobody = &server.visitor;
    for path in
        ["/api/admin", "/api/admin/nothing", "/api/admin/tenants/acme", "/api/admin/tenants/none"]
    {
        assert_eq!(nobody.get(path).await.problem(), "401 unauthenticated", "{path}");
    }
    let put = nobody.send("PUT".parse().unwrap(), "/api/admin/tenants", &[], "").await;
    assert_eq!(put.problem(), "401 unauthenticated");
    assert_eq!(owner.get("/api/admin/nothing").await.problem(), "404 not_found");
    for none in ["none", "%00", "%2e%2e", "ACME", "acme%2f"] {
        let response = owner.get(&format!("/api/admin/tenants/{none}")).await;
        assert_eq!(response.problem(), "404 tenant_not_found", "{none}");
    }
    let put = owner.send("PUT".parse().unwrap(), "/api/admin/tenants", &[], "").await;
    assert_eq!(put.problem(), "405 method_not_allowed");
    assert!(put.header("allow").contains("POST"), "{:?}", put.headers);
    assert_eq!(nobody.get("/nothing").await.problem(), "404 not_found");
    // The internal routes do not exist on the public listener.
    for path in ["/v1/routes/watch", "/metrics"] {
        assert_eq!(owner.get(path).await.problem(), "404 not_found", "{path}");
    }
}
