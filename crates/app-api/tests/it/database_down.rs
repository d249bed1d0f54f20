//! Without its database it waits, says so, and recovers by itself.

use protocol::State;
use protocol::routes::Route;
use serde_json::json;

use crate::feeding::{until, watch};
use crate::world::wire::Wire;
use crate::world::{Fake, PATIENCE, Server, Setup, acme, owner_wish};

/// A server whose database is at the other end of a wire that does not carry yet.
async fn wired() -> (Wire, Server) {
    let mut setup = Setup::new(Fake::obedient()).await;
    let (_, after) = setup.url.split_once("host=").unwrap();
    let (directory, _) = after.split_once('&').unwrap();
    let wire = Wire::to(format!("{directory}/.s.PGSQL.5432"));
    let (host, port) = (wire.address().ip(), wire.address().port());
    setup.url = setup.url.replace(directory, &host.to_string()) + &format!("&port={port}");
    (wire, setup.begin().await)
}

#[tokio::test(flavor = "multi_thread")]
async fn down_at_the_start_it_waits_and_recovers() {
    let (wire, mut server) = wired().await;
    let ready = server.visitor.get("/readyz").await;
    assert_eq!(ready.problem(), "503 waiting");
    assert!(ready.json()["detail"].as_str().unwrap().starts_with("database"), "{}", ready.text());
    assert_eq!(server.visitor.get("/healthz").await.status, 200);
    let refused = server.visitor.post("/api/auth/sign-up/email", owner_wish()).await;
    assert_eq!(refused.problem(), "503 database_unavailable");
    let page = server.visitor.visit("/admin/login").await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("database_unavailable"), "{}", page.text());
    wire.mend();
    server.ready().await;
    let owner = server.sign_up().await;
    assert_eq!(owner.get("/api/admin/tenants").await.json(), json!({ "tenants": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn down_later_it_says_so_and_goes_on_when_it_is_back() {
    let (wire, mut server) = wired().await;
    wire.mend();
    server.ready().await;
    let owner = server.sign_up().await;
    owner.post("/api/admin/tenants", acme()).await;
    server.until_state("acme", State::Running).await;
    let runs = |routes: &[Route]| routes.iter().any(|r| r.state == State::Running);
    until(&mut watch(&server), PATIENCE, runs).await;
    wire.cut();
    for path in ["/api/admin/tenants", "/api/auth/session"] {
        let answer = owner.get(path).await;
        assert_eq!(answer.problem(), "503 database_unavailable", "{path}");
        assert!(!answer.text().contains("onnection refused"), "{}", answer.text());
    }
    assert_eq!(owner.get("/readyz").await.problem(), "503 waiting");
    until(&mut watch(&server), PATIENCE, runs).await;
    assert_eq!(owner.get("/healthz").await.status, 200);
    wire.mend();
    server.ready().await;
    assert_eq!(owner.get("/api/admin/tenants/acme").await.json()["state"], "running");
    let wish = json!({ "slug": "later", "name": "Later" });
    assert_eq!(owner.post("/api/admin/tenants", wish).await.status, 201);
    server.until_state("later", State::Running).await;
}
