//! A router on its own threads, a stand-in for app-api that serves the real watch, and tenants that
//! echo.

use std::convert::Infallible;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use http::{Request, StatusCode};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use protocol::routes::Route;
use router::Server;
use router::settings::{Exposure, Hold, Limits, Rate, Settings};
use service::Secret;
use service::forwarded::TrustedProxies;
use service::logs::LogFilter;
use service::watch::Feed;
use testkit::clock::now;
use tokio_util::sync::CancellationToken;

use crate::orchestrator::FakeOrchestrator;

pub(crate) const TOKEN: &str = "routes-7Jk2mQ0zXc5hYt1rKp8sLw3uBn6";
/// A longer wait never ends: on a busy machine a process may take seconds to start.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) fn master() -> Secret {
    Secret::new("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa")
}

/// A temporary folder, removed on drop.
pub(crate) struct Folder(pub(crate) PathBuf);

impl Folder {
    pub(crate) fn new() -> Self {
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("router-it-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// The route watch of app-api's internal listener.
pub(crate) struct Control {
    pub(crate) feed: Feed<Route>,
    pub(crate) address: SocketAddr,
    snapshots: Arc<AtomicU32>,
    stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
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
        let (served, stopped, counted) = (feed.clone(), stop.clone(), snapshots.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async move {
                tokio::select! {
                    () = serve(socket, served, counted) => {}
                    () = stopped.cancelled() => {}
                }
            });
        });
        Self { feed, address, snapshots, stop, thread: Some(thread) }
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

async fn serve(socket: std::net::TcpListener, feed: Feed<Route>, snapshots: Arc<AtomicU32>) {
    let listener = tokio::net::TcpListener::from_std(socket).unwrap();
    loop {
        let (stream, _) = listener.accept().await.unwrap();
        let (feed, snapshots) = (feed.clone(), snapshots.clone());
        tokio::spawn(async move {
            let answer = service_fn(move |request: Request<Incoming>| {
                let bearer = request.headers().get("authorization").map(|v| v.as_bytes().to_vec());
                let is_known = bearer == Some(format!("Bearer {TOKEN}").into_bytes());
                let mut answer = feed.watch_response();
                snapshots.fetch_add(1, Ordering::Relaxed);
                if request.uri().path() != "/v1/routes/watch" || !is_known {
                    *answer.status_mut() = StatusCode::UNAUTHORIZED;
                }
                std::future::ready(Ok::<_, Infallible>(answer))
            });
            let io = TokioIo::new(stream);
            let _ = hyper::server::conn::http1::Builder::new().serve_connection(io, answer).await;
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
    pub(crate) fn start(control: SocketAddr, folder: &Folder) -> Self {
        Self::with(control, folder, |_| {})
    }

    pub(crate) fn with(
        control: SocketAddr,
        folder: &Folder,
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
            cache: folder.0.join("routes.json"),
            body_limit: 50_000_000,
            threads: 2,
            drain: Duration::from_secs(20),
            orchestrator: format!("http://{}", nowhere()),
            leases_token: Secret::new(crate::orchestrator::TOKEN),
            rate: Rate::OFF,
            trusted: TrustedProxies::default(),
            exposure: Exposure::Loopback,
            hold: Hold::default(),
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
    pub(crate) fn knowing(routes: Vec<Route>, folder: &Folder) -> (Control, Self) {
        Self::kept(routes, folder, |_| {})
    }

    pub(crate) fn kept(
        routes: Vec<Route>,
        folder: &Folder,
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
        client.say("GET /metrics HTTP/1.1\r\nHost: router:8081\r\n\r\n");
        let text = client.answer().body;
        let found = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        found.unwrap_or("").to_owned()
    }

    pub(crate) fn get(&self, host: &str, path: &str) -> Response {
        self.send(&format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"))
    }

    pub(crate) fn send(&self, text: &str) -> Response {
        let mut client = Client::connect(self.public);
        client.say(text);
        client.answer()
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

#[derive(Debug)]
pub(crate) struct Response {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

impl Response {
    pub(crate) fn has(&self, line: &str) -> bool {
        self.head.to_ascii_lowercase().contains(&line.to_ascii_lowercase())
    }

    /// Returns `code` of a problem.
    pub(crate) fn code(&self) -> String {
        assert!(self.has("content-type: application/problem+json"), "{self:?}");
        let value: serde_json::Value = serde_json::from_str(&self.body).unwrap();
        value["code"].as_str().unwrap().to_owned()
    }
}

pub(crate) struct Client {
    pub(crate) stream: TcpStream,
    held: Vec<u8>,
}

impl Client {
    pub(crate) fn connect(address: SocketAddr) -> Self {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        Self { stream, held: Vec::new() }
    }

    pub(crate) fn say(&mut self, text: impl AsRef<[u8]>) {
        self.stream.write_all(text.as_ref()).unwrap();
    }

    pub(crate) fn until(&mut self, end: &str) -> String {
        until(&mut self.stream, &mut self.held, end)
            .unwrap_or_else(|| panic!("closed before {end:?}"))
    }

    pub(crate) fn answer(&mut self) -> Response {
        let head = self.until("\r\n\r\n");
        let lower = head.to_ascii_lowercase();
        let length = lower
            .find("content-length: ")
            .map_or(0, |at| lower[at + 16..].split('\r').next().unwrap().parse::<usize>().unwrap());
        let mut body = std::mem::take(&mut self.held);
        let had = body.len().min(length);
        self.held = body.split_off(had);
        let mut rest = vec![0; length - had];
        self.stream.read_exact(&mut rest).unwrap();
        body.extend(rest);
        let status = head[9..12].parse().unwrap();
        Response { status, head, body: String::from_utf8_lossy(&body).into_owned() }
    }

    pub(crate) fn rest(&mut self) -> Vec<u8> {
        let mut all = std::mem::take(&mut self.held);
        let _ = self.stream.read_to_end(&mut all);
        all
    }
}

/// Waits for a condition that no event reports.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let start = now();
    while !holds() {
        assert!(start.elapsed() < PATIENCE, "never: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// The time for which the router remembers that a tenant sleeps or does not run.
pub(crate) const REFUSAL_TTL: Duration = Duration::from_secs(1);

/// More calls than a limit of one per `interval` allows until now, the one at `start` included.
pub(crate) fn allowed_since(start: Instant, interval: Duration) -> usize {
    let intervals = start.elapsed().as_millis() / interval.as_millis();
    2 + usize::try_from(intervals).unwrap()
}
