//! The API over real HTTP: access, errors, watches.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::http::{Method, StatusCode};
use futures_util::StreamExt as _;
use orchestrator::access::{Access, Tokens};
use orchestrator::allowed_images::{AllowedImages, ImageTags};
use orchestrator::api;
use orchestrator::controller::Controller;
use orchestrator::driver::memory::{MemoryDriver, TenantBehavior};
use orchestrator::listener::EvictingListener;
use orchestrator::tenants::state_dir::StateDir;
use protocol::leases::{
    LeaseGrant, LeaseRequest, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse,
    RequestIntent, WakeStep,
};
use protocol::orchestrator::{
    Capacity, ObservedTenant, ObservedTenantList, Phase, TenantAtRevision,
};
use protocol::sleep::{SleepStatus, SleepStatusList};
use protocol::spec::Spec;
use protocol::{Problem, TenantId};
use service::Secret;
use service::client::{CallError, Client};
use testkit::Response;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use crate::support::{AWAKE, Running, TempDir, apply, spec};

pub(crate) const TOKEN: &str = "a-token-of-a-test-0123456789abcdef0123";
const LEASES_TOKEN: &str = "another-token-of-a-test-0123456789abcdef";
pub(crate) const MAX_CONNECTIONS: usize = 16;
const IMAGE: &str = "cial-tenant:dev";

pub(crate) struct Server {
    pub(crate) address: SocketAddr,
    pub(crate) engine: MemoryDriver,
    controller: Arc<Controller>,
    stop: CancellationToken,
    _state: TempDir,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Server {
    pub(crate) async fn start() -> Self {
        Self::serving().await.0
    }

    /// Also returns the task that serves.
    pub(crate) async fn serving() -> (Self, JoinHandle<anyhow::Result<()>>) {
        let (engine, stop) = (MemoryDriver::default(), CancellationToken::new());
        let state = TempDir::new("orchestrator").unwrap();
        let state_dir = StateDir::new(state.path().to_owned());
        let controller = Controller::new(Arc::new(engine.clone()), state_dir, 1, AWAKE);
        controller.operations.resync().await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let tokens = Tokens { control: Secret::new(TOKEN), leases: Secret::new(LEASES_TOKEN) };
        let images = AllowedImages::new(IMAGE, ImageTags::default());
        let serving = orchestrator::serve_api(
            EvictingListener::new(listener, MAX_CONNECTIONS),
            controller.clone(),
            images,
            tokens,
            stop.clone(),
        );
        let serving = tokio::spawn(serving);
        (Self { address, engine, controller, stop, _state: state }, serving)
    }

    /// Begins the end of the process.
    pub(crate) fn stop(&self) {
        self.stop.cancel();
    }

    /// A tenant that runs.
    pub(crate) async fn run_tenant(&self) -> TenantId {
        let spec = spec("acme", "");
        self.controller.operations.apply(apply(&spec, true)).await.unwrap();
        spec.id
    }

    pub(crate) async fn stop_tenant(&self, id: TenantId) {
        self.controller.operations.stop(id).await.unwrap();
    }

    pub(crate) fn client(&self) -> Client {
        Client::new(format!("http://{}", self.address), Secret::new(TOKEN))
    }

    /// Sends one bare request.
    pub(crate) async fn bare(
        &self,
        method: &Method,
        path: &str,
        token: Option<&str>,
        body: &[u8],
    ) -> Response {
        let shown = token.map_or(String::new(), |t| format!("Authorization: {t}\r\n"));
        let head = format!(
            "{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n{shown}Content-Length: {}\r\n\r\n",
            body.len()
        );
        let stream = TcpStream::connect(self.address).await.unwrap();
        let request = [head.as_bytes(), body].concat();
        Response::parse(&testkit::http::exchange(stream, &request).await.unwrap()).unwrap()
    }
}

/// Reads a problem, whose status and request id are those of the response.
fn problem(response: &Response) -> Problem {
    assert_eq!(response.header("content-type"), Some("application/problem+json"), "{response:?}");
    let problem: Problem = serde_json::from_str(&response.body).unwrap();
    assert_eq!(problem.status, response.status);
    assert_eq!(response.header("x-request-id"), Some(&*problem.request_id));
    problem
}

const PATIENCE: Duration = Duration::from_secs(60);

#[tokio::test]
async fn every_route_admits_exactly_the_callers_of_its_access() {
    let server = Server::start().await;
    let id = Uuid::now_v7().to_string();
    let (control, leases) = (format!("Bearer {TOKEN}"), format!("Bearer {LEASES_TOKEN}"));
    for route in api::routes() {
        let path = route.path.replace("{id}", &id);
        let visitors: [(Option<&str>, Option<Access>); 6] = [
            (None, None),
            (Some("Bearer wrong"), None),
            (Some("Basic x"), None),
            (Some(TOKEN), None),
            (Some(&control), Some(Access::Control)),
            (Some(&leases), Some(Access::Leases)),
        ];
        for (shown, known) in visitors {
            let expected = route.access == Access::Open || known == Some(route.access);
            // A watch responds for as long as it is read.
            if expected && path.ends_with("/watch") {
                continue;
            }
            let response = server.bare(&route.method, &path, shown, b"").await;
            let let_in = response.status != StatusCode::UNAUTHORIZED.as_u16();
            assert_eq!(
                let_in, expected,
                "{} {path} as {shown:?}: {}",
                route.method, response.status
            );
            if !let_in {
                assert_eq!(problem(&response).code, "unauthenticated");
            }
        }
        // Bytes that are not UTF-8 name nothing.
        if route.path.contains("{id}") {
            let path = route.path.replace("{id}", "%ff");
            let shown = if route.access == Access::Leases { &leases } else { &control };
            let response = server.bare(&route.method, &path, Some(shown), b"").await;
            let code = if path.starts_with("/v1/images") { "not_found" } else { "no_such_tenant" };
            assert_eq!(
                (response.status, problem(&response).code.as_str()),
                (404, code),
                "{} {path}",
                route.method
            );
        }
    }
    let leases: Vec<_> =
        api::routes().into_iter().filter(|r| r.access == Access::Leases).map(|r| r.path).collect();
    assert_eq!(leases.len(), 4);
    assert!(leases.iter().all(|path| path.starts_with("/v1/leases")), "{leases:?}");
}

#[tokio::test]
async fn unknown_paths_are_not_revealed_without_a_token() {
    let server = Server::start().await;
    let bearer = format!("Bearer {TOKEN}");
    let table = [
        (Method::GET, "/v1/nope", 404, "not_found"),
        (Method::PATCH, "/v1/tenants", 405, "method_not_allowed"),
        (Method::POST, "/healthz", 405, "method_not_allowed"),
    ];
    for (method, path, status, code) in table {
        assert_eq!(server.bare(&method, path, None, b"").await.status, 401);
        let router = format!("Bearer {LEASES_TOKEN}");
        assert_eq!(server.bare(&method, path, Some(&router), b"").await.status, 401);
        let response = server.bare(&method, path, Some(&bearer), b"").await;
        assert_eq!((response.status, problem(&response).code.as_str()), (status, code));
    }
}

#[tokio::test]
async fn invalid_input_is_refused_with_its_error() {
    let server = Server::start().await;
    let bearer = format!("Bearer {TOKEN}");
    let (id, large) = (Uuid::now_v7().to_string(), vec![b' '; 140_000]);
    let unknown = br#"{"run":true,"spec":{},"privileged":true}"#;
    let table: [(Method, String, &[u8], u16, &str); 6] = [
        (Method::PUT, format!("/v1/tenants/{id}"), b"{", 422, "invalid_body"),
        (Method::PUT, format!("/v1/tenants/{id}"), unknown, 422, "invalid_body"),
        (Method::PUT, format!("/v1/tenants/{id}"), &large, 413, "body_too_large"),
        (Method::PUT, "/v1/tenants/..%2F..%2Fetc".to_owned(), b"{}", 404, "no_such_tenant"),
        (Method::GET, format!("/v1/tenants/{id}/logs?tail=x"), b"", 422, "invalid_query"),
        (Method::GET, format!("/v1/tenants/{id}/logs?tali=1"), b"", 422, "invalid_query"),
    ];
    for (method, path, body, status, code) in table {
        let response = server.bare(&method, &path, Some(&bearer), body).await;
        assert_eq!((response.status, problem(&response).code.as_str()), (status, code), "{path}");
    }
}

#[tokio::test]
async fn a_tenant_is_applied_stopped_and_deleted() {
    let (server, spec) = (Server::start().await, spec("acme", ""));
    let (client, path) = (server.client(), format!("/v1/tenants/{}", spec.id));
    let put = async || {
        let body = apply(&spec, true);
        client.call::<TenantAtRevision>(Method::PUT, &path, Some(&body), PATIENCE).await
    };
    let stop = async |path: &str| {
        client.call::<ObservedTenant>(Method::POST, path, None::<&()>, PATIENCE).await
    };
    let (prepare, foreign) =
        (format!("{path}/prepare"), Spec { image: Some("postgres:16".to_owned()), ..spec.clone() });
    let refused = client.call::<()>(Method::POST, &prepare, Some(&foreign), PATIENCE).await;
    assert_eq!(refused.unwrap_err().code(), Some("invalid_spec"));
    client.call::<()>(Method::POST, &prepare, Some(&spec), PATIENCE).await.unwrap();
    let feed = server.controller.store.feed().unwrap();
    let before = feed.revision();
    let TenantAtRevision { revision, tenant } = put().await.unwrap();
    assert_eq!((tenant.id, tenant.generation), (spec.id, 1));
    assert!((before + 1..=feed.revision()).contains(&revision), "{revision}");
    let list: ObservedTenantList =
        client.call(Method::GET, "/v1/tenants", None::<&()>, PATIENCE).await.unwrap();
    assert_eq!(list.tenants.len(), 1);
    let stopped = stop(&format!("{path}/stop")).await.unwrap();
    assert_eq!(stopped.phase, Phase::Stopped);
    let room: Capacity =
        client.call(Method::GET, "/v1/capacity", None::<&()>, PATIENCE).await.unwrap();
    assert_eq!(room.networks_used, 1);
    for _ in 0..2 {
        client.call::<()>(Method::DELETE, &path, None::<&()>, PATIENCE).await.unwrap();
    }
    assert_eq!(put().await.unwrap_err().code(), Some("tenant_deleted"));
    let unknown = format!("/v1/tenants/{}/stop", Uuid::now_v7());
    assert_eq!(stop(&unknown).await.unwrap_err().code(), Some("no_such_tenant"));
}

#[tokio::test]
async fn an_image_outside_the_settings_is_refused() {
    let (server, spec) = (Server::start().await, spec("acme", ""));
    let (client, path) = (server.client(), format!("/v1/tenants/{}", spec.id));
    let apply_image = async |image: &str| {
        let body = apply(&Spec { image: Some(image.to_owned()), ..spec.clone() }, true);
        client.call::<TenantAtRevision>(Method::PUT, &path, Some(&body), PATIENCE).await
    };
    let Err(CallError::Refused(problem)) = apply_image("postgres:16").await else {
        panic!("not refused")
    };
    assert_eq!((problem.status, problem.code.as_str()), (422, "invalid_spec"));
    let fault = &problem.errors[0];
    assert_eq!((fault.field.as_str(), fault.code.as_str()), ("spec.image", "image_refused"));
    assert!(fault.message.contains("CIAL_TENANT_IMAGES"), "{fault:?}");
    let none: ObservedTenantList =
        client.call(Method::GET, "/v1/tenants", None::<&()>, PATIENCE).await.unwrap();
    assert!(none.tenants.is_empty(), "nothing is created of it");
    assert_eq!(apply_image(IMAGE).await.unwrap().tenant.id, spec.id);
}

#[tokio::test]
async fn a_watch_reports_each_phase() {
    let (server, spec) = (Server::start().await, spec("acme", ""));
    let client = server.client();
    let (sender, mut received) = tokio::sync::mpsc::unbounded_channel();
    let watching = tokio::spawn(async move {
        service::watch::follow::<ObservedTenant>(&client, "/v1/tenants/watch", |replica, _| {
            let phases: Vec<(TenantId, Phase)> =
                replica.items().values().map(|o| (o.id, o.phase)).collect();
            sender.send(phases).unwrap();
        })
        .await
    });
    assert_eq!(received.recv().await.unwrap(), []);
    let client = server.client();
    let path = format!("/v1/tenants/{}", spec.id);
    let body = apply(&spec, true);
    client.call::<TenantAtRevision>(Method::PUT, &path, Some(&body), PATIENCE).await.unwrap();
    while received.recv().await.unwrap() != [(spec.id, Phase::Ready)] {}
    client.call::<()>(Method::DELETE, &path, None::<&()>, PATIENCE).await.unwrap();
    while !received.recv().await.unwrap().is_empty() {}
    watching.abort();
}

#[tokio::test]
async fn health_readiness_and_metrics() {
    let server = Server::start().await;
    let get = async |path: &str| server.bare(&Method::GET, path, None, b"").await;
    assert_eq!(get("/healthz").await.status, 200);
    assert_eq!(get("/readyz").await.status, 200);
    assert!(get("/metrics").await.body.contains("cial_engine_up 1"));
    server.engine.disconnect("The container engine is unreachable: scripted outage.");
    server.controller.operations.resync().await;
    assert_eq!(get("/healthz").await.status, 200);
    let readiness = get("/readyz").await;
    assert_eq!(readiness.status, 503);
    assert!(problem(&readiness).detail.contains("scripted outage"));
    assert!(get("/metrics").await.body.contains("cial_engine_up 0"));
    let spec = spec("acme", "");
    let path = format!("/v1/tenants/{}", spec.id);
    let (client, body) = (server.client(), apply(&spec, true));
    let refused = client.call::<TenantAtRevision>(Method::PUT, &path, Some(&body), PATIENCE).await;
    let Err(CallError::Refused(problem)) = refused else { panic!("not refused") };
    assert_eq!((problem.status, problem.code.as_str()), (503, "engine_unreachable"));
    assert!(problem.detail.contains("scripted outage"));
}

/// A tenant that is ready, on a server whose engine lives in memory.
pub(crate) async fn ready_tenant(server: &Server) -> Spec {
    let spec = spec("acme", "");
    let (client, path) = (server.client(), format!("/v1/tenants/{}", spec.id));
    let body = apply(&spec, true);
    client.call::<TenantAtRevision>(Method::PUT, &path, Some(&body), PATIENCE).await.unwrap();
    let mut changes = server.controller.store.feed().unwrap().subscribe();
    let is_ready = || server.controller.store.feed().unwrap().get(&spec.id).map(|o| o.phase);
    while is_ready() != Some(Phase::Ready) {
        changes.recv().await.unwrap();
    }
    spec
}

#[tokio::test]
async fn a_lease_is_requested_renewed_and_released() {
    let server = Server::start().await;
    let spec = ready_tenant(&server).await;
    let router = Client::new(format!("http://{}", server.address), Secret::new(LEASES_TOKEN));
    let holder = Uuid::now_v7();
    let request = LeaseRequest {
        tenant: spec.id,
        holder,
        number: 1,
        intent: RequestIntent::Background,
        wait_ms: 1_000,
    };
    let grant: LeaseGrant =
        router.call(Method::POST, "/v1/leases", Some(&request), PATIENCE).await.unwrap();
    assert_eq!((grant.tenant, grant.generation, grant.woke), (spec.id, 1, false));
    let unknown = TenantId::new(Uuid::now_v7());
    let used = |tenant| LeaseUsage {
        tenant,
        number: 1,
        idle_ms: 0,
        requests: 2,
        streams: 1,
        first_byte_ms: None,
    };
    let renew = RenewRequest { holder, leases: vec![used(spec.id), used(unknown)] };
    let renewed: RenewResponse =
        router.call(Method::POST, "/v1/leases/renew", Some(&renew), PATIENCE).await.unwrap();
    let left: Vec<_> = renewed.leases.iter().map(|s| (s.tenant, s.expires_in_ms)).collect();
    assert_eq!(left, [(spec.id, Some(15_000)), (unknown, None)]);
    let status: SleepStatus = server
        .client()
        .call(Method::GET, &format!("/v1/tenants/{}/sleep", spec.id), None::<&()>, PATIENCE)
        .await
        .unwrap();
    assert_eq!(status.awake_because[0], "In use: 2 requests and 1 stream.");
    assert!(server.controller.metrics_text(None).contains("cial_leases 1\n"));
    let release = ReleaseRequest { holder, leases: vec![used(spec.id)] };
    for _ in 0..2 {
        let released =
            router.call::<()>(Method::POST, "/v1/leases/release", Some(&release), PATIENCE);
        released.await.unwrap();
    }
    let list: SleepStatusList =
        server.client().call(Method::GET, "/v1/sleep", None::<&()>, PATIENCE).await.unwrap();
    assert_eq!(list.tenants.len(), 1);
    assert!(!list.tenants[0].awake_because[0].contains("In use"), "{list:?}");
    let request = LeaseRequest { tenant: unknown, ..request };
    let refused =
        router.call::<LeaseGrant>(Method::POST, "/v1/leases", Some(&request), PATIENCE).await;
    assert_eq!(refused.unwrap_err().code(), Some("no_such_tenant"));
    let path = format!("/v1/tenants/{}/wake", spec.id);
    let awake: ObservedTenant =
        server.client().call(Method::POST, &path, None::<&()>, PATIENCE).await.unwrap();
    assert_eq!(awake.phase, Phase::Ready);
}

#[tokio::test]
async fn invalid_lease_requests_are_refused() {
    let server = Server::start().await;
    let bearer = format!("Bearer {LEASES_TOKEN}");
    let used = format!("{{\"tenant\":\"{}\",\"number\":1,\"idle_ms\":0}}", Uuid::now_v7());
    let many =
        format!("{{\"holder\":\"{}\",\"leases\":[{}]}}", Uuid::nil(), vec![used; 1_001].join(","));
    let long = serde_json::json!({
        "tenant": Uuid::now_v7(), "holder": Uuid::nil(), "number": 1, "intent": "visit", "wait_ms": 60_001,
    });
    let table: [(&str, Vec<u8>, u16, &str); 5] = [
        ("/v1/leases", long.to_string().into(), 422, "invalid_lease"),
        ("/v1/leases", b"{\"tenant\":1}".to_vec(), 422, "invalid_body"),
        ("/v1/leases", vec![b' '; 140_000], 413, "body_too_large"),
        ("/v1/leases/renew", many.clone().into(), 422, "invalid_lease"),
        ("/v1/leases/release", vec![b' '; 300_000], 413, "body_too_large"),
    ];
    for (path, body, status, code) in table {
        let response = server.bare(&Method::POST, path, Some(&bearer), &body).await;
        assert_eq!((response.status, problem(&response).code.as_str()), (status, code), "{path}");
    }
    let response = server.bare(&Method::POST, "/v1/leases/renew", Some(&bearer), many.as_bytes());
    let fault = problem(&response.await).errors.remove(0);
    assert_eq!((fault.field.as_str(), fault.code.as_str()), ("leases", "invalid"));
}

#[tokio::test]
async fn a_shutdown_answers_waiting_requests_and_progress_streams_until_then() {
    let server = Server::start().await;
    let spec = ready_tenant(&server).await;
    // The tenant is frozen, and the thaw takes longer than this test.
    server.engine.pause_externally(spec.id);
    let mut changes = server.controller.store.feed().unwrap().subscribe();
    while server.controller.store.feed().unwrap().get(&spec.id).map(|o| o.phase)
        != Some(Phase::Frozen)
    {
        changes.recv().await.unwrap();
    }
    let slow = TenantBehavior { engine: Duration::from_secs(3_600), ..TenantBehavior::default() };
    server.engine.set_behavior(spec.id, slow);
    let bearer = format!("Bearer {LEASES_TOKEN}");
    let request = serde_json::json!({
        "tenant": spec.id, "holder": Uuid::nil(), "number": 1, "intent": "visit", "wait_ms": 60_000,
    })
    .to_string();
    let response = server.bare(&Method::POST, "/v1/leases", Some(&bearer), request.as_bytes());
    let watched = async {
        let mut stream = TcpStream::connect(server.address).await.unwrap();
        let head = format!(
            "GET /v1/leases/{}/progress HTTP/1.1\r\nHost: x\r\nAuthorization: {bearer}\r\n\r\n",
            spec.id
        );
        stream.write_all(head.as_bytes()).await.unwrap();
        let (mut text, mut piece) = (String::new(), [0; 1_024]);
        while !text.contains(r#""step":"starting""#) {
            let n = stream.read(&mut piece).await.unwrap();
            assert!(n > 0, "it ended: {text}");
            text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
        }
        assert!(text.contains("content-type: application/x-ndjson"), "{text}");
        server.stop.cancel();
    };
    let (response, ()) = tokio::join!(response, watched);
    assert_eq!((response.status, problem(&response).code.as_str()), (503, "leaving"));
    assert_eq!(response.header("retry-after"), Some("1"));
}

#[tokio::test]
async fn the_server_ends_when_the_controllers_loop_ends() {
    let controller = {
        let folder = TempDir::new("orchestrator").unwrap();
        Controller::new(
            Arc::new(MemoryDriver::default()),
            StateDir::new(folder.path().to_owned()),
            1,
            AWAKE,
        )
    };
    // A controller runs once: a second call of `run` ends at once.
    let first = Running::new(controller.clone());
    tokio::task::yield_now().await;
    drop(first);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let tokens = Tokens { control: Secret::new(TOKEN), leases: Secret::new(LEASES_TOKEN) };
    let images = AllowedImages::new(IMAGE, ImageTags::default());
    let stop = CancellationToken::new();
    let listener = EvictingListener::new(listener, MAX_CONNECTIONS);
    let serving = orchestrator::serve_api(listener, controller, images, tokens, stop);
    let ended = tokio::time::timeout(PATIENCE, serving).await.unwrap();
    assert_eq!(ended.unwrap_err().to_string(), "the controller's loop ended");
}

#[tokio::test]
async fn a_shutdown_waits_for_engine_calls_under_way() {
    let (server, serving) = Server::serving().await;
    let spec = ready_tenant(&server).await;
    server.engine.pause_externally(spec.id);
    server.controller.operations.resync().await;
    let engine = Duration::from_millis(500);
    server.engine.set_behavior(spec.id, TenantBehavior { engine, ..TenantBehavior::default() });
    server.controller.sleep.wake(spec.id).await.unwrap();
    let steps = server.controller.sleep.wake_progress(spec.id).unwrap();
    let begun = steps.filter(|progress| std::future::ready(progress.step == WakeStep::Starting));
    tokio::time::timeout(PATIENCE, pin!(begun).next()).await.unwrap().unwrap();
    server.stop.cancel();
    serving.await.unwrap().unwrap();
    assert!(server.engine.calls().contains(&format!("thaw {}", spec.id)));
}
