//! WebSockets: a tunnel opens only when both ends agree, frames pass unchanged, and the tunnel ends
//! with a close frame.

use std::time::Duration;

use proxy::Settings;

use crate::harness::{Client, Proxy, Server, eventually, in_time_for_one_of, settings};

const ASK: &str = "GET /ws HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
const AGREED: &str = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\nSec-WebSocket-Protocol: chat\r\n\r\n";
const GOING_AWAY: &[u8] = &[0x88, 0x02, 0x03, 0xe9];

/// Echoes whatever it reads.
fn echo() -> Server {
    Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        while let Some(byte) = conn.exactly(1) {
            conn.send(byte);
        }
    })
}

fn open(proxy: &Proxy) -> Client {
    let mut client = proxy.client();
    client.send(ASK);
    client.until("\r\n\r\n");
    client
}

#[test]
fn a_handshake_passes_and_then_bytes_both_ways() {
    let server = echo();
    let mut proxy = Proxy::start(&server);
    let mut client = proxy.client();
    // The first frame arrives right behind the handshake.
    client.send(format!("{ASK}early"));
    insta::assert_snapshot!(client.until("\r\n\r\n").replace("\r\n", "\n"), @r"
    HTTP/1.1 101 Switching Protocols
    Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=
    Sec-WebSocket-Protocol: chat
    connection: Upgrade
    upgrade: websocket
    ");
    assert_eq!(client.until("early"), "early");
    for _ in 0..10 {
        client.send("hello");
        assert_eq!(client.until("hello"), "hello");
    }
    drop(client);
    proxy.rests();
    proxy.ended();
    assert!(server.record(0).contains("connection: Upgrade\r\nupgrade: websocket\r\n\r\nearly"));
}

#[test]
fn much_passes_a_slow_reader_unharmed() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        conn.send(vec![b'x'; 8 << 20]);
        conn.drain();
    });
    let proxy = Proxy::start(&server);
    let mut client = open(&proxy);
    let mut count = client.taken().len();
    let mut bytes = vec![0; 10_000];
    while count < 8 << 20 {
        let read = std::io::Read::read(&mut client.stream, &mut bytes).unwrap();
        assert!(bytes[..read].iter().all(|b| *b == b'x'));
        count += read;
    }
}

#[test]
fn a_server_that_does_not_agree_is_passed_on_or_refused() {
    for (response, status) in [
        ("HTTP/1.1 403 Forbidden\r\nContent-Length: 0\r\n\r\n".to_owned(), 403),
        ("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n".to_owned(), 200),
        (AGREED.replace("s3pPLMBiTxaQ9kYGzzhZRbK+xOo=", "xxxxLMBiTxaQ9kYGzzhZRbK+xOo="), 502),
        (AGREED.replace("Upgrade: websocket", "Upgrade: h2c"), 502),
        (AGREED.replace("Connection: Upgrade\r\n", ""), 502),
        (AGREED.replace("Sec-WebSocket-Accept", "X"), 502),
    ] {
        let server = Server::play(move |conn, _| {
            conn.until(b"\r\n\r\n");
            conn.send(&response);
            conn.drain();
        });
        let proxy = Proxy::start(&server);
        let mut client = proxy.client();
        client.send(ASK);
        assert_eq!(client.response().status, status);
    }
}

#[test]
fn a_tunnel_ends_when_either_end_closes() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        conn.exactly(1);
        conn.send("bye");
    });
    let proxy = Proxy::start(&server);
    let mut client = open(&proxy);
    client.send("x");
    assert_eq!(client.rest_text(), "bye");
    drop(client);
    proxy.rests();
}

#[test]
fn a_silent_tunnel_stays_unless_told_otherwise() {
    let server = echo();
    in_time_for_one_of("a handshake before the timeout", |timeout| {
        let bounds = Settings {
            keep_alive_timeout: timeout,
            body_idle_timeout: timeout,
            head_timeout: timeout,
            ..settings()
        };
        let proxy = Proxy::with(&server, bounds);
        let (mut client, mut other) = (proxy.client(), proxy.client());
        client.send(ASK);
        assert_eq!(other.rest_text(), "", "time enough has passed for an idle client");
        let is_open = client.try_until("\r\n\r\n").is_some();
        if is_open {
            client.send("still here");
            assert_eq!(client.until("still here"), "still here");
        }
        is_open
    });
    let tunnel_idle_timeout = Some(Duration::from_millis(500));
    let proxy = Proxy::with(&server, Settings { tunnel_idle_timeout, ..settings() });
    assert_eq!(open(&proxy).rest_text(), "");
    proxy.rests();
}

#[test]
fn at_the_deadline_of_a_drain_a_tunnel_gets_1001_between_two_frames() {
    // Three of a frame's five bytes arrive, then the sender pauses.
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::play(move |conn, place| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        match place {
            0 => conn.send([0x82, 2, b'o', b'k']),
            _ => {
                conn.send([0x82, 5, b'a', b'b', b'c']);
                wait.lock().unwrap().recv().unwrap();
                conn.send([b'd', b'e', 0x82, 2, b'n', b'o']);
            }
        }
        conn.drain();
    });
    let short = Duration::from_millis(50);
    let drain = Duration::from_secs(20);
    let mut proxy = Proxy::with(
        &server,
        Settings { drain_timeout: drain, tunnel_drain_timeout: short, ..settings() },
    );
    let (mut between, mut inside) = (open(&proxy), open(&proxy));
    between.until("ok");
    inside.until("abc");
    eventually("both are open", || server.connections() == 2);
    proxy.ask_to_stop();
    assert_eq!(between.rest(), GOING_AWAY, "between two frames at once");
    go.send(()).unwrap();
    let mut end = b"de".to_vec();
    end.extend_from_slice(GOING_AWAY);
    assert_eq!(inside.rest(), end, "the frame under way is finished, and none begun");
    drop((between, inside));
    proxy.ended();
}

#[test]
fn a_tunnel_that_closes_by_itself_is_waited_for() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::play(move |conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(AGREED);
        wait.lock().unwrap().recv().unwrap();
        conn.send([0x88, 2, 0x03, 0xe8]);
    });
    let mut proxy = Proxy::start(&server);
    let mut client = open(&proxy);
    proxy.ask_to_stop();
    go.send(()).unwrap();
    assert_eq!(client.rest(), [0x88, 2, 0x03, 0xe8]);
    drop(client);
    proxy.ended();
}
