//! A client that closes its sending side still gets its response; a client that left is noticed.

use std::sync::{Mutex, mpsc};
use std::time::Duration;

use proxy::Settings;

use crate::harness::{Proxy, Server, settings};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

fn half_close_settings() -> Settings {
    Settings { half_close_timeout: Duration::from_millis(20), ..settings() }
}

#[test]
fn a_client_that_ends_its_input_gets_the_response_and_then_the_close() {
    for (target, status) in [("/", 200), ("/later", 200), ("/own", 404)] {
        for version in ["1.0", "1.1"] {
            let server = Server::always(OK);
            let proxy = Proxy::start(&server);
            let mut client = proxy.client();
            client.send(format!("GET {target} HTTP/{version}\r\nHost: a\r\n\r\n")).close_sending();
            assert_eq!(client.response().status, status, "{target} HTTP/{version}");
            assert_eq!(client.rest_text(), "");
            assert_eq!(proxy.faults(), []);
        }
    }
}

#[test]
fn a_slow_response_reaches_a_client_that_ended_its_input() {
    let (response, wait) = mpsc::channel::<()>();
    let wait = Mutex::new(wait);
    let server = Server::play(move |conn, _| {
        conn.request();
        wait.lock().unwrap().recv().unwrap();
        conn.send("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nok");
        wait.lock().unwrap().recv().unwrap();
        conn.send("ok");
    });
    let proxy = Proxy::with(&server, half_close_settings());
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab").close_sending();
    // The proxy sends an interim response to find out whether the client still reads.
    assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    response.send(()).unwrap();
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 200 "), "{head}");
    client.until("ok");
    response.send(()).unwrap();
    assert_eq!(client.rest_text(), "ok");
}

#[test]
fn a_client_that_closed_its_socket_is_noticed_before_a_response_and_within_one() {
    let begun = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n";
    for (target, response) in [("/never", ""), ("/", ""), ("/", begun)] {
        let (tell, told) = mpsc::channel();
        let server = Server::play(move |conn, _| {
            conn.request();
            conn.send(response);
            tell.send("asked").unwrap();
            conn.drain();
            tell.send("closed").unwrap();
        });
        let proxy = Proxy::with(&server, half_close_settings());
        let mut client = proxy.client();
        client.send(format!("GET {target} HTTP/1.1\r\nHost: a\r\n\r\n"));
        if target == "/" {
            assert_eq!(told.recv().unwrap(), "asked");
        } else {
            crate::harness::eventually("the request waits", || proxy.is_busy());
        }
        drop(client);
        if target == "/" {
            assert_eq!(told.recv().unwrap(), "closed");
        }
        proxy.rests();
        assert_eq!(proxy.faults(), [], "no party caused an error");
    }
}
