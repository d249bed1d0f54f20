//! The edge accepts every head that the router forwards, and so do the services; a service's head
//! leaves room for the headers that the edge adds.

use proxy::HeadLimit;

use crate::raw::{Response, send};
use crate::world::{PROOF, SIGNED_IN, TOKEN, Tenant};

const FIRST: HeadLimit = HeadLimit::FIRST_HOP;
const NEXT: HeadLimit = HeadLimit::NEXT_HOP;

/// Sends a request whose head has this many lines and bytes.
async fn sent(tenant: &Tenant, path: &str, (lines, bytes): (usize, usize)) -> Response {
    let mut head = format!(
        "GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\nX-Cial-Route-Token: {TOKEN}\r\n\
         X-Request-Id: 0192f0c1-abc\r\nCookie: {SIGNED_IN}\r\n"
    );
    head.push_str(&"X: y\r\n".repeat(lines - 6));
    let pad = bytes - head.len() - "X: \r\n\r\n".len();
    send(tenant.tcp, &format!("{head}X: {}\r\n\r\n", "x".repeat(pad))).await
}

#[tokio::test]
async fn the_longest_request_of_the_router_arrives() {
    let tenant = Tenant::guarded().await;
    for path in ["/", "/.cial", "/.cial/api/x"] {
        for size in [(NEXT.lines, 4_000), (7, NEXT.bytes), (NEXT.lines, NEXT.bytes)] {
            let response = sent(&tenant, path, size).await;
            assert_eq!(response.status, 200, "{path} {size:?}: {response:?}");
            assert_eq!(response.all("x-cial-proof"), [PROOF]);
        }
    }
    for size in [(NEXT.lines + 1, 4_000), (7, NEXT.bytes + 1)] {
        let response = sent(&tenant, "/", size).await;
        assert_eq!((response.status, response.body.as_str()), (431, ""), "{size:?}");
    }
}

#[tokio::test]
async fn the_longest_answer_gains_less_than_the_router_takes_beyond_it() {
    let tenant = Tenant::guarded().await;
    for (lines, bytes) in [(FIRST.lines, 4_000), (5, FIRST.bytes), (FIRST.lines, FIRST.bytes)] {
        let response = sent(&tenant, &format!("/head?{lines},{bytes}"), (7, 500)).await;
        assert_eq!((response.status, response.all("x-cial-proof")), (200, vec![PROOF]));
        // The counts exclude the status line and the end of the last line.
        assert!(response.head.lines().count() - 1 <= NEXT.lines, "{lines} lines, {bytes} bytes");
        assert!(response.head.len() + 4 <= NEXT.bytes, "{lines} lines, {bytes} bytes");
    }
    for (lines, bytes) in [(FIRST.lines + 1, 4_000), (5, FIRST.bytes + 1)] {
        let response = sent(&tenant, &format!("/head?{lines},{bytes}"), (7, 500)).await;
        assert_eq!((response.status, response.code().as_str()), (502, "upstream_malformed"));
        assert_eq!(response.all("x-cial-proof"), [PROOF], "it is this tenant that says so");
    }
}
