//! A command in a tenant: who may run one, what the audit log knows of it, and when it ends.

use axum::http::{Method, Response};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use protocol::api_keys::Role;
use protocol::problem::Code;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::time::timeout;

use crate::harness::{FakeOrchestrator, Server, TEST_TIMEOUT, TestClient};

const PATH: &str = "/v1/tenants/acme/exec";
const LS: &str = "command=%5B%22ls%22%2C%22-l%22%5D&columns=80&rows=24";
const UPGRADE: [(&str, &str); 4] = [
    ("connection", "keep-alive, Upgrade"),
    ("upgrade", "websocket"),
    ("sec-websocket-version", "13"),
    ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
];

async fn open(client: &TestClient, query: &str, more: &[(&str, &str)]) -> Response<Incoming> {
    let headers = [UPGRADE.as_slice(), more].concat();
    client.send_streaming(Method::GET, &format!("{PATH}?{query}"), &headers, "").await
}

async fn stream(response: Response<Incoming>) -> TokioIo<hyper::upgrade::Upgraded> {
    assert_eq!(response.status(), 101);
    assert_eq!(response.headers()["upgrade"], "websocket");
    assert_eq!(response.headers()["sec-websocket-accept"], UPGRADE[3].1, "as the fake says");
    TokioIo::new(hyper::upgrade::on(response).await.unwrap())
}

/// The code of a refusal.
async fn refusal(client: &TestClient, query: &str, more: &[(&str, &str)]) -> String {
    let headers = [UPGRADE.as_slice(), more].concat();
    client.send(Method::GET, &format!("{PATH}?{query}"), &headers, "").await.problem()
}

#[tokio::test(flavor = "multi_thread")]
async fn frames_pass_in_both_directions_and_the_command_is_audited() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    let mut stream = stream(open(&owner, LS, &[]).await).await;
    stream.write_all(b"frames").await.unwrap();
    let mut echo = [0; 6];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"frames");
    let id = server.row("acme").await.tenant_id();
    let query = "command=%5B%22ls%22%2C%22%2Dl%22%5D&columns=80&rows=24".to_owned();
    assert_eq!(*server.orchestrator.commands.lock().unwrap(), [(id, query)]);
    let audited = owner.get("/v1/audit?action=tenant.exec").await.json();
    let entry = &audited["entries"][0];
    assert_eq!(entry["resource"], "tenant:acme");
    assert_eq!(entry["after"], json!({ "command": ["ls", "-l"], "terminal": true }));
    // The end of the client's side is the end of the command's connection.
    let mut open = server.orchestrator.open_commands.subscribe();
    drop(stream);
    timeout(TEST_TIMEOUT, open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_command_ends_with_the_key_and_with_the_session() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    let created =
        owner.post("/v1/tenants/acme/keys", json!({ "name": "ci", "role": "admin" })).await;
    let program = server.visitor.with_key(created.json()["key"].as_str().unwrap());
    let by_key = open(&program, "", &[]).await;
    let member = server.sign_in_as("mia", "none", &[("acme", "admin")]).await;
    let mut by_key = stream(by_key).await;
    let mut by_session = stream(open(&member, "", &[]).await).await;
    for stream in [&mut by_key, &mut by_session] {
        stream.write_all(b"x").await.unwrap();
        assert_eq!(stream.read_u8().await.unwrap(), b'x');
    }
    let mut open = server.orchestrator.open_commands.subscribe();
    assert_eq!(*open.borrow_and_update(), 2);
    let revoked = owner.send(Method::DELETE, created.header("location"), &[], "").await;
    assert_eq!(revoked.status, 204);
    let end = timeout(TEST_TIMEOUT, by_key.read_u8()).await.expect("the command goes on");
    assert!(end.is_err());
    timeout(TEST_TIMEOUT, open.wait_for(|open| *open == 1)).await.unwrap().unwrap();
    server.database.sql("DELETE FROM memberships").await;
    assert!(timeout(TEST_TIMEOUT, by_session.read_u8()).await.unwrap().is_err());
    timeout(TEST_TIMEOUT, open.wait_for(|open| *open == 0)).await.unwrap().unwrap();
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn commands_do_not_hold_up_the_end_of_the_process() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    let mut stream = stream(open(&owner, "", &[]).await).await;
    server.stop().await;
    assert!(timeout(TEST_TIMEOUT, stream.read_u8()).await.unwrap().is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_no_command_is_refused() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    for bad in [
        "command=ls",
        "command=%5B%5D",
        "command=%5B%22%22%5D",
        "command=%5B1%5D",
        "command=%5B%22a%5Cu0000%22%5D",
        "columns=80",
        "columns=0&rows=1",
        "columns=70000&rows=1",
        "user=cial",
    ] {
        assert_eq!(refusal(&owner, bad, &[]).await, "400 invalid_query", "{bad}");
    }
    assert_eq!(owner.get(PATH).await.problem(), "426 upgrade_required");
    let old = [("sec-websocket-version", "8"), UPGRADE[0], UPGRADE[1], UPGRADE[3]];
    let old = owner.send(Method::GET, PATH, &old, "").await;
    assert_eq!(old.problem(), "426 upgrade_version");
    let writer = server.visitor.with_key(&server.key_of(Some("acme"), Role::Write).await);
    let by_role = refusal(&writer, "", &[]).await;
    assert_eq!(by_role, "403 insufficient_role");
    // A page of a tenant has the same site as the admin, so the browser sends the cookie along.
    let page = [("origin", "http://acme.localhost:8080")];
    assert_eq!(refusal(&owner, "", &page).await, "403 cross_site");
    let audited = owner.get("/v1/audit?action=tenant.exec").await.json();
    assert_eq!(audited["entries"], json!([]), "nothing was run");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_runs_no_command_says_why() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    for (code, shown) in [
        (Code::TenantStopped, "409 tenant_stopped"),
        (Code::TenantNotRunning, "409 tenant_not_running"),
        (Code::NoSuchTenant, "409 tenant_not_running"),
        (Code::TooManyCommands, "429 too_many_commands"),
        (Code::WakeFailed, "502 wake_failed"),
        (Code::EngineRefused, "503 orchestrator_unavailable"),
    ] {
        *server.orchestrator.refuse_commands.lock().unwrap() = Some(code);
        assert_eq!(refusal(&owner, "", &[]).await, shown);
    }
    server.orchestrator.set_reachable(false);
    assert_eq!(refusal(&owner, "", &[]).await, "503 orchestrator_unavailable");
    server.stop().await;
}
