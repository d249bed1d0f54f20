//! A response that overtakes the request body: the connection goes on, or the head announces its close.

use crate::harness::{Proxy, Server};

const NOT_FOUND: &str = "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n";
const ASK: &str = "GET /own HTTP/1.1\r\nHost: a\r\n\r\n";

#[test]
fn a_close_is_announced_while_the_request_body_is_under_way() {
    for target in ["/", "/own", "/later"] {
        for (lines, sent) in [
            ("Content-Length: 3000000\r\n", "some of it"),
            ("Content-Length: 3000000\r\nExpect: 100-continue\r\n", ""),
            ("Transfer-Encoding: chunked\r\n", "4\r\nsome\r\n"),
        ] {
            let server = Server::play(|conn, _| {
                conn.until(b"\r\n\r\n");
                conn.send(NOT_FOUND);
                conn.drain();
            });
            let proxy = Proxy::start(&server);
            let mut client = proxy.client();
            client.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\n{lines}\r\n{sent}"));
            let (status, head, _) = client.response().into_parts();
            assert_eq!(status, 404);
            assert!(head.contains("\r\nconnection: close\r\n"), "{target} {lines}: {head}");
            client.close_sending();
            assert_eq!(client.rest_text(), "");
        }
    }
}

#[test]
fn a_body_that_has_arrived_does_not_end_the_connection() {
    let server = Server::always(NOT_FOUND);
    let proxy = Proxy::start(&server);
    for target in ["/", "/own", "/later"] {
        for body in [
            "Content-Length: 4\r\n\r\nbody",
            "Content-Length: 4\r\nExpect: 100-continue\r\n\r\nbody",
            "Transfer-Encoding: chunked\r\n\r\n4\r\nbody\r\n0\r\n\r\n",
        ] {
            let mut client = proxy.client();
            client.send(format!("POST {target} HTTP/1.1\r\nHost: a\r\n{body}{ASK}"));
            let (status, head, _) = client.response().into_parts();
            assert_eq!(status, 404);
            assert!(!head.contains("connection: close"), "{target} {body:?}: {head}");
            assert_eq!(client.response().body, "own", "the next request on the same connection");
        }
    }
}

#[test]
fn a_large_body_that_nobody_wants_does_not_take_the_response_back() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(NOT_FOUND);
    });
    let proxy = Proxy::start(&server);
    for target in ["/", "/own"] {
        let mut client = proxy.client();
        client
            .send(format!("POST {target} HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n"));
        client.send(vec![b'x'; 3_000_000]);
        assert_eq!(client.response().status, 404, "{target}");
    }
}
