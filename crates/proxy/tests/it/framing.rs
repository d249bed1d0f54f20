//! A request with more than one meaning is refused, and nothing after it reaches the upstream.

use crate::harness::{Proxy, Server, settings};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";
/// A request that an attacker wants to smuggle past the proxy.
const HIDDEN: &str = "GET /hidden HTTP/1.1\r\nHost: a\r\n\r\n";

/// Sends `text` with the hidden request right after it. Returns the status and the input of the
/// upstream.
fn sent(text: &[u8]) -> (u16, String) {
    let server = Server::always(OK);
    let mut proxy = Proxy::with(&server, settings());
    let mut client = proxy.client();
    client.send(text);
    client.send(HIDDEN);
    client.close_sending();
    let response = client.rest_text();
    proxy.ended();
    (response.get(9..12).map_or(0, |status| status.parse().unwrap()), server.record(0))
}

/// Builds a GET with these lines between `Host` and the empty line.
fn get(lines: &str) -> String {
    format!("GET / HTTP/1.1\r\nHost: a\r\n{lines}\r\n")
}

fn post(lines: &str, body: &str) -> String {
    format!("POST / HTTP/1.1\r\nHost: a\r\n{lines}\r\n{body}")
}

#[test]
fn an_ambiguous_request_is_refused() {
    let te = "Transfer-Encoding: chunked\r\n";
    let end = "0\r\n\r\n";
    let mut cases: Vec<(String, u16)> = Vec::new();
    let mut add = |status: u16, text: String| cases.push((text, status));

    // Two framings, or one that parsers interpret differently.
    add(400, post(&format!("Content-Length: 5\r\n{te}"), end));
    add(400, post(&format!("{te}Content-Length: 5\r\n"), end));
    add(400, post(&format!("{te}Content-Length: 0\r\n"), end));
    add(400, post(&format!("{te}content_length: 5\r\n"), end));
    for length in [
        "Content-Length: 2\r\nContent-Length: 2\r\n",
        "Content-Length: 2\r\nContent-Length: 3\r\n",
        "Content-Length: 2, 2\r\n",
        "Content-Length: 2,3\r\n",
        "Content-Length: +2\r\n",
        "Content-Length: -2\r\n",
        "Content-Length: 0x2\r\n",
        "Content-Length: 2.0\r\n",
        "Content-Length: 2 2\r\n",
        "Content-Length: two\r\n",
        "Content-Length: \r\n",
        "Content-Length:\r\n",
        "Content-Length: \"2\"\r\n",
        "Content-Length: 2;\r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 18446744073709551618\r\n",
        "Content_Length: 2\r\n",
        "Content-Length : 2\r\n",
        "Content-Length\t: 2\r\n",
        "Content-Length\u{b}: 2\r\n",
        " Content-Length: 2\r\n",
    ] {
        add(400, post(length, "ab"));
    }
    for coding in [
        "gzip, chunked",
        "chunked, gzip",
        "chunked, chunked",
        "chunked,",
        ",chunked",
        "identity",
        "gzip",
        "xchunked",
        "chunkedx",
        "chunked;q=1",
        "\"chunked\"",
        "'chunked'",
        "chun ked",
        "cow",
        "",
        "chunked\u{b}",
        "\u{b}chunked",
    ] {
        add(400, post(&format!("Transfer-Encoding: {coding}\r\n"), end));
    }
    for lines in [
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n",
        "Transfer-Encoding: identity\r\nTransfer-Encoding: chunked\r\n",
        "Transfer_Encoding: chunked\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding\r\n: chunked\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "X: y\r\n Transfer-Encoding: chunked\r\n",
        "X: y\rTransfer-Encoding: chunked\r\n",
        "X: y\nTransfer-Encoding: chunked\r\n",
        "Connection: Transfer-Encoding\r\nTransfer-Encoding: chunked\r\n",
        "Connection: close, Content-Length\r\nContent-Length: 5\r\n",
    ] {
        add(400, post(lines, end));
    }
    add(400, format!("POST / HTTP/1.0\r\nHost: a\r\n{te}\r\n{end}"));

    // Lines.
    for lines in [
        "X: y\r\n folded\r\n",
        "X: y\r\n\tfolded\r\n",
        "X: y\n",
        "X: y\n\r\n",
        "X: y\r\r\n",
        "X: a\rb\r\n",
        "X : y\r\n",
        "X\t: y\r\n",
        ": y\r\n",
        "no colon\r\n",
        "X(: y\r\n",
        "X y: z\r\n",
        "X\u{0}: y\r\n",
        "X: a\u{0}b\r\n",
        "X: a\u{1}b\r\n",
        "X: a\u{7f}b\r\n",
        "Ünicode: y\r\n",
        "X\"Y: z\r\n",
        "{X}: y\r\n",
    ] {
        add(400, get(lines));
    }

    // The first line.
    for line in [
        "GET /",
        "GET",
        "GET / HTTP/1.1 ",
        "GET  / HTTP/1.1",
        "GET /  HTTP/1.1",
        " GET / HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET /\tHTTP/1.1",
        "G(T / HTTP/1.1",
        "GÉT / HTTP/1.1",
        "GET / HTTP/1.1\u{0}",
        "GET / http/1.1",
        "GET /a b HTTP/1.1",
        "GET /\u{1} HTTP/1.1",
        "GET /\u{7f} HTTP/1.1",
        "GET /ü HTTP/1.1",
        "GET /#frag HTTP/1.1",
        "GET relative HTTP/1.1",
        "GET * HTTP/1.1",
        "GET a:80 HTTP/1.1",
        "GET http:///x HTTP/1.1",
        "GET ftp://a/x HTTP/1.1",
        "GET http://u@a/x HTTP/1.1",
        "GET /x HTTP/1.1\r",
        "GET / XTTP/1.1",
        "GET / HTTP/1,1",
        "GET / HTTP/11",
    ] {
        add(400, format!("{line}\r\nHost: a\r\n\r\n"));
    }
    for line in ["GET / HTTP/2.0", "GET / HTTP/1.2", "GET / HTTP/0.9", "PRI * HTTP/2.0"] {
        add(505, format!("{line}\r\nHost: a\r\n\r\n"));
    }
    add(400, "GET / HTTP/1.1\nHost: a\n\n".to_owned());
    add(400, "\r\n\r\nGET / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned());
    add(405, "CONNECT a:443 HTTP/1.1\r\nHost: a\r\n\r\n".to_owned());
    add(405, "TRACE / HTTP/1.1\r\nHost: a\r\n\r\n".to_owned());

    // Host.
    add(400, "GET / HTTP/1.1\r\nX: y\r\n\r\n".to_owned());
    add(400, get("Host: a\r\n"));
    add(400, get("Host: b\r\n"));
    add(400, get("hOST: b\r\n"));
    add(400, get("Connection: Host\r\n"));
    add(400, "GET / HTTP/1.0\r\nHost: a\r\nHost: a\r\n\r\n".to_owned());

    // Expectations and handshakes.
    add(417, post("Expect: 200-ok\r\nContent-Length: 2\r\n", "ab"));
    add(417, post("Expect: 100-continue, x\r\nContent-Length: 2\r\n", "ab"));
    let up = "Connection: Upgrade\r\nUpgrade: websocket\r\n";
    add(426, get(up));
    add(
        426,
        get(&format!(
            "{up}Sec-WebSocket-Version: 8\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        )),
    );
    add(400, get(&format!("{up}Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: short\r\n")));
    add(400, get(&format!("{up}Sec-WebSocket-Version: 13\r\n")));
    add(400, post(&format!("{up}Sec-WebSocket-Version: 13\r\nContent-Length: 2\r\n"), "ab"));

    assert!(cases.len() >= 100, "{}", cases.len());
    for (text, status) in cases {
        let (seen, recorded) = sent(text.as_bytes());
        assert_eq!(seen, status, "{text:?}");
        assert_eq!(recorded, "", "refused, yet something was sent: {text:?}");
    }
}

#[test]
fn a_body_that_breaks_its_framing_ends_the_connection() {
    let chunked = |body: &str| post("Transfer-Encoding: chunked\r\n", body);
    for body in [
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "5\r\nhelloXX0\r\n\r\n",
        "5 \r\nhello\r\n0\r\n\r\n",
        "5\t\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "5;a\nb\r\nhello\r\n0\r\n\r\n",
        "5;a\rb\r\nhello\r\n0\r\n\r\n",
        "5;\u{0}\r\nhello\r\n0\r\n\r\n",
        "fffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "g\r\n",
        "\r\n",
        ";ext\r\n",
        "0\r\nX: y\n\r\n",
        "0\r\nX: y\r\r\n\r\n",
        "0\r\n X: y\r\n\r\n",
        "0\r\nno colon\r\n\r\n",
        "0\r\nX : y\r\n\r\n",
        "0\r\n\n",
    ] {
        let (status, recorded) = sent(chunked(body).as_bytes());
        assert_eq!(status, 400, "{body:?}");
        assert!(!recorded.contains("/hidden"), "{body:?}: {recorded:?}");
    }
    let long = format!("5;{}\r\nhello\r\n0\r\n\r\n", "e".repeat(2_000));
    assert_eq!(sent(chunked(&long).as_bytes()).0, 400);
    let trailers = format!("0\r\n{}\r\n", "X: y\r\n".repeat(2_000));
    assert_eq!(sent(chunked(&trailers).as_bytes()).0, 400);
}

#[test]
fn a_body_is_as_long_as_it_says_and_the_next_request_comes_after_it() {
    for (text, path) in [
        (get(""), "GET / "),
        (post("Content-Length: 2\r\n", "ab"), "ab"),
        (post("Content-Length: 002\r\n", "ab"), "ab"),
        (post("Content-Length:2\r\n", "ab"), "ab"),
        (post("Content-Length:   2  \r\n", "ab"), "content-length: 2\r\n"),
        (post("Transfer-Encoding: chunked\r\n", "2\r\nab\r\n0\r\n\r\n"), "2\r\nab\r\n0\r\n\r\n"),
        (post("tRANSFER-eNCODING: CHUNKED\r\n", "02;x=y\r\nab\r\n0\r\n\r\n"), "02;x=y\r\nab\r\n"),
        (format!("\r\n{}", get("")), "GET / "),
        ("GET http://A/x?y HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "GET /x?y HTTP/1.1\r\n"),
        ("GET http://b/x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "\r\nHost: b\r\n"),
        ("GET http://a?x HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "GET /?x HTTP/1.1\r\n"),
        ("GET /?q=`ls` HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "GET /?q=`ls` HTTP/1.1\r\n"),
        ("OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "OPTIONS * HTTP/1.1\r\n"),
        ("OPTIONS http://a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "OPTIONS * HTTP/1.1\r\n"),
        ("GET http://a HTTP/1.1\r\nHost: a\r\n\r\n".to_owned(), "GET / HTTP/1.1\r\n"),
    ] {
        let server = Server::always(OK);
        let mut proxy = Proxy::start(&server);
        let mut client = proxy.client();
        client.send(&text).send(HIDDEN);
        assert_eq!((client.response().status, client.response().status), (200, 200), "{text:?}");
        drop(client);
        proxy.ended();
        let recorded = server.record(0);
        assert!(recorded.contains(path), "{text:?}: {recorded:?}");
        // The second request of the same client, on the same upstream connection, follows the whole
        // first request.
        assert_eq!(recorded.matches("HTTP/1.1\r\n").count(), 2, "{text:?}: {recorded:?}");
        assert!(recorded.ends_with("\r\n\r\n"), "{recorded:?}");
    }
}

#[test]
fn each_limit_has_its_own_status() {
    let server = Server::always(OK);
    let small = proxy::Settings { max_body_bytes: Some(10), ..settings() };
    let proxy = Proxy::with(&server, small);
    for (text, status) in [
        (format!("GET /{} HTTP/1.1\r\nHost: a\r\n\r\n", "x".repeat(17_000)), 414),
        (get(&format!("X: {}\r\n", "x".repeat(17_000))), 431),
        (get(&"X: y\r\n".repeat(101)), 431),
        (post("Content-Length: 11\r\n", ""), 413),
        (post("Transfer-Encoding: chunked\r\n", "b\r\n"), 413),
        (post("Transfer-Encoding: chunked\r\n", "6\r\nabcdef\r\n5\r\n"), 413),
    ] {
        let mut client = proxy.client();
        client.send(&text);
        assert_eq!(client.response().status, status, "{:?}", &text[..60.min(text.len())]);
        assert_eq!(client.rest_text(), "", "and closes");
    }
    let mut client = proxy.client();
    client.send(post("Content-Length: 10\r\n", "0123456789")).send(get(&"X: y\r\n".repeat(99)));
    assert_eq!((client.response().status, client.response().status), (200, 200));
}

#[test]
fn answers_are_read_as_strictly() {
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: 2, 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding : chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.0 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n",
        "HTTP/1.1 204 No Content\r\nContent-Length: 2\r\n\r\nok",
        "HTTP/1.1 200 OK\r\nX: y\r\n folded\r\n\r\n",
        "HTTP/1.1 200 OK\nContent-Length: 2\n\nok",
        "HTTP/1.1 200 OK\r\nno colon\r\n\r\n",
        "HTTP/1.1 99 Low\r\n\r\n",
        "HTTP/1.1 600 High\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n",
        "SSH-2.0-OpenSSH\r\n\r\n",
        "garbage",
        "HTTP/1.1 200 OK\r\nContent-Le",
    ] {
        let server = Server::play(move |conn, _| {
            conn.request();
            conn.send(response);
        });
        let proxy = Proxy::start(&server);
        let mut client = proxy.client();
        client.send(get(""));
        let (status, head, body) = client.response().into_parts();
        assert_eq!(status, 502, "{response:?} gave {head}");
        assert!(body.starts_with("upstream_"), "{body}");
        // The client did nothing wrong: its connection continues.
        client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
        assert_eq!(client.response().status, 404, "{response:?}");
    }
}

#[test]
fn input_after_a_response_is_not_taken_for_the_next_response() {
    let server = Server::play(|conn, _| {
        while conn.request().is_some() {
            conn.send("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nokHTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil");
        }
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    for _ in 0..3 {
        client.send(get(""));
        let (status, _, body) = client.response().into_parts();
        assert_eq!((status, body.as_str()), (200, "ok"));
    }
    assert_eq!(server.connections(), 3, "such a connection is not used again");
}
