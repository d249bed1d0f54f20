//! Without its database app-api waits, reports the outage, and recovers.

use std::sync::atomic::Ordering;
use std::time::Duration;

use app_api::db::connect::Limits;
use app_api::db::{Database, DatabaseError};
use axum::http::Method;
use diesel_async::RunQueryDsl as _;
use http_body_util::BodyExt as _;
use protocol::State;
use protocol::routes::Route;
use serde_json::json;

use crate::harness::link::NetworkLink;
use crate::harness::{
    FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestDatabase, acme, owner_sign_up,
};
use crate::route_feed::{until, watch};

/// A server whose link to the database starts cut.
async fn server_behind_link() -> (NetworkLink, Server) {
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    let (link, url) = link_to(&setup.url);
    setup.url = url;
    (link, setup.start_unready().await)
}

/// A link to the database of `url`, and the URL of the link.
fn link_to(url: &str) -> (NetworkLink, String) {
    let (_, after) = url.split_once("host=").unwrap();
    let (directory, _) = after.split_once('&').unwrap();
    let link = NetworkLink::to(format!("{directory}/.s.PGSQL.5432"));
    let (host, port) = (link.address().ip(), link.address().port());
    let url = url.replace(directory, &host.to_string()) + &format!("&port={port}");
    (link, url)
}

/// The deadline itself ends the wait; without it the query would wait for ever.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_under_way_fails_when_postgres_vanishes() {
    let postgres = TestDatabase::new().await;
    let (link, url) = link_to(&postgres.url);
    link.restore();
    let limits = Limits { statement: Duration::from_secs(2), ..Limits::default() };
    let database = Database::with_limits(&url, None, limits).unwrap();
    let mut conn = database.conn().await.unwrap();
    link.stall();
    let query = diesel::sql_query("SELECT 1").execute(&mut *conn);
    let failed = tokio::time::timeout(TEST_TIMEOUT, query).await.expect("the query waits for ever");
    let error = anyhow::Error::from(failed.unwrap_err());
    assert_eq!(DatabaseError::find(&error), Some(DatabaseError::Unavailable), "{error:?}");
}

/// A lock makes the query of a request wait for longer than the statement timeout.
#[tokio::test(flavor = "multi_thread")]
async fn a_query_over_its_deadline_is_refused_with_a_code() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.database_limits = Limits { statement: Duration::from_secs(2), ..Limits::default() };
    let server = setup.start().await;
    let owner = server.sign_up().await;
    let mut lock = server.database.conn().await;
    for statement in ["BEGIN", "LOCK TABLE tenants IN ACCESS EXCLUSIVE MODE"] {
        diesel::sql_query(statement).execute(&mut lock).await.unwrap();
    }
    assert_eq!(owner.get("/api/admin/tenants").await.problem(), "503 database_unavailable");
    let page = owner.visit("/admin").await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("database_unavailable"), "{}", page.text());
    diesel::sql_query("ROLLBACK").execute(&mut lock).await.unwrap();
    assert_eq!(owner.get("/api/admin/tenants").await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_unreachable_at_the_start_is_awaited() {
    let (link, mut server) = server_behind_link().await;
    for path in ["/readyz", "/ready"] {
        let ready = server.visitor.get(path).await;
        assert_eq!(ready.problem(), "503 waiting", "{path}");
        let detail = ready.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.starts_with("database"), "{path}: {detail}");
    }
    for path in ["/healthz", "/health"] {
        assert_eq!(server.visitor.get(path).await.status, 200, "{path}");
    }
    let refused = server.visitor.post("/api/auth/sign-up/email", owner_sign_up()).await;
    assert_eq!(refused.problem(), "503 database_unavailable");
    let page = server.visitor.visit("/admin/login").await;
    assert_eq!(page.status, 503);
    assert!(page.text().contains("database_unavailable"), "{}", page.text());
    link.restore();
    server.wait_ready().await;
    assert_eq!(server.visitor.get("/ready").await.status, 200);
    let owner = server.sign_up().await;
    assert_eq!(owner.get("/api/admin/tenants").await.json(), json!({ "tenants": [] }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_outage_is_reported_and_recovered_from() {
    let (link, mut server) = server_behind_link().await;
    link.restore();
    server.wait_ready().await;
    let owner = server.sign_up().await;
    owner.post("/api/admin/tenants", acme()).await;
    server.until_state("acme", State::Running).await;
    let runs = |routes: &[Route]| routes.iter().any(|r| r.state == State::Running);
    until(&mut watch(&server), runs).await;
    link.cut();
    for path in ["/api/admin/tenants", "/api/auth/session"] {
        let response = owner.get(path).await;
        assert_eq!(response.problem(), "503 database_unavailable", "{path}");
        assert!(!response.text().contains("onnection refused"), "{}", response.text());
    }
    assert_eq!(owner.get("/readyz").await.problem(), "503 waiting");
    until(&mut watch(&server), runs).await;
    assert_eq!(owner.get("/healthz").await.status, 200);
    link.restore();
    server.wait_ready().await;
    assert_eq!(owner.get("/api/admin/tenants/acme").await.json()["state"], "running");
    let request = json!({ "slug": "later", "name": "Later" });
    assert_eq!(owner.post("/api/admin/tenants", request).await.status, 201);
    server.until_state("later", State::Running).await;
}

/// Whether somebody may still do something cannot be found out, so nobody may.
#[tokio::test(flavor = "multi_thread")]
async fn without_the_database_keys_are_not_admitted_and_streams_end() {
    let (link, mut server) = server_behind_link().await;
    link.restore();
    server.wait_ready().await;
    let owner = server.sign_up().await;
    owner.post("/api/admin/tenants", acme()).await;
    server.orchestrator.endless_logs.store(true, Ordering::Relaxed);
    let program = server.visitor.with_key(&server.admin_key().await);
    let paths = ["/v1/tenants/acme/logs?follow=1", "/v1/events"];
    let mut streams = Vec::new();
    for path in paths {
        let mut stream = program.send_streaming(Method::GET, path, &[], "").await;
        assert_eq!(stream.status(), 200, "{path}");
        stream.frame().await.unwrap().unwrap();
        streams.push((path, stream));
    }
    link.cut();
    let refused = program.get("/v1/tenants/acme").await;
    assert_eq!(refused.problem(), "503 database_unavailable");
    for (path, mut stream) in streams {
        let end = async { while let Some(Ok(_)) = stream.frame().await {} };
        tokio::time::timeout(TEST_TIMEOUT, end).await.unwrap_or_else(|_| panic!("{path} goes on"));
    }
    link.restore();
    server.wait_ready().await;
    let admitted = program.get("/v1/tenants/acme").await;
    assert_eq!(admitted.status, 200);
}
