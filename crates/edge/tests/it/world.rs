//! An edge with real sockets on both sides. The services behind the edge report their requests and
//! their own names.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use edge::public_paths::PublicPaths;
use edge::route_token::RouteToken;
use edge::{Settings, UpstreamAddresses};
use hyper::StatusCode;
use hyper::header::{COOKIE, HeaderName, HeaderValue};
use protocol::problem::Code;
use serde_json::{Map, Value, json};
use tempfile::TempDir;
use tenant_service::{
    BoundedListener, Drain, Request, RequestContext, Response, echo, response, serve,
};
use tokio::net::{TcpListener, UnixListener};
use tokio_util::sync::CancellationToken;

pub(crate) const TOKEN: &str = "the-route-token-of-this-very-tenant";
pub(crate) const PROOF: &str = "the-proof-of-this-very-tenant";

/// The cookie of a signed-in owner, as the stand-in for core-back knows it.
pub(crate) const SIGNED_IN: &str = "cial_session=good";

/// The same on the core's site.
pub(crate) const SIGNED_IN_AT_CORE: &str = "cial_core=good";

pub(crate) struct Tenant {
    pub(crate) tcp: SocketAddr,
    pub(crate) ingress: PathBuf,
    pub(crate) gauges: PathBuf,
    pub(crate) stop: CancellationToken,
    pub(crate) core_back: CancellationToken,
    /// Ends the session of [`SIGNED_IN`].
    pub(crate) session_end: CancellationToken,
    /// Held by each request that waits for the end of a session.
    waiting: Arc<()>,
    edge: Option<std::thread::JoinHandle<()>>,
    _dir: TempDir,
}

impl Tenant {
    pub(crate) async fn open() -> Self {
        Self::start(None).await
    }

    pub(crate) async fn guarded() -> Self {
        Self::start(Some(RouteToken { token: TOKEN.to_owned(), proof: PROOF.to_owned() })).await
    }

    async fn start(guard: Option<RouteToken>) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name);
        let (core_back, session_end) = (CancellationToken::new(), CancellationToken::new());
        let platform = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let insides = UpstreamAddresses {
            core_back: path("back.sock"),
            core_front: path("front.sock"),
            platform_front: platform.local_addr().unwrap().to_string(),
        };
        let back = UnixListener::bind(&insides.core_back).unwrap();
        let front = UnixListener::bind(&insides.core_front).unwrap();
        let never = CancellationToken::new;
        let waiting = Arc::new(());
        let end = || (session_end.clone(), Arc::downgrade(&waiting));
        tokio::spawn(inside("core-back", back, core_back.clone(), end()));
        tokio::spawn(inside("core-front", front, never(), end()));
        tokio::spawn(inside("platform", platform, never(), end()));

        let tcp = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let ingress = path("edge.sock");
        let unix = std::os::unix::net::UnixListener::bind(&ingress).unwrap();
        tcp.set_nonblocking(true).unwrap();
        unix.set_nonblocking(true).unwrap();
        let address = tcp.local_addr().unwrap();
        let doors = vec![proxy::Listener::Tcp(tcp), proxy::Listener::Unix(unix)];
        let stop = CancellationToken::new();
        let (settings, stopped) = (
            Settings {
                route_token: guard,
                upstreams: insides,
                public_paths: PublicPaths::parse(r#"["/webhooks/"]"#).unwrap(),
                gauges_socket: path("gauges.sock"),
            },
            stop.clone(),
        );
        let edge = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(edge::serve(doors, settings, stopped)).unwrap();
        });
        Self {
            tcp: address,
            ingress,
            gauges: path("gauges.sock"),
            stop,
            core_back,
            session_end,
            waiting,
            edge: Some(edge),
            _dir: dir,
        }
    }

    /// The number of requests that wait for the end of a session.
    pub(crate) fn waiting(&self) -> usize {
        Arc::strong_count(&self.waiting) - 1
    }

    /// Waits for the edge to end after its stop.
    pub(crate) async fn ended(mut self) {
        let edge = self.edge.take().unwrap();
        tokio::task::spawn_blocking(|| edge.join().unwrap()).await.unwrap();
    }
}

impl Drop for Tenant {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

async fn inside<L: tenant_service::serve::Listener>(
    name: &'static str,
    listener: L,
    stop: CancellationToken,
    (session_end, waiting): (CancellationToken, Weak<()>),
) {
    let drain = Drain::new(stop);
    let sockets = drain.clone();
    let listener = BoundedListener::new(listener, 1_000).cancel_on_disconnect();
    serve(listener, drain, move |request_context, request| {
        let (sockets, session_end, waiting) =
            (sockets.clone(), session_end.clone(), waiting.clone());
        async move {
            match (name, request.uri().path()) {
                ("core-back", "/.cial/session/end") => {
                    let _waiting = waiting.upgrade();
                    session_end.cancelled().await;
                    request_context.problem(Code::NotSignedIn, "")
                }
                _ => say_what_came(name, &request_context, request, &sockets),
            }
        }
    })
    .await;
}

fn say_what_came(
    name: &'static str,
    request_context: &RequestContext,
    request: Request,
    drain: &Drain,
) -> Response {
    match (name, request.uri().path()) {
        (_, "/ws" | "/.cial/ws") => echo::upgrade(request_context, request, drain),
        ("core-back", "/.cial/session") => answer_session(request_context, &request),
        ("platform", "/attack") => attack(),
        ("platform", "/head") => head(request.uri().query().unwrap()),
        _ => response::json(StatusCode::OK, &seen(name, &request)),
    }
}

fn seen(name: &str, request: &Request) -> Value {
    let mut headers = Map::new();
    for (name, value) in request.headers() {
        let value = String::from_utf8_lossy(value.as_bytes());
        headers.insert(name.to_string(), json!(value));
    }
    let (method, target) = (request.method().as_str(), request.uri().to_string());
    json!({ "by": name, "method": method, "target": target, "headers": headers })
}

fn answer_session(request_context: &RequestContext, request: &Request) -> Response {
    let cookies = request.headers().get(COOKIE).map_or("", |line| line.to_str().unwrap());
    let https = request.headers().get("x-forwarded-proto").unwrap() == "https";
    let good = match (request.headers().get("x-cial-site").unwrap() == "core", https) {
        (true, _) => SIGNED_IN_AT_CORE,
        (false, true) => "__Host-cial_session=good",
        (false, false) => SIGNED_IN,
    };
    if cookies.split("; ").any(|pair| pair == good) {
        let user = json!({
            "sub": "u-1", "email": "owner@exämple.com", "name": "Ölaf Owner", "role": "member",
            "assertion": "a.signed.statement",
        });
        response::json(StatusCode::OK, &user)
    } else {
        request_context.problem(Code::NotSignedIn, "")
    }
}

/// Builds a response whose head has this many lines and bytes.
fn head(sizes: &str) -> Response {
    let (lines, bytes) = sizes.split_once(',').unwrap();
    let (lines, bytes): (usize, usize) = (lines.parse().unwrap(), bytes.parse().unwrap());
    let mut response = response::html(StatusCode::OK, "ok".to_owned());
    let headers = response.headers_mut();
    headers.clear();
    // The head as the server will write it, with the lines that the server adds.
    let own = "HTTP/1.1 200 OK\r\nx-request-id: 0192f0c1-abc\r\ncontent-length: 2\r\n\
               date: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";
    for _ in 0..lines - 4 {
        headers.append("x", HeaderValue::from_static("y"));
    }
    let pad = bytes - own.len() - (lines - 4) * "x: y\r\n".len() - "x: \r\n".len();
    headers.append("x", HeaderValue::from_str(&"x".repeat(pad)).unwrap());
    response
}

/// Headers that a malicious app would try to send.
fn attack() -> Response {
    let mut response = response::html(StatusCode::OK, "attack".to_owned());
    let lines = [
        ("set-cookie", "cial_session=planted; Path=/"),
        ("set-cookie", "__Host-cial_session=planted; Path=/; Secure"),
        ("set-cookie", "theirs=1; Path=/"),
        ("clear-site-data", "\"cookies\""),
        ("x-cial-proof", "forged"),
        ("x-cial-user", "forged"),
        ("x-request-id", "forged"),
    ];
    for (name, value) in lines {
        let name = HeaderName::from_static(name);
        response.headers_mut().append(name, HeaderValue::from_static(value));
    }
    response
}
