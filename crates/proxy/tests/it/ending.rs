//! When client, proxy or upstream disconnects, the others notice. Only idempotent requests are repeated.

use std::sync::mpsc;

use proxy::ProxyError;

use crate::harness::{Proxy, Server, settings};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_request_ends_when_its_client_disconnects() {
    for response in ["", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n"] {
        let (tell, told) = mpsc::channel();
        let server = Server::play(move |conn, _| {
            conn.request();
            conn.send(response);
            tell.send("asked").unwrap();
            conn.drain();
            tell.send("closed").unwrap();
        });
        let proxy = Proxy::start(&server);
        let mut client = proxy.client();
        client.send(ASK);
        assert_eq!(told.recv().unwrap(), "asked");
        drop(client);
        assert_eq!(told.recv().unwrap(), "closed");
        proxy.rests();
        assert_eq!(proxy.faults(), [], "no party caused an error");
    }
}

#[test]
fn a_client_that_leaves_inside_its_body_is_not_mistaken_for_one_who_finished() {
    let (tell, told) = mpsc::channel();
    let server = Server::play(move |conn, _| {
        conn.until(b"\r\n\r\n");
        tell.send(conn.exactly(5).is_some()).unwrap();
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    drop(client);
    assert!(!told.recv().unwrap(), "the upstream sees the end before the length");
}

#[test]
fn an_idle_connection_that_died_costs_no_error_where_a_repeat_harms_nobody() {
    for (ask, repeatable) in [
        (ASK, true),
        ("HEAD / HTTP/1.1\r\nHost: a\r\n\r\n", true),
        ("DELETE / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", true),
        ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\n\r\n", false),
        ("PUT / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx", false),
    ] {
        // The second request on the first connection is read, and then the connection ends.
        let server = Server::play(|conn, place| {
            conn.request();
            conn.send(OK);
            if place == 0 {
                conn.request();
                return;
            }
            conn.drain();
        });
        let mut proxy = Proxy::start(&server);
        let mut client = proxy.client();
        client.send(ASK);
        assert_eq!(client.response().status, 200);
        client.send(ask);
        let head = client.until("\r\n\r\n");
        assert_eq!(head.contains(" 200 "), repeatable, "{ask:?}: {head}");
        assert_eq!(proxy.faults().is_empty(), repeatable, "{ask:?}");
        drop(client);
        proxy.ended();
        assert_eq!(server.connections(), if repeatable { 2 } else { 1 });
        let again = server.record(1);
        assert_eq!(again.is_empty(), !repeatable, "{again}");
    }
}

#[test]
fn a_connection_known_to_be_dead_is_not_used_for_anything() {
    let (tell, told) = mpsc::channel();
    let server = Server::play(move |conn, _| {
        conn.request();
        conn.send(OK);
        conn.stream.shutdown(std::net::Shutdown::Both).unwrap();
        tell.send(()).unwrap();
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    for _ in 0..20 {
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\n\r\nx");
        assert_eq!(client.response().status, 200);
        told.recv().unwrap();
    }
    assert_eq!(server.connections(), 20);
}

#[test]
fn a_truncated_or_invalid_response_ends_with_a_reset() {
    for (response, fault) in [
        ("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab", ProxyError::ResponseTruncated),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
            ProxyError::ResponseTruncated,
        ),
        (
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\nx",
            ProxyError::MalformedResponse("its body breaks its framing"),
        ),
    ] {
        for version in ["1.0", "1.1"] {
            let (go, wait) = mpsc::channel::<()>();
            let wait = std::sync::Mutex::new(wait);
            let server = Server::play(move |conn, _| {
                conn.request();
                // The test sends all but the last byte first: a response that is broken at once is
                // a plain 502.
                conn.send(&response[..response.len() - 1]);
                wait.lock().unwrap().recv().unwrap();
                conn.send(&response[response.len() - 1..]);
            });
            let proxy = Proxy::start(&server);
            let mut client = proxy.client();
            client.send(format!("GET / HTTP/{version}\r\nHost: a\r\n\r\n"));
            client.until("\r\n\r\n");
            go.send(()).unwrap();
            assert!(client.whole().is_err(), "an end like any other: {response:?} for {version}");
            assert_eq!(proxy.faults().as_slice(), std::slice::from_ref(&fault));
        }
    }
}

#[test]
fn a_response_that_precedes_the_end_of_the_request_is_forwarded() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send("HTTP/1.1 413 Too Large\r\nContent-Length: 3\r\nConnection: close\r\n\r\nbig");
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n");
    client.send("x".repeat(60_000));
    let (status, _, body) = client.response().into_parts();
    assert_eq!((status, body.as_str()), (413, "big"));
    assert_eq!(client.rest_text(), "");
}

#[test]
fn a_drain_finishes_requests_in_progress_and_accepts_no_connection() {
    let (tell, told) = mpsc::channel();
    let (go, wait) = mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::play(move |conn, _| {
        while conn.request().is_some() {
            tell.send(()).unwrap();
            wait.lock().unwrap().recv().unwrap();
            conn.send(OK);
        }
    });
    let mut proxy = Proxy::start(&server);
    let mut idle = proxy.client();
    let mut busy = proxy.client();
    busy.send(ASK);
    told.recv().unwrap();
    proxy.ask_to_stop();
    assert_eq!(idle.rest_text(), "", "an idle client is let go");
    crate::harness::eventually("nobody new", || {
        std::net::TcpStream::connect(proxy.address).is_err()
    });
    go.send(()).unwrap();
    let (status, head, body) = busy.response().into_parts();
    assert_eq!((status, body.as_str()), (200, "ok"));
    assert!(head.contains("connection: close"), "{head}");
    assert_eq!(busy.rest_text(), "");
    proxy.ended();
}

#[test]
fn a_drain_has_an_end() {
    let server = Server::play(|conn, _| conn.drain());
    let short = std::time::Duration::from_millis(50);
    let settings =
        proxy::Settings { drain_timeout: short, tunnel_drain_timeout: short, ..settings() };
    let mut proxy = Proxy::with(&server, settings);
    let mut client = proxy.client();
    client.send(ASK);
    crate::harness::eventually("it is under way", || server.connections() == 1);
    proxy.ended();
    assert_eq!(client.rest_text(), "");
}

#[test]
fn a_drain_begins_also_where_there_is_no_room_for_another_client() {
    let server = Server::always(OK);
    let mut proxy = Proxy::with(&server, proxy::Settings { max_connections: 2, ..settings() });
    let mut inside = [proxy.client(), proxy.client()];
    for client in &mut inside {
        client.send(ASK);
        assert_eq!(client.response().status, 200);
    }
    proxy.ask_to_stop();
    crate::harness::eventually("nobody new", || {
        std::net::TcpStream::connect(proxy.address).is_err()
    });
    inside.iter_mut().for_each(|client| assert_eq!(client.rest_text(), ""));
    proxy.ended();
}

#[test]
fn idle_clients_are_waited_for_only_where_another_process_serves() {
    let server = Server::always(OK);
    let long = std::time::Duration::from_secs(600);
    let settings = proxy::Settings {
        drain_timeout: long,
        tunnel_drain_timeout: long,
        idle_drain_timeout: long,
        ..settings()
    };
    let alone = settings.close_idle.clone();
    let mut proxy = Proxy::with(&server, settings);
    let (mut one, mut other) = (proxy.client(), proxy.client());
    for client in [&mut one, &mut other] {
        client.send(ASK);
        assert_eq!(client.response().status, 200);
    }
    proxy.ask_to_stop();
    crate::harness::eventually("nobody new", || {
        std::net::TcpStream::connect(proxy.address).is_err()
    });
    one.send(ASK);
    let (status, head, _) = one.response().into_parts();
    assert!(status == 200 && head.contains("connection: close"), "{head}");
    // The signal that no other process serves may come after the stop.
    alone.cancel();
    assert_eq!(other.rest_text(), "");
    proxy.ended();
}
