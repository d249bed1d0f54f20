//! Headers that concern one connection only (RFC 9110 §7.6.1), and fields that no trailer may carry.

use crate::http::fields::{same, tokens};
use crate::http::head::Header;

/// Whether a header is never forwarded as received: it concerns this connection, or the framing that the engine writes.
pub(crate) fn is_hop(name: &str) -> bool {
    let name = name.as_bytes();
    match (name.first().map_or(0, u8::to_ascii_lowercase), name.len()) {
        (b't', 2) => same(name, b"te"),
        (b'u', 7) => same(name, b"upgrade"),
        (b'c', 10) => same(name, b"connection"),
        (b'k', 10) => same(name, b"keep-alive"),
        (b'c', 14) => same(name, b"content-length"),
        (b'h', 14) => name.eq_ignore_ascii_case(b"http2-settings"),
        (b't', 17) => same(name, b"transfer-encoding"),
        // `Proxy-Authorization`, `Proxy-Connection` and related names.
        (b'p', 6..) => same(&name[..6], b"proxy-"),
        _ => false,
    }
}

/// Whether a `Connection` line among `headers` names this header.
pub(crate) fn is_named<'a>(name: &str, headers: impl Iterator<Item = Header<'a>>) -> bool {
    headers
        .filter(|h| h.is("connection"))
        .any(|h| tokens(h.value).any(|token| token.eq_ignore_ascii_case(name.as_bytes())))
}

/// Whether a field in a trailer would frame, route, authenticate or describe the message too late (RFC 9110 §6.5.1).
pub(crate) fn is_barred_from_trailers(name: &str) -> bool {
    const BARRED: &[&str] = &[
        "age",
        "authorization",
        "cache-control",
        "cookie",
        "date",
        "expect",
        "expires",
        "forwarded",
        "host",
        "location",
        "max-forwards",
        "origin",
        "pragma",
        "range",
        "retry-after",
        "set-cookie",
        "te",
        "trailer",
        "vary",
        "www-authenticate",
    ];
    let starts =
        |with: &str| name.get(..with.len()).is_some_and(|start| start.eq_ignore_ascii_case(with));
    is_hop(name)
        || BARRED.iter().any(|barred| name.eq_ignore_ascii_case(barred))
        || ["content-", "if-", "sec-", "access-control-"].iter().any(|with| starts(with))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_by_the_table() {
        for hop in [
            "Connection",
            "KEEP-ALIVE",
            "te",
            "Upgrade",
            "Transfer-Encoding",
            "Content-Length",
            "HTTP2-Settings",
            "Proxy-Connection",
            "proxy-authorization",
            "Proxy-Authenticate",
        ] {
            assert!(is_hop(hop), "{hop}");
        }
        for end_to_end in
            ["host", "cookie", "trailer", "x-proxy-a", "tea", "date", "proxies", "prox-ü"]
        {
            assert!(!is_hop(end_to_end), "{end_to_end}");
        }
    }

    #[test]
    fn connection_names_headers() {
        let lines = [("Connection", "close, X-A"), ("x-a", "1"), ("connection", "x-b")];
        let headers = || lines.iter().map(|(name, v)| Header { name, value: v.as_bytes() });
        assert!(is_named("x-a", headers()) && is_named("X-B", headers()));
        assert!(!is_named("x-c", headers()));
    }
}
