//! The hooks of an exchange: before data enters a tunnel, on received data, after a lost upstream.

use std::collections::VecDeque;
use std::io::{Read as _, Write as _};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use proxy::{
    Action, Decision, ErrorContext, Exchange, Peer, PendingAction, Policy, ProxyError, RequestHead,
    Response, SendPermission, Settings, TunnelEnd, Upstream,
};
use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::harness::{Client, Server, eventually, settings};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const UPGRADE: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

/// The inputs that a test prepares, and the results that the test reads afterwards.
#[derive(Default)]
pub(crate) struct Script {
    /// Each receiver delays data to the upstream until its value arrives; without a receiver no
    /// data waits.
    pub(crate) waits: VecDeque<oneshot::Receiver<bool>>,
    /// The fate of a request whose upstream was lost; taken once.
    pub(crate) again: Option<Again>,
    pub(crate) stream: Option<mpsc::Receiver<Vec<u8>>>,
    /// Ends the next tunnel.
    pub(crate) end: Option<oneshot::Receiver<()>>,
    pub(crate) log: Vec<String>,
}

pub(crate) enum Again {
    At(Arc<Upstream>),
    Response,
    Never,
}

#[derive(Clone)]
struct Hooked {
    upstream: Arc<Upstream>,
    script: Arc<Mutex<Script>>,
    /// Cloned for each request in progress.
    busy: Arc<()>,
}

impl Hooked {
    fn note(&self, what: impl Into<String>) {
        self.script.lock().unwrap().log.push(what.into());
    }
}

impl Exchange for Hooked {
    fn upstream(&self) -> &Upstream {
        &self.upstream
    }

    fn retry(&mut self, fault: &ProxyError) -> Option<PendingAction<Self>> {
        self.note(format!("again: {}", fault.code()));
        let again = self.script.lock().unwrap().again.take()?;
        let mut other = self.clone();
        Some(Box::pin(async move {
            match again {
                Again::At(upstream) => {
                    tokio::task::yield_now().await;
                    other.upstream = upstream;
                    Action::Forward(other)
                }
                Again::Response => Action::Respond(Response::new(503).body("text/plain", "waking")),
                Again::Never => {
                    let _held = other;
                    std::future::pending().await
                }
            }
        }))
    }

    fn on_tunnel_open(&mut self) {
        self.note("tunnelled");
    }

    fn tunnel_end(&mut self) -> Option<TunnelEnd> {
        let end = self.script.lock().unwrap().end.take()?;
        Some(Box::pin(async { end.await.unwrap_or_default() }))
    }

    fn before_sending(&mut self) -> Option<SendPermission> {
        self.note("sending");
        let wait = self.script.lock().unwrap().waits.pop_front()?;
        Some(Box::pin(async { wait.await.unwrap_or(false) }))
    }

    fn on_data_received(&self) {
        self.note("data received");
    }
}

impl Policy for Hooked {
    type Exchange = Self;

    fn decide(&self, head: &RequestHead<'_>, _: &Peer) -> Decision<Self> {
        let stream = self.script.lock().unwrap().stream.take();
        match (head.target(), stream) {
            ("/live", Some(parts)) => {
                let response = Response::new(503).body("text/event-stream", "first\n");
                Decision::Ready(Action::Stream(response, parts))
            }
            _ => Decision::Ready(Action::Forward(self.clone())),
        }
    }

    fn error_response(&self, error: &ProxyError, _: ErrorContext<'_, Self>) -> Response {
        Response::new(error.status()).body("text/plain", error.code())
    }
}

pub(crate) struct World {
    policy: Hooked,
    address: SocketAddr,
    pub(crate) stop: CancellationToken,
    thread: Option<JoinHandle<()>>,
}

impl World {
    pub(crate) fn new(server: &Server, script: Script) -> Self {
        Self::with(server, script, settings())
    }

    pub(crate) fn with(server: &Server, script: Script, settings: Settings) -> Self {
        let upstream = Arc::new(Upstream::unix(server.path()));
        let script = Arc::new(Mutex::new(script));
        let policy = Hooked { upstream, script, busy: Arc::default() };
        let (address, stop, thread) = crate::harness::serve(policy.clone(), settings);
        Self { policy, address, stop, thread: Some(thread) }
    }

    pub(crate) fn client(&self) -> Client {
        Client::connect(self.address)
    }

    fn log(&self) -> Vec<String> {
        self.policy.script.lock().unwrap().log.clone()
    }

    fn logs_times(&self, what: &str, times: usize) {
        eventually(what, || self.log().iter().filter(|line| *line == what).count() == times);
    }

    fn logs(&self, what: &str) {
        eventually(what, || self.log().iter().any(|line| line == what));
    }

    /// Waits until no request is in progress.
    fn rests(&self) {
        eventually("the proxy rests", || Arc::strong_count(&self.policy.busy) <= 2);
    }

    pub(crate) fn ended(&mut self) {
        self.stop.cancel();
        self.thread.take().into_iter().for_each(|thread| thread.join().unwrap());
    }
}

impl Drop for World {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

/// Agrees to a tunnel and echoes.
fn echo() -> Server {
    Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        // The payload is bytes, not text.
        let mut bytes = [0; 1_000];
        while let Ok(count @ 1..) = conn.stream.read(&mut bytes) {
            conn.send(&bytes[..count]);
        }
    })
}

/// Builds a text frame with a mask of zeros, as a client sends it.
fn text(payload: &str) -> Vec<u8> {
    let length = u8::try_from(payload.len()).unwrap();
    [&[0x81, 0x80 | length, 0, 0, 0, 0], payload.as_bytes()].concat()
}

const PING: [u8; 6] = [0x89, 0x80, 0, 0, 0, 0];

fn open(world: &World) -> Client {
    let mut client = world.client();
    client.send(UPGRADE);
    client.until("\r\n\r\n");
    client
}

#[test]
fn pings_pass_unasked_and_data_waits_until_it_may() {
    let server = echo();
    let (grant, wait) = oneshot::channel();
    let world = World::new(&server, Script { waits: [wait].into(), ..Script::default() });
    let mut client = open(&world);
    client.send(PING);
    client.until("\0\0\0\0");
    assert_eq!(world.log(), ["tunnelled"], "a ping and its echo are no use of anything");
    // A ping arrives in front of data, in one piece: the ping passes, the data waits.
    client.send([&PING[..], &text("hello")].concat());
    client.until("\0\0\0\0");
    world.logs("sending");
    assert_eq!(client.taken(), b"");
    grant.send(true).unwrap();
    client.until("hello");
    client.send(text("more"));
    client.until("more");
    let log = world.log();
    let count = |what: &str| log.iter().filter(|line| line.contains(what)).count();
    assert_eq!(count("sending"), 2, "once for each read: {log:?}");
    assert!(count("data received") >= 2, "{log:?}");
}

#[test]
fn data_that_may_not_pass_ends_the_tunnel_and_never_arrives() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        conn.drain();
    });
    let (grant, wait) = oneshot::channel();
    let mut world = World::new(&server, Script { waits: [wait].into(), ..Script::default() });
    let mut client = open(&world);
    client.send(text("secret"));
    world.logs("sending");
    grant.send(false).unwrap();
    assert_eq!(client.rest(), GOING_AWAY);
    drop(client);
    world.rests();
    world.ended();
    assert!(server.record(0).ends_with("\r\n\r\n"), "{:?}", server.record(0));
}

#[test]
fn an_ended_tunnel_closes_at_once_and_passes_no_more_data() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        conn.drain();
    });
    let ((end, ends), (_grant, wait)) = (oneshot::channel(), oneshot::channel());
    let script = Script { waits: [wait].into(), end: Some(ends), ..Script::default() };
    let mut world = World::new(&server, script);
    let mut client = open(&world);
    client.send(text("held back"));
    world.logs("sending");
    end.send(()).unwrap();
    assert_eq!(client.rest(), GOING_AWAY);
    client.send(text("late"));
    drop(client);
    world.rests();
    world.ended();
    assert!(server.record(0).ends_with("\r\n\r\n"), "{:?}", server.record(0));
}

#[test]
fn a_tunnel_that_waits_still_passes_what_comes_down_and_ends_in_time() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        conn.send([0x82, 2, b'o', b'k']);
        conn.drain();
    });
    let (_grant, wait) = oneshot::channel();
    let short = Duration::from_millis(50);
    let script = Script { waits: [wait].into(), ..Script::default() };
    let bounds = Settings { tunnel_drain_timeout: short, ..settings() };
    let mut world = World::with(&server, script, bounds);
    let mut client = world.client();
    client.send([UPGRADE.as_bytes(), &text("early")].concat());
    client.until("\r\n\r\n");
    world.logs("sending");
    client.until("ok");
    world.stop.cancel();
    assert_eq!(client.rest(), GOING_AWAY);
    drop(client);
    world.ended();
    assert_eq!(server.record(0).matches("early").count(), 0);
}

#[test]
fn each_part_of_a_response_notifies_the_exchange() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\none");
        conn.exactly(1);
        conn.send("two");
    });
    let world = World::new(&server, Script::default());
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\n");
    client.until("one\r\n");
    world.logs_times("data received", 1);
    client.send("x");
    client.until("two\r\n");
    world.logs_times("data received", 2);
}

#[test]
fn comments_of_an_event_stream_do_not_count_as_data_however_they_are_cut() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n");
        conn.send("Transfer-Encoding: chunked\r\n\r\n7;a=b\r\n: keep-\r\n");
        // The client acknowledges each part, so that the proxy reads the parts one by one.
        for part in [
            "7;a",
            "=b\r\nalive\n\n",
            "\r\n2\r\n:\n\r\n2",
            ";x\r\n:\n",
            "\r\na\r\n: da",
            "ta: x\n\r\n",
        ] {
            conn.exactly(1);
            conn.send(part);
        }
        conn.exactly(1);
        conn.send("9\r\ndata: x\n\n\r\n");
    });
    let world = World::new(&server, Script::default());
    let mut client = world.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 7\r\n\r\n");
    client.until("7;a=b\r\n: keep-\r\n");
    for part in
        ["7;a", "=b\r\nalive\n\n", "\r\n2\r\n:\n\r\n2", ";x\r\n:\n", "\r\na\r\n: da", "ta: x\n\r\n"]
    {
        client.send("x");
        client.until(part);
    }
    assert_eq!(world.log(), Vec::<String>::new(), "comments alone");
    client.send("x");
    client.until("data: x\n\n\r\n");
    world.logs_times("data received", 1);
}

#[test]
fn a_request_whose_upstream_was_lost_goes_to_another_once() {
    const BODY: &str = "POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab";
    // Either no process listens, or the upstream reads the request and dies.
    for (listens, ask, saved) in
        [(false, ASK, true), (false, BODY, true), (true, ASK, true), (true, BODY, false)]
    {
        let first = Server::play(|conn, _| {
            conn.request();
        });
        let second = Server::always(OK);
        let upstream = Arc::new(Upstream::unix(second.path()));
        let script = Script { again: Some(Again::At(upstream)), ..Script::default() };
        let mut world = World::new(&first, script);
        let kept = listens.then_some(first);
        let mut client = world.client();
        client.send(ask);
        let (status, _, body) = client.response().into_parts();
        assert_eq!((status, body == "ok"), if saved { (200, true) } else { (502, false) });
        let code = if listens { "again: upstream_cut_off" } else { "again: upstream_unreachable" };
        assert_eq!(world.log().contains(&code.to_owned()), saved, "{:?}", world.log());
        drop(client);
        world.ended();
        let sent = second.record(0).replace("content-length", "Content-Length");
        assert_eq!(sent, if saved { ask } else { "" }, "whole, or not at all");
        drop(kept);
    }
}

#[test]
fn a_lost_upstream_is_retried_once_and_only_before_a_response() {
    let dies = || {
        Server::play(|conn, _| {
            conn.request();
        })
    };
    // The second upstream dies as well.
    let (first, second) = (dies(), dies());
    let upstream = Arc::new(Upstream::unix(second.path()));
    let world =
        World::new(&first, Script { again: Some(Again::At(upstream)), ..Script::default() });
    let mut client = world.client();
    client.send(ASK);
    assert_eq!(client.response().status, 502);
    assert_eq!(world.log(), ["again: upstream_cut_off"]);
    // The client received an interim response, so the response had begun.
    let begun = Server::play(|conn, _| {
        conn.request();
        conn.send("HTTP/1.1 103 Early Hints\r\n\r\n");
    });
    let world = World::new(&begun, Script { again: Some(Again::Response), ..Script::default() });
    let mut client = world.client();
    client.send(ASK);
    client.until("\r\n\r\n");
    assert_eq!(client.response().status, 502);
    assert_eq!(world.log(), [""; 0]);
    // The policy responds in place of an upstream.
    let first = dies();
    let world = World::new(&first, Script { again: Some(Again::Response), ..Script::default() });
    let mut client = world.client();
    client.send(ASK);
    assert_eq!(client.response().status, 503);
    // The client leaves during the retry.
    let world = World::new(&first, Script { again: Some(Again::Never), ..Script::default() });
    let mut client = world.client();
    client.send(ASK);
    world.logs("again: upstream_cut_off");
    drop(client);
    world.rests();
}

#[test]
fn pings_that_find_no_room_do_not_hold_data_back_for_ever() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    // The upstream is frozen and reads nothing until the thaw.
    let server = Server::play(move |conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        wait.lock().unwrap().recv().unwrap();
        conn.drain();
    });
    let (grant, granted) = oneshot::channel();
    let world = World::new(&server, Script { waits: [granted].into(), ..Script::default() });
    let mut client = open(&world);
    let (pings, mut sent) = (PING.repeat(4 << 20), 0);
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    while let Ok(count) = client.stream.write(&pings[sent..]) {
        sent += count;
    }
    assert!(sent < pings.len(), "all {sent} bytes were taken");
    world.logs("sending");
    grant.send(true).unwrap();
    go.send(()).unwrap();
    client.stream.set_write_timeout(None).unwrap();
    client.send([&pings[sent..sent.next_multiple_of(PING.len())], &text("hello")].concat());
    drop(client);
    eventually("the data arrives", || server.record(0).ends_with("hello"));
}
