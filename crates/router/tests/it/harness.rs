//! A router on its own threads, a stand-in for app-api that serves the real watch, and tenants that
//! echo.

use std::convert::Infallible;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Either, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use protocol::TenantId;
use protocol::response_counts::{self, CountedTenants, ResponseCount, ResponseCounts};
use protocol::routes::Route;
use router::Server;
use router::settings::{Exposure, Limits, Rate, Settings, WaitTimes};
use service::Secret;
use service::forwarded::TrustedProxies;
use service::logs::LogFilter;
use service::watch::Feed;
pub(crate) use testkit::{
    ByteClient as Client, ByteResponse as Response, PATIENCE, TempDir, wait_until as eventually,
};
use tokio_util::sync::CancellationToken;

use crate::orchestrator::FakeOrchestrator;

pub(crate) const TOKEN: &str = "routes-7Jk2mQ0zXc5hYt1rKp8sLw3uBn6";

pub(crate) fn master() -> Secret {
    Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa")
}

/// The route watch of app-api's internal listener.
pub(crate) struct Control {
    pub(crate) feed: Feed<Route>,
    pub(crate) address: SocketAddr,
    snapshots: Arc<AtomicU32>,
    responses: Arc<CountedResponses>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// The responses that the router reports.
#[derive(Default)]
pub(crate) struct CountedResponses {
    /// The tenants that app-api wants to know of.
    pub(crate) counted: Mutex<Vec<TenantId>>,
    pub(crate) reported: Mutex<Vec<ResponseCount>>,
}

impl CountedResponses {
    fn receive(&self, body: &[u8]) -> String {
        let counts: ResponseCounts = serde_json::from_slice(body).unwrap();
        self.reported.lock().unwrap().extend(counts.tenants);
        let tenants = self.counted.lock().unwrap().clone();
        serde_json::to_string(&CountedTenants { tenants }).unwrap()
    }
}

impl Control {
    pub(crate) fn start(epoch: u64) -> Self {
        Self::at("127.0.0.1:0".parse().unwrap(), epoch)
    }

    pub(crate) fn at(address: SocketAddr, epoch: u64) -> Self {
        let socket = std::net::TcpListener::bind(address).unwrap();
        socket.set_nonblocking(true).unwrap();
        let address = socket.local_addr().unwrap();
        let (feed, stop) = (Feed::new(epoch), CancellationToken::new());
        let snapshots = Arc::<AtomicU32>::default();
        let responses = Arc::<CountedResponses>::default();
        let (served, stopped, counted) = (feed.clone(), stop.clone(), snapshots.clone());
        let received = responses.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                tokio::select! {
                    () = serve(socket, served, counted, received) => {}
                    () = stopped.cancelled() => {}
                }
            });
        });
        Self { feed, address, snapshots, responses, stop, thread: Some(thread) }
    }

    pub(crate) fn responses(&self) -> &CountedResponses {
        &self.responses
    }

    /// How often the router listed the routes.
    pub(crate) fn snapshots(&self) -> u32 {
        self.snapshots.load(Ordering::Relaxed)
    }

    /// Stops the stand-in and closes every connection.
    pub(crate) fn end(mut self) -> SocketAddr {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
        self.address
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn serve(
    socket: std::net::TcpListener,
    feed: Feed<Route>,
    snapshots: Arc<AtomicU32>,
    responses: Arc<CountedResponses>,
) {
    let listener = tokio::net::TcpListener::from_std(socket).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (feed, snapshots, responses) = (feed.clone(), snapshots.clone(), responses.clone());
        tokio::spawn(async move {
            let response = service_fn(move |request: Request<Incoming>| {
                let (feed, snapshots, responses) =
                    (feed.clone(), snapshots.clone(), responses.clone());
                async move {
                    let bearer = request.headers().get("authorization");
                    let bearer = bearer.map(|v| v.as_bytes().to_vec());
                    let is_known = bearer == Some(format!("Bearer {TOKEN}").into_bytes());
                    if request.uri().path() == response_counts::PATH && is_known {
                        let body = request.into_body().collect().await.unwrap().to_bytes();
                        let counted = Full::<bytes::Bytes>::from(responses.receive(&body));
                        return Ok::<_, Infallible>(http::Response::new(Either::Right(counted)));
                    }
                    let mut response = feed.watch_response().map(Either::Left);
                    snapshots.fetch_add(1, Ordering::Relaxed);
                    if request.uri().path() != "/v1/routes/watch" || !is_known {
                        *response.status_mut() = StatusCode::UNAUTHORIZED;
                    }
                    Ok(response)
                }
            });
            let io = TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, response).await;
        });
    }
}

pub(crate) fn until(stream: &mut impl Read, held: &mut Vec<u8>, end: &str) -> Option<String> {
    loop {
        if let Some(at) = held.windows(end.len()).position(|w| w == end.as_bytes()) {
            let all: Vec<_> = held.drain(..at + end.len()).collect();
            return Some(String::from_utf8_lossy(&all).into_owned());
        }
        let mut bytes = [0; 65_536];
        let count = stream.read(&mut bytes).ok().filter(|count| *count > 0)?;
        held.extend_from_slice(&bytes[..count]);
    }
}

pub(crate) struct Running {
    pub(crate) public: SocketAddr,
    pub(crate) internal: SocketAddr,
    /// The orchestrator's stand-in, where the test started one.
    orchestrator: Option<FakeOrchestrator>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

/// Returns an address without a listener.
pub(crate) fn nowhere() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

impl Running {
    /// Starts a router without an orchestrator.
    pub(crate) fn start(control: SocketAddr, folder: &TempDir) -> Self {
        Self::with(control, folder, |_| {})
    }

    pub(crate) fn with(
        control: SocketAddr,
        folder: &TempDir,
        change: impl FnOnce(&mut Settings),
    ) -> Self {
        let any: SocketAddr = "127.0.0.1:0".parse().unwrap();
        let mut settings = Settings {
            log: LogFilter::default(),
            listen: any,
            internal: any,
            app_api: format!("http://{control}"),
            routes_token: Secret::new(TOKEN),
            route_secret: master(),
            domain: "localhost".parse().unwrap(),
            cache: folder.path().join("routes.json"),
            body_limit: 50_000_000,
            threads: 2,
            drain: Duration::from_secs(20),
            orchestrator: format!("http://{}", nowhere()),
            leases_token: Secret::new(crate::orchestrator::TOKEN),
            rate: Rate::OFF,
            trusted: TrustedProxies::default(),
            exposure: Exposure::Loopback,
            wait_times: WaitTimes::default(),
            limits: Limits::default(),
        };
        change(&mut settings);
        let bound = Server::new(settings).unwrap();
        let (public, internal) = (bound.public().unwrap(), bound.internal().unwrap());
        let stop = CancellationToken::new();
        let token = stop.clone();
        let thread = std::thread::spawn(move || {
            bound.run(|| Ok(token)).unwrap_or_else(|e| panic!("{e:?}"));
        });
        Self { public, internal, orchestrator: None, stop, thread: Some(thread) }
    }

    /// Starts a router with one control plane, one orchestrator and these routes, and waits until
    /// the router knows them.
    pub(crate) fn knowing(routes: Vec<Route>, folder: &TempDir) -> (Control, Self) {
        Self::kept(routes, folder, |_| {})
    }

    pub(crate) fn kept(
        routes: Vec<Route>,
        folder: &TempDir,
        change: impl FnOnce(&mut Settings),
    ) -> (Control, Self) {
        let control = Control::start(1);
        control.feed.replace(routes);
        let orchestrator = FakeOrchestrator::start(&control.feed);
        let mut running = Self::with(control.address, folder, |settings| {
            settings.orchestrator = orchestrator.url();
            change(settings);
        });
        running.orchestrator = Some(orchestrator);
        running.knows(control.feed.revision());
        (control, running)
    }

    pub(crate) fn orchestrator(&self) -> &FakeOrchestrator {
        self.orchestrator.as_ref().unwrap()
    }

    pub(crate) fn stop_orchestrator(&mut self) -> SocketAddr {
        self.orchestrator.take().unwrap().end()
    }

    pub(crate) fn set_orchestrator(&mut self, orchestrator: FakeOrchestrator) {
        self.orchestrator = Some(orchestrator);
    }

    /// Returns the value of a metric as text.
    pub(crate) fn metric(&self, name: &str) -> String {
        let mut client = Client::connect(self.internal);
        client.send("GET /metrics HTTP/1.1\r\nHost: router:8081\r\n\r\n");
        let text = client.response().body;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or("").to_owned()
    }

    pub(crate) fn get(&self, host: &str, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    pub(crate) fn send(&self, text: &str) -> Response {
        let mut client = Client::connect(self.public);
        client.send(text);
        client.response()
    }

    /// Returns the number or the word behind `"field":` of `/health`.
    pub(crate) fn health(&self, field: &str) -> String {
        let body = self.get("localhost:8080", "/health").body;
        let value: serde_json::Value = serde_json::from_str(&body).unwrap();
        value[field].to_string()
    }

    /// Waits until every serving thread has this revision of the table, or a later one.
    pub(crate) fn knows(&self, revision: u64) {
        let has = |_| self.health("revision").parse::<u64>().is_ok_and(|r| r >= revision);
        // Each connection may reach either thread; this many in a row leave no doubt.
        eventually("the table is everywhere", || (0..24).all(has));
    }

    pub(crate) fn ask_to_stop(&self) {
        self.stop.cancel();
    }

    pub(crate) fn end(mut self) {
        self.stop.cancel();
        self.thread.take().unwrap().join().unwrap();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// The time for which the router remembers that a tenant sleeps or does not run.
pub(crate) const REFUSAL_TTL: Duration = Duration::from_secs(1);

/// More calls than a limit of one per `interval` allows until now, the one at `start` included.
pub(crate) fn allowed_since(start: Instant, interval: Duration) -> usize {
    let intervals = start.elapsed().as_millis() / interval.as_millis();
    2 + usize::try_from(intervals).unwrap()
}
