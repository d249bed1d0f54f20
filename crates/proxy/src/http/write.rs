//! Serialises heads: omits hop-by-hop headers, writes the framing anew, and leaves everything else to the exchange.

use crate::http::body::Body;
use crate::http::chunks::ChunkedDecoder;
use crate::http::framing::Framing;
use crate::http::head::{RequestHead, RequestInfo, ResponseHead, Version};
use crate::http::headers::Headers;
use crate::http::hop_by_hop;
use crate::policy::Exchange;
use crate::response::Response;

/// Writes the request head for the upstream.
pub(crate) fn request<E: Exchange>(head: &RequestHead<'_>, exchange: &E, out: &mut Vec<u8>) {
    let target = exchange.target().unwrap_or(head.target());
    for part in [head.method().as_bytes(), b" ", target.as_bytes(), b" HTTP/1.1\r\n"] {
        out.extend_from_slice(part);
    }
    let mut to = Headers::passing(head.lines.bytes, out);
    head.lines.end_to_end(|header| exchange.forward_request_header(header, &mut to));
    exchange.add_request_headers(&mut to);
    // HTTP/1.0 knows requests without `Host`. HTTP/1.1 demands the line, with an empty value where no host is known
    // (RFC 9112 §3.2).
    if head.version() == Version::Http10 && head.get("host").is_none() {
        out.extend_from_slice(b"host:\r\n");
    }
    if head.is_websocket() {
        out.extend_from_slice(b"connection: Upgrade\r\nupgrade: websocket\r\n");
    } else {
        framing(head.info.framing, out);
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes the final response head for the client. Returns the body that follows, and whether the head announces that
/// the connection closes: always if `close`, and whenever only a close can end the body.
pub(crate) fn response<E: Exchange>(
    head: &ResponseHead<'_>,
    exchange: &E,
    request: &RequestInfo,
    close: bool,
    out: &mut Vec<u8>,
) -> (Body, bool) {
    status_line(head.status(), head.reason, out);
    headers(head, exchange, out);
    let (announced, body) = match (head.info.framing, request.version) {
        (Framing::Chunked, Version::Http11) => {
            (Framing::Chunked, Body::Chunked(ChunkedDecoder::new()))
        }
        (Framing::Chunked, Version::Http10) => {
            (Framing::Close, Body::Dechunked(ChunkedDecoder::new()))
        }
        (Framing::Close, Version::Http11) => (Framing::Chunked, Body::Chunking),
        (framing, _) => (framing, Body::through(framing)),
    };
    framing(announced, out);
    let close = close || (announced == Framing::Close && !request.is_head());
    connection(request.version, close, out);
    out.extend_from_slice(b"\r\n");
    (if request.is_head() || head.status() == 304 { Body::Done } else { body }, close)
}

/// Writes an interim (1xx) response head for the client.
pub(crate) fn interim<E: Exchange>(head: &ResponseHead<'_>, exchange: &E, out: &mut Vec<u8>) {
    status_line(head.status(), head.reason, out);
    headers(head, exchange, out);
    if head.status() == 101 {
        out.extend_from_slice(b"connection: Upgrade\r\nupgrade: websocket\r\n");
    }
    out.extend_from_slice(b"\r\n");
}

/// Writes a complete response of the proxy's own.
pub(crate) fn own_response(
    response: &Response,
    version: Version,
    is_head: bool,
    close: bool,
    out: &mut Vec<u8>,
) {
    let length = Framing::Length(response.body.len() as u64);
    own_response_head(response, version, length, close, out);
    if !is_head && !is_bodiless(response.status) {
        out.extend_from_slice(&response.body);
    }
}

/// Writes the head of a response of the proxy's own.
pub(crate) fn own_response_head(
    response: &Response,
    version: Version,
    announced: Framing,
    close: bool,
    out: &mut Vec<u8>,
) {
    status_line(response.status, "", out);
    for (name, value) in &response.headers {
        if !hop_by_hop::is_hop(name) {
            Headers::new(out).try_add(name, value.as_bytes());
        }
    }
    if !is_bodiless(response.status) {
        framing(announced, out);
    }
    connection(version, close, out);
    out.extend_from_slice(b"\r\n");
}

pub(crate) fn is_bodiless(status: u16) -> bool {
    status < 200 || matches!(status, 204 | 304)
}

/// Writes one chunk. Omits an empty `part`, which would mean the last chunk.
pub(crate) fn chunk(part: &[u8], out: &mut Vec<u8>) {
    if !part.is_empty() {
        out.extend_from_slice(format!("{:x}\r\n", part.len()).as_bytes());
        out.extend_from_slice(part);
        out.extend_from_slice(b"\r\n");
    }
}

fn headers<E: Exchange>(head: &ResponseHead<'_>, exchange: &E, out: &mut Vec<u8>) {
    let mut to = Headers::passing(head.lines.bytes, out);
    head.lines.end_to_end(|header| exchange.forward_response_header(header, &mut to));
    exchange.add_response_headers(&mut to);
}

fn framing(framing: Framing, out: &mut Vec<u8>) {
    match framing {
        Framing::Empty | Framing::Close => {}
        Framing::Chunked => out.extend_from_slice(b"transfer-encoding: chunked\r\n"),
        Framing::Length(length) => {
            out.extend_from_slice(b"content-length: ");
            number(length, out);
            out.extend_from_slice(b"\r\n");
        }
    }
}

fn connection(version: Version, close: bool, out: &mut Vec<u8>) {
    match (version, close) {
        (_, true) => out.extend_from_slice(b"connection: close\r\n"),
        (Version::Http10, false) => out.extend_from_slice(b"connection: keep-alive\r\n"),
        (Version::Http11, false) => {}
    }
}

fn status_line(status: u16, reason: &str, out: &mut Vec<u8>) {
    if status == 200 && matches!(reason, "OK" | "") {
        return out.extend_from_slice(b"HTTP/1.1 200 OK\r\n");
    }
    out.extend_from_slice(b"HTTP/1.1 ");
    number(status.into(), out);
    out.push(b' ');
    out.extend_from_slice(if reason.is_empty() { known(status) } else { reason }.as_bytes());
    out.extend_from_slice(b"\r\n");
}

fn number(mut number: u64, out: &mut Vec<u8>) {
    let (mut digits, mut at) = ([0; 20], 20);
    loop {
        at -= 1;
        digits[at] = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
        if number == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

const fn known(status: u16) -> &'static str {
    match status {
        100 => "Continue",
        101 => "Switching Protocols",
        200 => "OK",
        204 => "No Content",
        302 => "Found",
        303 => "See Other",
        304 => "Not Modified",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        417 => "Expectation Failed",
        426 => "Upgrade Required",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        505 => "HTTP Version Not Supported",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_read_as_written() {
        for value in [0, 7, 10, 4096, u64::MAX] {
            let mut out = Vec::new();
            number(value, &mut out);
            assert_eq!(out, value.to_string().into_bytes());
        }
    }

    #[test]
    fn an_answer_of_our_own() {
        let response = Response::new(503).header("retry-after", "1").body("text/plain", "later");
        let shown = |version, is_head, close| {
            let mut out = Vec::new();
            own_response(&response, version, is_head, close, &mut out);
            String::from_utf8(out).unwrap().replace("\r\n", "\n")
        };
        insta::assert_snapshot!(shown(Version::Http11, false, false), @r"
        HTTP/1.1 503 Service Unavailable
        retry-after: 1
        content-type: text/plain
        content-length: 5

        later
        ");
        insta::assert_snapshot!(shown(Version::Http10, true, true), @r"
        HTTP/1.1 503 Service Unavailable
        retry-after: 1
        content-type: text/plain
        content-length: 5
        connection: close
        ");
    }
}
