//! A stand-in for the orchestrator: responds as the test configures, and records each request.

use std::collections::HashMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use http::{Request, Response, StatusCode};
use http_body_util::combinators::BoxBody;
use http_body_util::{BodyExt as _, Channel, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use protocol::leases::{
    LeaseGrant, LeaseRequest, LeaseUsage, ReleaseRequest, RenewRequest, RenewResponse,
    RenewedLease, RequestIntent, WakeProgress, WakeStep, queue_position, wake_failure,
};
use protocol::orchestrator::Upstream;
use protocol::routes::Route;
use protocol::spec::Desired;
use protocol::{Problem, State, TenantId};
use serde::Serialize;
use serde::de::DeserializeOwned;
use service::watch::Feed;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "leases-3Vd8mQ0zXc5hYt1rKp7sLw2uBn6";

/// The state of a tenant, as its orchestrator reports it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Mode {
    /// Awake at the address of the route, if the route shows that the tenant runs.
    AsRouted,
    Awake,
    /// Wakes for any request, once the test makes the tenant `Awake`.
    Frozen,
    /// Wakes for a visit, once the test makes the tenant `Awake`.
    Sleeping,
    Refused(&'static str),
    /// Refused, with this many wakes before.
    Behind(&'static str, u32),
    Failed(&'static str),
}

#[derive(Clone, Debug)]
pub(crate) enum Call {
    Lease(LeaseRequest),
    Renew(LeaseUsage),
    Release(LeaseUsage),
}

#[derive(Clone)]
struct Script {
    modes: HashMap<TenantId, Mode>,
    upstreams: HashMap<TenantId, (i64, Upstream)>,
    expires_in_ms: u32,
    linger_ms: u32,
    /// Whether the stand-in grants renewals.
    grants_renewals: bool,
    /// Whether the stand-in knows which tenants run.
    has_listed: bool,
    progress: HashMap<TenantId, Vec<WakeProgress>>,
}

#[derive(Clone)]
struct Shared {
    feed: Feed<Route>,
    state: Arc<watch::Sender<Script>>,
    calls: Arc<Mutex<Vec<Call>>>,
    probes: Arc<AtomicU32>,
}

pub(crate) struct FakeOrchestrator {
    shared: Shared,
    pub(crate) address: SocketAddr,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl FakeOrchestrator {
    pub(crate) fn start(feed: &Feed<Route>) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), feed)
    }

    pub(crate) fn at(address: SocketAddr, feed: &Feed<Route>) -> Self {
        let state = Script {
            modes: HashMap::new(),
            upstreams: HashMap::new(),
            expires_in_ms: 15_000,
            linger_ms: 10_000,
            grants_renewals: true,
            has_listed: true,
            progress: HashMap::new(),
        };
        let state = Arc::new(watch::channel(state).0);
        let shared =
            Shared { feed: feed.clone(), state, calls: Arc::default(), probes: Arc::default() };
        let socket = std::net::TcpListener::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let (address, stop) = (socket.local_addr().unwrap(), CancellationToken::new());
        let (served, stopped) = (shared.clone(), stop.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                tokio::select! {
                    () = served.serve(socket) => {}
                    () = stopped.cancelled() => {}
                }
            });
        });
        Self { shared, address, stop, thread: Some(thread) }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Stops the stand-in and closes every connection.
    pub(crate) fn end(mut self) -> SocketAddr {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
        self.address
    }

    pub(crate) fn set_mode(&self, tenant: TenantId, mode: Mode) {
        self.shared.state.send_modify(|state| {
            state.modes.insert(tenant, mode);
        });
    }

    /// Makes leases name this upstream, whatever the routes show.
    pub(crate) fn set_upstream(&self, tenant: TenantId, generation: i64, upstream: Upstream) {
        self.shared.state.send_modify(|state| {
            state.upstreams.insert(tenant, (generation, upstream));
        });
    }

    pub(crate) fn set_terms(&self, expires_in_ms: u32, linger_ms: u32) {
        self.shared.state.send_modify(|state| {
            (state.expires_in_ms, state.linger_ms) = (expires_in_ms, linger_ms);
        });
    }

    /// Sets whether the stand-in grants renewals.
    pub(crate) fn set_grants_renewals(&self, grants_renewals: bool) {
        self.shared.state.send_modify(|state| state.grants_renewals = grants_renewals);
    }

    /// Sets whether the stand-in knows its tenants. Before that, lease requests wait and all other
    /// calls are refused.
    pub(crate) fn set_listed(&self, has_listed: bool) {
        self.shared.state.send_modify(|state| state.has_listed = has_listed);
    }

    pub(crate) fn set_progress(&self, tenant: TenantId, step: WakeStep) {
        let progress = WakeProgress { step, ahead: None, elapsed_ms: 1, reason: None };
        self.shared.state.send_modify(|state| {
            state.progress.entry(tenant).or_default().push(progress);
        });
    }

    pub(crate) fn lease_requests(&self) -> Vec<LeaseRequest> {
        let pick = |call| match call {
            Call::Lease(request) => Some(request),
            Call::Renew(_) | Call::Release(_) => None,
        };
        self.calls().into_iter().filter_map(pick).collect()
    }

    /// At least one lease was requested, and no request was a visit.
    pub(crate) fn assert_no_visit(&self) {
        let requests = self.lease_requests();
        let is_background = |request: &LeaseRequest| request.intent == RequestIntent::Background;
        assert!(!requests.is_empty() && requests.iter().all(is_background), "{requests:?}");
    }

    pub(crate) fn renewals(&self) -> Vec<LeaseUsage> {
        let pick = |call| match call {
            Call::Renew(used) => Some(used),
            Call::Lease(_) | Call::Release(_) => None,
        };
        self.calls().into_iter().filter_map(pick).collect()
    }

    pub(crate) fn releases(&self) -> Vec<LeaseUsage> {
        let pick = |call| match call {
            Call::Release(used) => Some(used),
            Call::Lease(_) | Call::Renew(_) => None,
        };
        self.calls().into_iter().filter_map(pick).collect()
    }

    /// Returns how many probes the stand-in received.
    pub(crate) fn probes(&self) -> u32 {
        self.shared.probes.load(Ordering::Relaxed)
    }

    fn calls(&self) -> Vec<Call> {
        self.shared.calls.lock().unwrap().clone()
    }
}

impl Drop for FakeOrchestrator {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

type HttpResponse = Response<BoxBody<Bytes, Infallible>>;

impl Shared {
    async fn serve(self, socket: std::net::TcpListener) {
        let listener = tokio::net::TcpListener::from_std(socket).unwrap();
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let shared = self.clone();
            tokio::spawn(async move {
                let response = service_fn(move |request| {
                    let shared = shared.clone();
                    async move { Ok::<_, Infallible>(shared.response(request).await) }
                });
                let io = TokioIo::new(stream);
                let _ =
                    hyper::server::conn::http1::Builder::new().serve_connection(io, response).await;
            });
        }
    }

    async fn response(&self, request: Request<Incoming>) -> HttpResponse {
        let bearer = request.headers().get("authorization").map(|v| v.as_bytes().to_vec());
        if bearer != Some(format!("Bearer {TOKEN}").into_bytes()) {
            return refused(StatusCode::UNAUTHORIZED, "unauthorized", "");
        }
        let path = request.uri().path().to_owned();
        match path.as_str() {
            "/v1/leases" => {
                let request: LeaseRequest = read(request).await;
                self.calls.lock().unwrap().push(Call::Lease(request.clone()));
                self.lease(&request).await
            }
            "/v1/leases/renew" => {
                let renew: RenewRequest = read(request).await;
                if renew.leases.is_empty() {
                    self.probes.fetch_add(1, Ordering::Relaxed);
                }
                let mut calls = self.calls.lock().unwrap();
                let state = self.state.borrow();
                if !state.has_listed {
                    return refused(StatusCode::SERVICE_UNAVAILABLE, "not_listed", "");
                }
                let leases = renew.leases.into_iter().map(|used| {
                    let expires_in_ms = state.grants_renewals.then_some(state.expires_in_ms);
                    let standing = RenewedLease { tenant: used.tenant, expires_in_ms };
                    calls.push(Call::Renew(used));
                    standing
                });
                json(StatusCode::OK, &RenewResponse { leases: leases.collect() })
            }
            "/v1/leases/release" => {
                let release: ReleaseRequest = read(request).await;
                let releases = release.leases.into_iter().map(Call::Release);
                self.calls.lock().unwrap().extend(releases);
                let mut response = Response::new(Full::default().boxed());
                *response.status_mut() = StatusCode::NO_CONTENT;
                response
            }
            path => {
                let tenant = path.strip_prefix("/v1/leases/").unwrap();
                self.progress(tenant.strip_suffix("/progress").unwrap().parse().unwrap())
            }
        }
    }

    async fn lease(&self, request: &LeaseRequest) -> HttpResponse {
        let mut state = self.state.subscribe();
        let patience = tokio::time::sleep(Duration::from_millis(request.wait_ms.into()));
        tokio::pin!(patience);
        let mut woke = false;
        loop {
            let now = state.borrow_and_update().clone();
            let mode = now.modes.get(&request.tenant).cloned().unwrap_or(Mode::AsRouted);
            let route = self.feed.get(&request.tenant);
            let runs = |r: &Route| r.desired == Desired::Running && r.state == State::Running;
            let is_there = |r: &Route| runs(r) && r.upstream.is_some();
            match mode {
                _ if !now.has_listed => {}
                Mode::AsRouted if !route.as_ref().is_some_and(is_there) => {
                    return refused(StatusCode::CONFLICT, "tenant_not_running", "");
                }
                Mode::AsRouted | Mode::Awake => return self.grant(request, route, &now, woke),
                Mode::Sleeping if request.intent == RequestIntent::Background => {
                    return refused(StatusCode::CONFLICT, "wake_required", "");
                }
                Mode::Refused(code @ "leaving") => {
                    return refused(StatusCode::SERVICE_UNAVAILABLE, code, "");
                }
                Mode::Refused(code) => return refused(StatusCode::CONFLICT, code, ""),
                Mode::Behind(code, ahead) => {
                    let problem = problem(503, code, "");
                    let problem = problem.field(
                        queue_position::FIELD,
                        queue_position::CODE,
                        ahead.to_string(),
                    );
                    return json(StatusCode::SERVICE_UNAVAILABLE, &problem);
                }
                Mode::Failed(why) => {
                    let problem = problem(502, "wake_failed", why);
                    let problem = problem.field(wake_failure::FIELD, wake_failure::DIED, "");
                    return json(StatusCode::BAD_GATEWAY, &problem);
                }
                Mode::Frozen | Mode::Sleeping => woke = true,
            }
            tokio::select! {
                changed = state.changed() => changed.unwrap(),
                () = &mut patience => {
                    return refused(StatusCode::SERVICE_UNAVAILABLE, "waking", "");
                }
            }
        }
    }

    fn grant(
        &self,
        request: &LeaseRequest,
        route: Option<Route>,
        state: &Script,
        woke: bool,
    ) -> HttpResponse {
        let placed = state.upstreams.get(&request.tenant).cloned();
        let (generation, upstream) = placed
            .or_else(|| route.and_then(|r| Some((r.generation, r.upstream?))))
            .expect("somewhere to send requests to");
        json(
            StatusCode::OK,
            &LeaseGrant {
                tenant: request.tenant,
                generation,
                upstream,
                expires_in_ms: state.expires_in_ms,
                linger_ms: state.linger_ms,
                woke,
            },
        )
    }

    fn progress(&self, tenant: TenantId) -> HttpResponse {
        let (mut lines, body) = Channel::<Bytes, Infallible>::new(16);
        let mut state = self.state.subscribe();
        tokio::spawn(async move {
            let mut sent = 0;
            loop {
                let all =
                    state.borrow_and_update().progress.get(&tenant).cloned().unwrap_or_default();
                for progress in &all[sent..] {
                    let mut line = serde_json::to_vec(progress).unwrap();
                    line.push(b'\n');
                    if lines.send_data(line.into()).await.is_err() {
                        return;
                    }
                }
                sent = all.len();
                if state.changed().await.is_err() {
                    return;
                }
            }
        });
        Response::new(body.boxed())
    }
}

async fn read<T: DeserializeOwned>(request: Request<Incoming>) -> T {
    let bytes = request.into_body().collect().await.unwrap().to_bytes();
    serde_json::from_slice(&bytes).unwrap()
}

fn json(status: StatusCode, value: &impl Serialize) -> HttpResponse {
    let mut response = Response::new(Full::from(serde_json::to_vec(value).unwrap()).boxed());
    *response.status_mut() = status;
    response
}

fn refused(status: StatusCode, code: &str, detail: &str) -> HttpResponse {
    json(status, &problem(status.as_u16(), code, detail))
}

/// A problem whose code may be one that this build does not know.
fn problem(status: u16, code: &str, detail: &str) -> Problem {
    let (code, detail) = (code.to_owned(), detail.to_owned());
    Problem { code, detail, ..Problem::about_blank(status) }
}
