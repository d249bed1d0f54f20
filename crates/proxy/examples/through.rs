//! The engine alone, for callgrind and for memory: `through serve PORT SOCKET`, `through backend SOCKET`,
//! `through ask PORT CLIENTS REQUESTS SIZE`, `through tunnels PORT COUNT`, `through idle PORT COUNT`.
#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a tool for people who measure")]

use std::io::{Read, Write};
use std::net::TcpStream;
use std::os::unix::net::{UnixListener, UnixStream};
use std::rc::Rc;

use proxy::{
    Action, Decision, ErrorContext, Exchange, Listener, Peer, Policy, ProxyError, RequestHead,
    Response, Settings, Upstream,
};
use tokio_util::sync::CancellationToken;

struct Through(Rc<Upstream>);

struct Under(Rc<Upstream>);

impl Exchange for Under {
    fn upstream(&self) -> &Upstream {
        &self.0
    }
}

impl Policy for Through {
    type Exchange = Under;

    fn decide(&self, _: &RequestHead<'_>, _: &Peer) -> Decision<Under> {
        Decision::Ready(Action::Forward(Under(self.0.clone())))
    }

    fn error_response(&self, error: &ProxyError, _: ErrorContext<'_, Under>) -> Response {
        Response::new(error.status())
    }
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let number = |word: &str| word.parse::<usize>().unwrap();
    match args[..] {
        ["serve", port, socket] => serve(port, socket),
        ["backend", socket] => backend(socket),
        ["ask", port, clients, requests, size] => {
            ask(port, number(clients), number(requests), number(size));
        }
        ["tunnels", port, count] => hold(port, number(count), UPGRADE, b"\x81\x85\0\0\0\0hello"),
        ["idle", port, count] => {
            hold(port, number(count), "GET /600 HTTP/1.1\r\nHost: a\r\n\r\n", b"")
        }
        _ => panic!("see the head of this file"),
    }
}

/// Serves until the process is killed or its standard input ends.
fn serve(port: &str, socket: &str) {
    let door = proxy::bind(format!("127.0.0.1:{port}").parse().unwrap(), 1).unwrap().remove(0);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let stop = CancellationToken::new();
    let token = stop.clone();
    std::thread::spawn(move || {
        let _ = std::io::stdin().read(&mut [0]);
        stop.cancel();
    });
    let policy = Through(Rc::new(Upstream::unix(socket)));
    let serve = proxy::serve(vec![Listener::Tcp(door)], policy, Settings::default(), token);
    runtime.block_on(serve).unwrap();
}

const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";

/// `GET /N` gets N bytes, `POST` the same after its body, `/ws` a tunnel that echoes.
fn backend(socket: &str) {
    let _ = std::fs::remove_file(socket);
    for stream in UnixListener::bind(socket).unwrap().incoming() {
        let stream = stream.unwrap();
        std::thread::Builder::new()
            .stack_size(256 << 10)
            .spawn(move || drop(converse(stream)))
            .unwrap();
    }
}

fn converse(mut stream: UnixStream) -> std::io::Result<()> {
    let (mut held, mut bytes) = (Vec::new(), vec![0; 16 << 10]);
    loop {
        let end = loop {
            if let Some(at) = held.windows(4).position(|w: &[u8]| w == b"\r\n\r\n") {
                break at + 4;
            }
            let count = stream.read(&mut bytes)?;
            if count == 0 {
                return Ok(());
            }
            held.extend_from_slice(&bytes[..count]);
        };
        let head = String::from_utf8_lossy(&held[..end]).to_ascii_lowercase();
        held.drain(..end);
        let path = head.split(' ').nth(1).unwrap_or_default();
        if path == "/ws" {
            stream.write_all(AGREED.as_bytes())?;
            drop((held, bytes));
            let mut small = [0; 256];
            loop {
                let count = stream.read(&mut small)?;
                if count == 0 {
                    return Ok(());
                }
                stream.write_all(&small[..count])?;
            }
        }
        let length = head.split("content-length: ").nth(1).and_then(|l| l.split('\r').next());
        let mut left: usize = length.map_or(0, |l| l.parse().unwrap());
        left -= held.len().min(left);
        held.clear();
        while left > 0 {
            left -= stream.read(&mut bytes)?;
        }
        let size: usize = path[1..].parse().unwrap_or(0);
        let mut response = format!(
            "HTTP/1.1 200 OK\r\nServer: backend\r\nDate: Sun, 22 Nov 2026 07:00:00 GMT\r\nContent-Type: text/plain\r\n\
             Content-Length: {size}\r\n\r\n"
        )
        .into_bytes();
        response.resize(response.len() + size, b'x');
        stream.write_all(&response)?;
    }
}

fn ask(port: &str, clients: usize, requests: usize, size: usize) {
    let asking = (0..clients).map(|_| {
        let address = format!("127.0.0.1:{port}");
        std::thread::spawn(move || {
            let mut stream = TcpStream::connect(address).unwrap();
            let ask = format!("GET /{size} HTTP/1.1\r\nHost: a.localhost\r\nUser-Agent: through\r\nAccept: */*\r\n\r\n");
            let mut bytes = vec![0; 256 << 10];
            for _ in 0..requests {
                stream.write_all(ask.as_bytes()).unwrap();
                let (mut have, mut whole) = (0, usize::MAX);
                while have < whole {
                    let count = stream.read(&mut bytes[have..]).unwrap();
                    assert!(count > 0);
                    have += count;
                    if whole == usize::MAX
                        && let Some(at) = bytes[..have].windows(4).position(|w| w == b"\r\n\r\n")
                    {
                        assert!(bytes.starts_with(b"HTTP/1.1 200"));
                        whole = at + 4 + size;
                    }
                }
            }
        })
    });
    asking.collect::<Vec<_>>().into_iter().for_each(|asking| asking.join().unwrap());
}

/// Opens `count` connections, waits on each for the first bytes of a response and for the echo of
/// `more`, then for stdin.
fn hold(port: &str, count: usize, ask: &str, more: &[u8]) {
    let mut held = Vec::new();
    let mut bytes = [0; 2_000];
    for _ in 0..count {
        let mut stream = TcpStream::connect(format!("127.0.0.1:{port}")).unwrap();
        stream.write_all(ask.as_bytes()).unwrap();
        assert!(stream.read(&mut bytes).unwrap() > 0);
        if !more.is_empty() {
            stream.write_all(more).unwrap();
            assert!(stream.read(&mut bytes).unwrap() > 0);
        }
        held.push(stream);
    }
    println!("{} held", held.len());
    let _ = std::io::stdin().read(&mut [0]);
}
