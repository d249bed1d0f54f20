//! Requests and responses are forwarded completely, in order, without delay, with their end-to-end headers.

use std::sync::mpsc;

use crate::harness::{Client, Proxy, Server};

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

#[test]
fn heads_lose_what_is_hop_by_hop_and_keep_the_rest_as_written() {
    let server = Server::play(|conn, _| {
        conn.request();
        conn.send(
            "HTTP/1.1 200 Fine\r\nServer: s\r\nConnection: X-Mine, close\r\nX-Mine: 1\r\nKeep-Alive: x\r\n\
             Proxy-Authenticate: x\r\nX-Inner-A: 1\r\nSet-Cookie: a=b\r\nset-cookie: c=d\r\nX-Empty:\r\n\
             Content-Length: 2\r\n\r\nok",
        );
    });
    let mut proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send(
        "GET /p?q=1 HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, x-named , TE\r\nX-Named: 1\r\nTE: trailers\r\n\
         Keep-Alive: 5\r\nProxy-Connection: x\r\nProxy-Authorization: x\r\nHTTP2-Settings: x\r\nUpgrade: h2c\r\n\
         X-Inner-A: 1\r\nx_inner_b: 1\r\nACCEPT:  text/html \r\nCookie: a=b; c=\"\u{fc}\"\r\nX-Empty:\r\n\r\n",
    );
    let (_, head, body) = client.response().into_parts();
    insta::assert_snapshot!(head.replace("\r\n", "\n"), @r"
    HTTP/1.1 200 Fine
    Server: s
    Set-Cookie: a=b
    set-cookie: c=d
    X-Empty: 
    content-length: 2
    ");
    assert_eq!(body, "ok");
    drop(client);
    proxy.ended();
    insta::assert_snapshot!(server.record(0).replace("\r\n", "\n"), @r#"
    GET /p?q=1 HTTP/1.1
    Host: a
    ACCEPT: text/html
    Cookie: a=b; c="ü"
    X-Empty: 
    "#);
}

#[test]
fn one_connection_serves_request_after_request_also_pipelined() {
    let server = Server::play(|conn, _| {
        while let Some(request) = conn.request() {
            let path = request.split(' ').nth(1).unwrap().to_owned();
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{path}", path.len()));
        }
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    let ask = |n: usize| format!("POST /{n} HTTP/1.1\r\nHost: a\r\nContent-Length: 3\r\n\r\nabc");
    client.send((0..50).map(ask).collect::<String>());
    for n in 0..50 {
        assert_eq!(client.response().body, format!("/{n}"));
    }
    for n in 50..60 {
        client.send(ask(n));
        assert_eq!(client.response().body, format!("/{n}"));
    }
    assert_eq!(server.connections(), 1);
}

#[test]
fn a_response_is_streamed_before_it_is_complete() {
    let (go, wait) = mpsc::channel::<&str>();
    let wait = std::sync::Mutex::new(wait);
    let server = Server::play(move |conn, _| {
        conn.request();
        conn.send("HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n");
        for event in wait.lock().unwrap().iter() {
            conn.send(format!("{:x}\r\n{event}\r\n", event.len()));
        }
        conn.send("0\r\n\r\n");
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert!(client.until("\r\n\r\n").contains("transfer-encoding: chunked"));
    for event in ["data: 1\n\n", "data: 2\n\n"] {
        go.send(event).unwrap();
        assert_eq!(client.until("\r\n"), format!("{:x}\r\n", event.len()));
        assert_eq!(client.until("\r\n"), format!("{event}\r\n"));
    }
    drop(go);
    client.until("0\r\n\r\n");
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 404, "and the connection goes on");
}

#[test]
fn a_request_streams_before_it_is_whole_and_meets_its_answer_on_the_way() {
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
        for _ in 0..3 {
            let part = conn.exactly(4).unwrap();
            conn.send(format!("4\r\n{part}\r\n"));
        }
        conn.send("0\r\n\r\n");
        conn.drain();
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 12\r\n\r\n");
    client.until("\r\n\r\n");
    for part in ["abcd", "efgh", "ijkl"] {
        client.send(part);
        assert_eq!(client.until("\r\n"), "4\r\n");
        assert_eq!(client.until("\r\n"), format!("{part}\r\n"));
    }
    client.until("0\r\n\r\n");
}

#[test]
fn large_bodies_pass_both_ways_unharmed() {
    const SIZE: usize = 24 << 20;
    fn byte(at: usize) -> u8 {
        u8::try_from((at ^ (at >> 8) ^ (at >> 16)) & 0xff).unwrap()
    }
    let server = Server::play(|conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {SIZE}\r\n\r\n"));
        let mut left = SIZE;
        let mut bytes = vec![0; 100_000];
        while left > 0 {
            let count = std::io::Read::read(&mut conn.stream, &mut bytes).unwrap();
            conn.send(&bytes[..count]);
            left -= count;
        }
        conn.drain();
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send(format!("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: {SIZE}\r\n\r\n"));
    let mut sender = client.stream.try_clone().unwrap();
    let sending = std::thread::spawn(move || {
        let bytes: Vec<u8> = (0..SIZE).map(byte).collect();
        std::io::Write::write_all(&mut sender, &bytes).unwrap();
    });
    client.until("\r\n\r\n");
    let mut got = vec![0; SIZE];
    let held = client.taken();
    got[..held.len()].copy_from_slice(&held);
    std::io::Read::read_exact(&mut client.stream, &mut got[held.len()..]).unwrap();
    assert!(got.iter().enumerate().all(|(at, b)| *b == byte(at)));
    sending.join().unwrap();
}

#[test]
fn trailers_pass_both_ways_less_what_would_reframe() {
    let server = Server::play(|conn, _| {
        conn.request();
        conn.send(
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nTrailer: X-Sum\r\n\r\n2\r\nok\r\n0\r\nX-Sum: 2\r\n\
             X-Inner-A: 1\r\nContent-Length: 9\r\n\r\n",
        );
        conn.drain();
    });
    let mut proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send(
        "POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\nX-Inner-A: 1\r\n\
         Host: b\r\nConnection: x\r\n\r\n",
    );
    client.until("\r\n\r\n");
    assert_eq!(client.until("\r\n\r\n"), "2\r\nok\r\n0\r\nX-Sum: 2\r\n\r\n");
    drop(client);
    proxy.ended();
    assert!(
        server.record(0).ends_with("\r\n\r\n1\r\nx\r\n0\r\nX-Sum: 1\r\n\r\n"),
        "{}",
        server.record(0)
    );
}

#[test]
fn continue_comes_from_the_upstream_and_so_may_a_refusal() {
    let server = Server::play(|conn, _| {
        while let Some(head) = conn.until(b"\r\n\r\n") {
            assert!(head.contains("Expect: 100-continue"));
            if head.starts_with("POST /no") {
                conn.send("HTTP/1.1 403 Forbidden\r\nContent-Length: 2\r\n\r\nno");
                continue;
            }
            conn.send(
                "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\nHTTP/1.1 100 Continue\r\n\r\n",
            );
            let body = conn.exactly(4).unwrap();
            conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\n{body}"));
        }
    });
    let proxy = Proxy::start(&server);
    let ask = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\nContent-Length: 4\r\n\r\n"
        )
    };
    let mut client = proxy.client();
    client.send(ask("/yes"));
    assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 103 Early Hints\r\nLink: </a>\r\n\r\n");
    assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body");
    assert_eq!(client.response().body, "body");
    client.send(ask("/no"));
    let (status, _, body) = client.response().into_parts();
    assert_eq!((status, body.as_str()), (403, "no"));
    assert_eq!(client.rest_text(), "", "the body never came: what is next is not certain");
}

#[test]
fn any_number_of_interim_responses_passes_and_a_flood_does_not() {
    const INTERIM: &str = "HTTP/1.1 102 Processing\r\n\r\n";
    for (count, status) in [(17, 200), (100, 200), (2_000, 502)] {
        let server = Server::play(move |conn, _| {
            conn.request();
            conn.send(INTERIM.repeat(count));
            conn.send(OK);
        });
        let proxy = Proxy::start(&server);
        let mut client = proxy.client();
        client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
        let mut head = client.until("\r\n\r\n");
        let mut interims = 0;
        while head == INTERIM {
            interims += 1;
            head = client.until("\r\n\r\n");
        }
        assert!(head.starts_with(&format!("HTTP/1.1 {status} ")), "{count}: {head}");
        assert_eq!(interims == count, status == 200, "{count}: {interims}");
    }
}

#[test]
fn answers_without_a_body_have_none() {
    let server = Server::play(|conn, _| {
        while let Some(request) = conn.request() {
            conn.send(match request.split(' ').nth(1).unwrap() {
                "/204" => "HTTP/1.1 204 No Content\r\n\r\n",
                "/304" => "HTTP/1.1 304 Not Modified\r\nContent-Length: 99\r\n\r\n",
                "/head" => "HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\n",
                "/headc" => "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n",
                _ => OK,
            });
        }
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    for (ask, line) in [
        ("GET /204", "HTTP/1.1 204 No Content\r\n\r\n"),
        ("GET /304", "HTTP/1.1 304 Not Modified\r\ncontent-length: 99\r\n\r\n"),
        ("HEAD /head", "HTTP/1.1 200 OK\r\ncontent-length: 99\r\n\r\n"),
        ("HEAD /headc", "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n"),
        (
            "HEAD /own",
            "HTTP/1.1 404 Not Found\r\ncontent-type: text/plain\r\ncontent-length: 3\r\n\r\n",
        ),
    ] {
        client.send(format!("{ask} HTTP/1.1\r\nHost: a\r\n\r\n"));
        assert_eq!(client.until("\r\n\r\n"), line, "{ask}");
    }
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().body, "ok");
    assert_eq!(server.connections(), 1);
}

/// Returns the whole response that an HTTP/1.0 client gets.
fn old(response: &'static str, lines: &str) -> String {
    let server = Server::play(move |conn, _| {
        while conn.request().is_some() {
            conn.send(response);
            if !response.contains("Content-Length") && !response.contains("chunked") {
                return;
            }
        }
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send(format!("GET / HTTP/1.0\r\n{lines}\r\n"));
    client.rest_text()
}

#[test]
fn http_1_0_clients_get_no_chunks() {
    let chunked =
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nX: y\r\n\r\n";
    for (response, lines) in
        [(chunked, "Connection: keep-alive\r\n"), ("HTTP/1.1 200 OK\r\n\r\nok", "")]
    {
        assert_eq!(old(response, lines), "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nok");
    }
    assert_eq!(old(OK, ""), "HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\nok");
    let server = Server::always(OK);
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    for _ in 0..2 {
        client.send("GET / HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        let (_, head, body) = client.response().into_parts();
        assert!(head.contains("connection: keep-alive"), "{head}");
        assert_eq!(body, "ok");
    }
}

#[test]
fn a_request_of_http_1_0_goes_on_with_the_one_host_that_http_1_1_demands() {
    let server = Server::play(|conn, _| {
        let request = conn.request().unwrap();
        let hosts = request.lines().filter(|line| line.to_ascii_lowercase().starts_with("host:"));
        let seen = hosts.collect::<Vec<_>>().join("|");
        conn.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n{seen}", seen.len()));
    });
    let proxy = Proxy::start(&server);
    for (lines, seen) in [("", "host:"), ("Host: a\r\n", "Host: a")] {
        let mut client = proxy.client();
        client.send(format!("GET / HTTP/1.0\r\n{lines}\r\n"));
        assert_eq!(client.response().body, seen);
    }
}

#[test]
fn an_answer_until_close_becomes_chunks() {
    let server = Server::play(|conn, _| {
        conn.request();
        conn.send("HTTP/1.0 200 OK\r\n\r\nhello");
    });
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.send("GET / HTTP/1.1\r\nHost: a\r\n\r\n");
    client.until("\r\n\r\n");
    let body = client.until("0\r\n\r\n");
    assert!(body.starts_with("5\r\nhello\r\n"), "{body}");
    client.send("GET /own HTTP/1.1\r\nHost: a\r\n\r\n");
    assert_eq!(client.response().status, 404);
}

#[test]
fn bytes_may_come_one_by_one() {
    let server = Server::always(OK);
    let proxy = Proxy::start(&server);
    let mut client = proxy.client();
    client.stream.set_nodelay(true).unwrap();
    let text = "POST /later HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nX: y\r\n\r\n";
    for _ in 0..2 {
        text.bytes().for_each(|byte| {
            client.send([byte]);
        });
        assert_eq!(client.response().body, "ok");
    }
}

#[test]
fn a_decision_may_take_its_time() {
    let server = Server::always(OK);
    let proxy = Proxy::start(&server);
    let mut client: Client = proxy.client();
    for _ in 0..3 {
        client.send("POST /later HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\n\r\nab");
        assert_eq!(client.response().body, "ok");
    }
    let mut client = proxy.client();
    client.send("GET /never HTTP/1.1\r\nHost: a\r\n\r\n");
    drop(client);
    proxy.rests();
}
