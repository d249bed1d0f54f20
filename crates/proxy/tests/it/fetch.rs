//! A fetch during a decision gets a whole response, or an error with its reason, in time.

use std::time::Duration;

use proxy::{FetchRequest, FetchResponse, ProxyError, Upstream, fetch};

use crate::harness::Server;

const LIMIT: usize = 100;

fn asked(
    upstream: &Upstream,
    method: &str,
    patience: Duration,
) -> Result<FetchResponse, ProxyError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let headers = [("cookie", "a=b"), ("x-bad", "1\r\nx-worse: 2")];
    let question = FetchRequest { method, target: "/who?x=1", headers: &headers };
    runtime.block_on(fetch(upstream, &question, LIMIT, patience))
}

fn reply(response: &'static str, method: &str) -> Result<FetchResponse, ProxyError> {
    let server = Server::play(move |conn, _| {
        conn.until(b"\r\n\r\n");
        conn.send(response);
    });
    let upstream = Upstream::unix(server.path());
    let reply = asked(&upstream, method, Duration::from_secs(20));
    let head = format!(
        "{method} /who?x=1 HTTP/1.1\r\nhost: localhost\r\ncookie: a=b\r\nconnection: close\r\n\r\n"
    );
    assert_eq!(server.record(0), head);
    reply
}

#[test]
fn a_fetched_response_is_complete_in_every_framing() {
    for (response, body) in [
        ("HTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 5\r\n\r\nhello", "hello"),
        (
            "HTTP/1.1 200 OK\r\nX-A: 1\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nhe\r\n3\r\nllo\r\n0\r\nT: 1\r\n\r\n",
            "hello",
        ),
        ("HTTP/1.1 200 OK\r\nX-A: 1\r\n\r\nhello", "hello"),
        (
            "HTTP/1.1 103 Early Hints\r\n\r\nHTTP/1.1 200 OK\r\nX-A: 1\r\nContent-Length: 0\r\n\r\n",
            "",
        ),
    ] {
        let reply = reply(response, "GET").unwrap();
        assert_eq!((reply.status, reply.get("x-a")), (200, Some(&b"1"[..])), "{response:?}");
        assert_eq!(String::from_utf8(reply.body).unwrap(), body, "{response:?}");
    }
    let head = reply("HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\n", "HEAD").unwrap();
    assert!(head.body.is_empty());
    assert_eq!(reply("HTTP/1.1 204 No Content\r\n\r\n", "GET").unwrap().status, 204);
}

#[test]
fn what_is_no_reply_says_so() {
    for response in
        ["", "HTTP/1.1 200 OK\r\nContent-Le", "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhell"]
    {
        assert_eq!(reply(response, "GET"), Err(ProxyError::ResponseTruncated), "{response:?}");
    }
    for response in [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 200 OK\nContent-Length: 0\n\n",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nx\r\n",
        "HTTP/1.1 200 OK\r\n\r\n0123456789012345678901234567890123456789012345678901234567890123456789012345678901234567890123456789!",
    ] {
        assert!(
            matches!(reply(response, "GET"), Err(ProxyError::MalformedResponse(_))),
            "{response:?}"
        );
    }
}

#[test]
fn an_unreachable_upstream_and_a_silent_one_are_different_errors() {
    let gone = Upstream::unix("/nowhere/at/all.sock");
    assert!(matches!(
        asked(&gone, "GET", Duration::from_secs(20)),
        Err(ProxyError::UpstreamUnreachable(_))
    ));
    let server = Server::play(|conn, _| conn.drain());
    let silent = asked(&Upstream::unix(server.path()), "GET", Duration::from_millis(30));
    assert_eq!(silent, Err(ProxyError::ResponseTimeout));
}
