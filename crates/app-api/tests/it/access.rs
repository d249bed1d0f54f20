//! Every route answers every kind of visitor as the table says, and nothing beside the table answers at all.

use app_api::access::Access;
use app_api::routes::ROUTES;
use axum::http::StatusCode;

use crate::world::{Browser, Fake, Server, acme};

#[derive(Clone, Copy, Debug)]
enum Visitor {
    Nobody,
    Forger,
    SignedOut,
    Owner,
}

fn visiting(server: &Server, owner: &Browser, ended: &Browser, visitor: Visitor) -> Browser {
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
async fn every_route_asks_for_what_the_table_says() {
    let (server, owner) = Server::owned(Fake::obedient()).await;
    owner.post("/api/admin/tenants", acme()).await;
    let mut ended = owner.stranger();
    let body =
        serde_json::json!({ "email": crate::world::EMAIL, "password": crate::world::PASSWORD });
    ended.keep(&ended.post("/api/auth/sign-in/email", body).await);
    ended.send("POST".parse().unwrap(), "/api/auth/sign-out", &[], "").await;
    for route in ROUTES {
        for who in [Visitor::Nobody, Visitor::Forger, Visitor::SignedOut] {
            let path = route.path.replace("{slug}", "acme");
            let browser = visiting(&server, &owner, &ended, who);
            let answer = browser.send(route.method.clone(), &path, &[], "").await;
            let told = format!("{} {path} as {who:?}: {}", route.method, answer.status);
            match route.access {
                Access::Anyone => assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{told}"),
                Access::Owner if path.starts_with("/api/") => {
                    assert_eq!(answer.problem(), "401 unauthenticated", "{told}");
                }
                Access::Owner => {
                    assert_eq!(answer.status, StatusCode::SEE_OTHER, "{told}");
                    assert!(answer.header("location").starts_with("/admin/login?next="), "{told}");
                }
            }
        }
        // Last, since some routes end things: the owner passes each gate.
        if route.access == Access::Owner {
            let path = route.path.replace("{slug}", "unknown");
            let browser = visiting(&server, &owner, &ended, Visitor::Owner);
            let answer = browser.send(route.method.clone(), &path, &[], "").await;
            assert_ne!(answer.status, StatusCode::UNAUTHORIZED, "{} {path}", route.method);
            assert!(!answer.header("location").contains("login"), "{} {path}", route.method);
            assert!(!answer.status.is_server_error(), "{} {path}", route.method);
            // Bytes that are no text are one more name that no tenant has.
            if route.path.contains("{slug}") {
                let path = route.path.replace("{slug}", "%ff");
                let answer = browser.send(route.method.clone(), &path, &[], "").await;
                assert_eq!(answer.problem(), "404 tenant_not_found", "{} {path}", route.method);
            }
        }
    }
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn strangers_do_not_learn_what_exists() {
    let (server, owner) = Server::owned(Fake::obedient()).await;
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
        let answer = owner.get(&format!("/api/admin/tenants/{none}")).await;
        assert_eq!(answer.problem(), "404 tenant_not_found", "{none}");
    }
    let put = owner.send("PUT".parse().unwrap(), "/api/admin/tenants", &[], "").await;
    assert_eq!(put.problem(), "405 method_not_allowed");
    assert!(put.header("allow").contains("POST"), "{:?}", put.headers);
    assert_eq!(nobody.get("/nothing").await.problem(), "404 not_found");
    // What only the router may read is not on this door at all.
    for path in ["/v1/routes/watch", "/metrics"] {
        assert_eq!(owner.get(path).await.problem(), "404 not_found", "{path}");
    }
}
