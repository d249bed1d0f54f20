//! A head that passes the router also passes the edge behind it, which reads the headers that the
//! router adds as well.

use proxy::HeadLimit;

use crate::harness::{Running, TempDir};
use crate::tenant::Tenant;

const FIRST: HeadLimit = HeadLimit::FIRST_HOP;
const NEXT: HeadLimit = HeadLimit::NEXT_HOP;

/// Builds a request whose head has this many lines and bytes.
fn request(lines: usize, bytes: usize) -> String {
    // The host, the client and the id have their greatest lengths.
    let host = format!("acme.localhost:{:0>5}", 80);
    let id = "0123456789abcdef".repeat(4);
    let mut head = format!(
        "GET / HTTP/1.1\r\nHost: {host}\r\nX-Request-Id: {id}\r\nX-Forwarded-For: {}\r\n",
        "2001:0db8:0000:0000:0000:0000:1111:2222"
    );
    head.push_str(&"X: y\r\n".repeat(lines - 4));
    let pad = bytes - head.len() - "X: \r\n\r\n".len();
    format!("{head}X: {}\r\n\r\n", "x".repeat(pad))
}

#[test]
fn the_longest_request_gains_less_than_the_edge_takes_beyond_it() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::kept(vec![acme.running()], &folder, |settings| {
        settings.trusted = "127.0.0.1/32".parse().unwrap();
    });
    for (lines, bytes) in [(FIRST.lines, 4_000), (5, FIRST.bytes), (FIRST.lines, FIRST.bytes)] {
        assert_eq!(router.send(&request(lines, bytes)).status, 200, "{lines} lines, {bytes} bytes");
        let seen = acme.heads().pop().unwrap();
        let count = seen.matches("\r\n").count() - 2;
        assert!(count > lines && count <= NEXT.lines, "{lines} lines became {count}");
        assert!(seen.len() <= NEXT.bytes, "{bytes} bytes became {}", seen.len());
    }
    let before = acme.heads().len();
    for (lines, bytes) in [(FIRST.lines + 1, 4_000), (5, FIRST.bytes + 1)] {
        let response = router.send(&request(lines, bytes));
        assert_eq!((response.status, response.code().as_str()), (431, "headers_too_large"));
    }
    assert_eq!(acme.heads().len(), before);
    assert_eq!(router.orchestrator().lease_requests().len(), 1, "no lease was lost over it");
}

#[test]
fn whatever_answer_an_edge_may_hand_on_is_taken() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    for (lines, bytes) in [(NEXT.lines, 4_000), (5, NEXT.bytes), (NEXT.lines, NEXT.bytes)] {
        let response = router.get("acme.localhost", &format!("/head?{lines},{bytes}"));
        assert_eq!((response.status, response.body.as_str()), (200, "ok"), "{lines}, {bytes}");
    }
    for (lines, bytes) in [(NEXT.lines + 1, 4_000), (5, NEXT.bytes + 1)] {
        let response = router.get("acme.localhost", &format!("/head?{lines},{bytes}"));
        assert_eq!((response.status, response.code().as_str()), (502, "upstream_malformed"));
    }
    assert_eq!(router.orchestrator().lease_requests().len(), 1, "no lease was lost over it");
}
