//! The CPU time of the edge for one request: of a signed-in person with an assertion, of one without, and of nobody.
//! Prints one JSON object; `cargo xtask bench edge` shows the figures beside their bar.

#![expect(clippy::unwrap_used, reason = "a failed unwrap ends the bench")]

use std::io::{BufRead as _, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::sync::mpsc;
use std::thread;

use edge::public_paths::PublicPaths;
use edge::{Settings, UpstreamAddresses};
use serde_json::json;
use tokio_util::sync::CancellationToken;

const ROUNDS: usize = 21;
const CONNECTIONS: usize = 8;
const REQUESTS: usize = 500;
/// The length of an ES256 JWT with the claims of `tenant-core`.
const ASSERTION_BYTES: usize = 620;
const BODY_BYTES: usize = 600;
/// By the value of its cookie, the stand-in for the core gives a person an assertion or none.
const KINDS: [&str; 3] = ["cookie: cial_session=with\r\n", "cookie: cial_session=without\r\n", ""];

fn main() {
    let folder = tempfile::tempdir().unwrap();
    let back = folder.path().join("back.sock");
    serve_core(&back);
    let (address, clock) = start_edge(folder.path(), &back, serve_app());
    let mut rounds = Vec::new();
    for round in 0..ROUNDS {
        let mut costs = [f64::NAN; KINDS.len()];
        // Forwards and backwards by turns, so that none always goes first.
        let mut order = [0, 1, 2];
        if round % 2 == 1 {
            order.reverse();
        }
        for kind in order {
            let before = cpu_nanos(&clock);
            load(address, KINDS[kind]);
            let used = cpu_nanos(&clock) - before;
            costs[kind] = used as f64 / 1e3 / (CONNECTIONS * REQUESTS) as f64;
        }
        rounds.push(costs);
    }
    // The first round warms up.
    rounds.remove(0);
    let of = |value: fn(&[f64; 3]) -> f64| {
        let mut values: Vec<_> = rounds.iter().map(value).collect();
        values.sort_by(f64::total_cmp);
        values
    };
    let median = |values: Vec<f64>| values[values.len() / 2];
    let ratios = of(|costs| costs[0] / costs[1]);
    let report = json!({
        "with_us": median(of(|costs| costs[0])),
        "without_us": median(of(|costs| costs[1])),
        "anonymous_us": median(of(|costs| costs[2])),
        "ratio_most": ratios[ratios.len() - 1],
        "ratio": median(ratios),
    });
    std::io::stdout().write_all(report.to_string().as_bytes()).unwrap();
}

/// Starts the edge on a thread of its own, and returns where the kernel counts that thread's CPU time.
fn start_edge(folder: &Path, back: &Path, app: SocketAddr) -> (SocketAddr, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    listener.set_nonblocking(true).unwrap();
    let settings = Settings {
        route_token: None,
        upstreams: UpstreamAddresses {
            core_back: back.to_owned(),
            core_front: folder.join("front.sock"),
            platform_front: app.to_string(),
        },
        public_paths: PublicPaths::default(),
        gauges_socket: folder.join("gauges.sock"),
    };
    let (tell, told) = mpsc::channel();
    thread::spawn(move || {
        let own = std::fs::read_link("/proc/thread-self").unwrap();
        tell.send(format!("/proc/{}/schedstat", own.display())).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let doors = vec![proxy::Listener::Tcp(listener)];
        runtime.block_on(edge::serve(doors, settings, CancellationToken::new())).unwrap();
    });
    (address, told.recv().unwrap())
}

/// The nanoseconds that a thread has run.
fn cpu_nanos(clock: &str) -> u64 {
    let text = std::fs::read_to_string(clock).unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// Sends requests on several connections at once, each after its last response.
fn load(address: SocketAddr, cookie: &str) {
    let request = format!("GET /600 HTTP/1.1\r\nhost: acme.localhost\r\n{cookie}\r\n");
    thread::scope(|scope| {
        for _ in 0..CONNECTIONS {
            scope.spawn(|| {
                let mut stream = TcpStream::connect(address).unwrap();
                stream.set_nodelay(true).unwrap();
                let mut reader = BufReader::new(stream.try_clone().unwrap());
                for _ in 0..REQUESTS {
                    stream.write_all(request.as_bytes()).unwrap();
                    let head = read_head(&mut reader).unwrap();
                    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
                    reader.read_exact(&mut [0; BODY_BYTES]).unwrap();
                }
            });
        }
    });
}

/// Reads a head to its empty line; `None` at the end of the connection.
fn read_head(reader: &mut BufReader<impl Read>) -> Option<String> {
    let mut head = String::new();
    loop {
        let before = head.len();
        if reader.read_line(&mut head).ok()? == 0 {
            return None;
        }
        if &head[before..] == "\r\n" {
            return Some(head);
        }
    }
}

/// The stand-in for core-back, which knows two sessions.
fn serve_core(path: &Path) {
    let user = |assertion: Option<String>| {
        let user = json!({
            "sub": "u-1", "email": "owner@example.com", "name": "Olaf Owner", "role": "member",
            "assertion": assertion,
        });
        response("application/json", user.to_string().as_bytes())
    };
    let (with, without) = (user(Some("a".repeat(ASSERTION_BYTES))), user(None));
    let listener = UnixListener::bind(path).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, with, without) = (stream.unwrap(), with.clone(), without.clone());
            let reader = stream.try_clone().unwrap();
            thread::spawn(move || {
                answer(reader, stream, |head| {
                    if head.contains("cial_session=without") { &without } else { &with }
                });
            });
        }
    });
}

/// The stand-in for the tenant's app.
fn serve_app() -> SocketAddr {
    let body = response("text/plain", &[b'x'; BODY_BYTES]);
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (stream, body) = (stream.unwrap(), body.clone());
            stream.set_nodelay(true).unwrap();
            let reader = stream.try_clone().unwrap();
            thread::spawn(move || answer(reader, stream, |_| &body));
        }
    });
    address
}

fn answer<'a>(reader: impl Read, mut writer: impl Write, response: impl Fn(&str) -> &'a Vec<u8>) {
    let mut reader = BufReader::new(reader);
    while let Some(head) = read_head(&mut reader) {
        if writer.write_all(response(&head)).is_err() {
            return;
        }
    }
}

fn response(kind: &str, body: &[u8]) -> Vec<u8> {
    let head = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: {kind}\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    [head.as_bytes(), body].concat()
}
