//! No party makes the engine wait for ever, and the engine cuts off no slow but honest party.

use std::time::Duration;

use proxy::{ProxyError, Settings};

use crate::harness::{Proxy, Server, eventually, in_time_for_one_of, settings};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
const ASK: &str = "GET / HTTP/1.1\r\nHost: a\r\n\r\n";
const SHORT: Duration = Duration::from_millis(60);

#[test]
fn a_head_that_does_not_end_is_given_up() {
    let server = Server::always(OK);
    let proxy = Proxy::with(&server, Settings { head_timeout: SHORT, ..settings() });
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n");
    assert_eq!(client.response().status, 408);
    assert_eq!(client.rest_text(), "");
}

#[test]
fn a_head_that_keeps_arriving_is_given_up_all_the_same() {
    let server = Server::always(OK);
    let proxy = Proxy::with(&server, Settings { head_timeout: SHORT, ..settings() });
    let mut client = proxy.client();
    let mut dripping = client.stream.try_clone().unwrap();
    let drip = std::thread::spawn(move || {
        let line = b"GET / HTTP/1.1\r\nX: ".iter().chain(std::iter::repeat(&b'y'));
        for byte in line.take(10_000) {
            if std::io::Write::write_all(&mut dripping, &[*byte]).is_err() {
                return true;
            }
            std::thread::sleep(Duration::from_millis(2));
        }
        false
    });
    assert_eq!(client.response().status, 408);
    assert!(drip.join().unwrap(), "it was read to its end");
}

#[test]
fn an_idle_client_connection_is_closed_without_a_response() {
    let server = Server::always(OK);
    let silent = Proxy::with(&server, Settings { keep_alive_timeout: SHORT, ..settings() });
    assert_eq!(silent.client().rest_text(), "");
    in_time_for_one_of("a request before the timeout", |keep_alive_timeout| {
        let proxy = Proxy::with(&server, Settings { keep_alive_timeout, ..settings() });
        let mut client = proxy.client();
        client.send(ASK);
        let all = client.rest_text();
        assert!(all.is_empty() || all.ends_with("ok"), "a response, then the end: {all}");
        !all.is_empty()
    });
}

#[test]
fn a_request_body_that_stops_arriving_is_a_client_error() {
    let server = Server::play(|conn, _| conn.drain());
    let proxy = Proxy::with(&server, Settings { body_idle_timeout: SHORT, ..settings() });
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nab");
    assert_eq!(client.response().status, 408);
    assert_eq!(client.rest_text(), "");
    proxy.rests();
}

#[test]
fn a_silent_upstream_times_out() {
    let server = Server::play(|conn, _| conn.drain());
    let proxy = Proxy::with(&server, Settings { response_timeout: SHORT, ..settings() });
    let mut client = proxy.client();
    client.send(ASK);
    let (status, _, body) = client.response().into_parts();
    assert_eq!((status, body.as_str()), (504, "upstream_timed_out"));
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 404, "the client's connection goes on");
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 504, "a decision is bounded, too");
}

#[test]
fn a_response_that_stops_arriving_is_truncated_with_a_reset() {
    let server = Server::play(|conn, _| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nab");
        conn.drain();
    });
    let proxy = Proxy::with(&server, Settings { body_idle_timeout: SHORT, ..settings() });
    let mut client = proxy.client();
    client.send(ASK);
    assert_eq!(client.until("\r\n\r\nab").get(9..12), Some("200"));
    assert_eq!(client.rest_text(), "");
    assert_eq!(proxy.faults(), [ProxyError::ResponseTimeout]);
}

#[test]
fn a_client_that_does_not_read_is_let_go() {
    let server = Server::play(|conn, _| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 100000000\r\n\r\n");
        let piece = vec![b'x'; 1 << 20];
        for _ in 0..100 {
            if std::io::Write::write_all(&mut conn.stream, &piece).is_err() {
                return;
            }
        }
        panic!("all of it was taken, and nobody read");
    });
    let mut proxy = Proxy::with(&server, Settings { body_idle_timeout: SHORT, ..settings() });
    let mut client = proxy.client();
    client.send(ASK);
    client.until("\r\n\r\n");
    proxy.rests();
    proxy.ended();
    server.record(0);
}

#[test]
fn an_upstream_that_does_not_read_is_given_up_and_holds_nothing_back_in_memory() {
    in_time_for_one_of("a client that sends all the while", |body_idle_timeout| {
        let (tell, told) = std::sync::mpsc::channel::<()>();
        let told = std::sync::Mutex::new(told);
        let server = Server::play(move |conn, _| {
            conn.until(b"\r\n\r\n");
            // The upstream stays silent until the client has received its response.
            let _ = told.lock().unwrap().recv();
        });
        let proxy = Proxy::with(&server, Settings { body_idle_timeout, ..settings() });
        let mut client = proxy.client();
        client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000000\r\n\r\n");
        let mut sender = client.stream.try_clone().unwrap();
        let sending = std::thread::spawn(move || {
            let piece = vec![b'x'; 1 << 20];
            (0..900).take_while(|_| std::io::Write::write_all(&mut sender, &piece).is_ok()).count()
        });
        let (status, _, _) = client.response().into_parts();
        drop((tell, client));
        assert!(sending.join().unwrap() < 100, "it was taken, and nobody read it");
        // 408 is a pause of the client.
        assert!(status == 504 || status == 408, "{status}");
        status == 504
    });
}

#[test]
fn steady_progress_may_take_longer_than_any_timeout() {
    in_time_for_one_of("an upstream that sends all the while", |timeout| {
        let server = Server::play(move |conn, _| {
            conn.request();
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 30\r\n\r\n");
            for _ in 0..30 {
                conn.send("x");
                std::thread::sleep(timeout / 20);
            }
        });
        let settings = Settings {
            body_idle_timeout: timeout,
            response_timeout: timeout,
            head_timeout: timeout,
            ..settings()
        };
        let proxy = Proxy::with(&server, settings);
        let mut client = proxy.client();
        client.send(ASK);
        client.try_until(&"x".repeat(30)).is_some()
    });
}

#[test]
fn an_absent_upstream_and_a_slow_one_are_different_errors() {
    let server = Server::always(OK);
    let proxy = Proxy::start(&server);
    drop(server);
    let mut client = proxy.client();
    client.send(ASK);
    let (status, _, body) = client.response().into_parts();
    assert_eq!((status, body.as_str()), (502, "upstream_unreachable"));
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 404);
}

#[test]
fn the_longest_silent_client_makes_room_for_a_new_one() {
    let server = Server::always(OK);
    let room = Settings { max_connections: 2, ..settings() };
    let stats = room.stats.clone();
    let proxy = Proxy::with(&server, room);
    let mut inside: Vec<_> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut inside {
        client.send(ASK);
        assert_eq!(client.response().status, 200);
    }
    inside[0].send(ASK);
    assert_eq!(inside[0].response().status, 200);
    assert_eq!((stats.connections(), stats.pauses(), stats.evicted()), (2, 0, 0));
    let mut outside = proxy.client();
    outside.send(ASK);
    assert_eq!(outside.response().status, 200);
    assert!(inside[1].rest_text().is_empty(), "it was silent for the longest time");
    inside[0].send(ASK);
    assert_eq!(inside[0].response().status, 200);
    assert_eq!((stats.connections(), stats.pauses(), stats.evicted()), (2, 1, 1));
    drop((inside, outside));
    eventually("nobody is there", || stats.connections() == 0);
}

#[test]
fn a_client_under_way_keeps_its_connection_and_a_new_one_waits() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::play(move |conn, _| {
        conn.request();
        wait.lock().unwrap().recv().unwrap();
        conn.send(OK);
    });
    let room = Settings { max_connections: 2, ..settings() };
    let stats = room.stats.clone();
    let proxy = Proxy::with(&server, room);
    let mut inside: Vec<_> = (0..2).map(|_| proxy.client()).collect();
    for client in &mut inside {
        client.send(ASK);
    }
    eventually("both are under way", || server.connections() == 2);
    let mut outside = proxy.client();
    outside.send(ASK);
    eventually("the third waits", || stats.pauses() == 1);
    outside.stream.set_nonblocking(true).unwrap();
    assert!(outside.stream.peek(&mut [0]).is_err(), "not its turn yet");
    outside.stream.set_nonblocking(false).unwrap();
    assert_eq!((stats.connections(), stats.evicted()), (2, 0));
    (0..3).for_each(|_| go.send(()).unwrap());
    for client in &mut inside {
        assert_eq!(client.response().status, 200);
    }
    assert_eq!(outside.response().status, 200, "a client that has its response makes room");
}

#[test]
fn upstream_connections_that_wait_for_a_request_are_counted_while_they_do() {
    let (go, wait) = std::sync::mpsc::channel::<()>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::play(move |conn, _| {
        conn.request();
        conn.send(OK);
        wait.lock().unwrap().recv().unwrap();
    });
    let room = settings();
    let stats = room.stats.clone();
    let proxy = Proxy::with(&server, room);
    assert_eq!(stats.idle(), 0);
    let mut client = proxy.client();
    client.send(ASK);
    assert_eq!(client.response().status, 200);
    eventually("it waits", || stats.idle() == 1);
    go.send(()).unwrap();
    eventually("it is gone", || stats.idle() == 0);
}
