//! A small request to an upstream, sent while a decision is pending.

use std::future::poll_fn;
use std::time::Duration;

use tokio::io::AsyncWriteExt as _;

use crate::http::body::{Body, Consumed};
use crate::http::chunks::ChunkedDecoder;
use crate::http::framing::Framing;
use crate::http::head::{MethodKind, RequestInfo, ResponseHead};
use crate::http::head_scan::HeadScan;
use crate::http::headers::Headers;
use crate::runtime::buffers::{BufferPool, ReadBuffer};
use crate::runtime::stream::Stream;
use crate::settings::{HeadLimit, Settings};
use crate::{ProxyError, Upstream};

/// A request without a body. `Host: localhost` is added unless the headers name a host.
pub struct FetchRequest<'a> {
    pub method: &'a str,
    pub target: &'a str,
    pub headers: &'a [(&'a str, &'a str)],
}

/// A complete response in memory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FetchResponse {
    pub status: u16,
    /// Names as received, in lower case.
    pub headers: Vec<(String, Vec<u8>)>,
    pub body: Vec<u8>,
}

impl FetchResponse {
    /// Returns the first header of this name (in lower case).
    pub fn get(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(have, _)| have == name).map(|(_, value)| value.as_slice())
    }
}

/// Sends a request over a new connection and reads the response within `timeout`.
///
/// # Errors
/// Fails as forwarded requests do, and when the response body exceeds `limit` bytes.
pub async fn fetch(
    upstream: &Upstream,
    question: &FetchRequest<'_>,
    limit: usize,
    timeout: Duration,
) -> Result<FetchResponse, ProxyError> {
    let whole = async {
        let unreachable = |error: std::io::Error| ProxyError::of_connect(&error);
        let mut stream = Stream::connect(&upstream.address).await.map_err(unreachable)?;
        let text = written(question);
        match &mut stream {
            Stream::Tcp(stream) => stream.write_all(&text).await,
            Stream::Unix(stream) => stream.write_all(&text).await,
        }
        .map_err(unreachable)?;
        read(&mut stream, MethodKind::of(question.method), limit).await
    };
    tokio::time::timeout(timeout, whole).await.unwrap_or(Err(ProxyError::ResponseTimeout))
}

fn written(question: &FetchRequest<'_>) -> Vec<u8> {
    let mut out = Vec::with_capacity(512);
    for part in [question.method, " ", question.target, " HTTP/1.1\r\n"] {
        out.extend_from_slice(part.as_bytes());
    }
    let mut headers = Headers::new(&mut out);
    if !question.headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("host")) {
        headers.add("host", "localhost");
    }
    question.headers.iter().for_each(|(name, value)| headers.try_add(name, value.as_bytes()));
    headers.add("connection", "close");
    out.extend_from_slice(b"\r\n");
    out
}

const BUFFER: usize = 4 << 10;

async fn read(
    stream: &mut Stream,
    method: MethodKind,
    limit: usize,
) -> Result<FetchResponse, ProxyError> {
    let (mut buf, mut scan) = (BufferPool::new(BUFFER).take_read_buffer(), HeadScan::default());
    let response_head = HeadLimit { bytes: BUFFER, ..HeadLimit::FIRST_HOP };
    let settings = Settings { response_head, ..Settings::default() };
    let info = RequestInfo { method, ..RequestInfo::UNPARSED };
    let (mut reply, mut body) = loop {
        let Some(end) = scan.end(buf.data()).map_err(ProxyError::MalformedResponse)? else {
            if buf.unfilled().is_empty() {
                return Err(ProxyError::MalformedResponse("its head is too large"));
            }
            if !more(stream, &mut buf).await? {
                return Err(ProxyError::ResponseTruncated);
            }
            continue;
        };
        let met = ResponseHead::read(&buf.data()[..end], &settings, &info, |head| {
            let head = head.map_err(ProxyError::MalformedResponse)?;
            let lower = |h: crate::Header<'_>| (h.name.to_ascii_lowercase(), h.value.to_vec());
            let headers = head.headers().map(lower).collect();
            let body = match head.info.framing {
                _ if info.is_head() || head.status() == 304 => Body::Done,
                Framing::Chunked => Body::Dechunked(ChunkedDecoder::new()),
                framing @ (Framing::Empty | Framing::Length(_) | Framing::Close) => {
                    Body::through(framing)
                }
            };
            Ok((FetchResponse { status: head.status(), headers, body: Vec::new() }, body))
        })?;
        buf.consume(end);
        if met.0.status >= 200 {
            break met;
        }
        scan = HeadScan::default();
    };
    loop {
        while !buf.is_empty() && !body.is_done() {
            let took = body.take(buf.data(), &mut reply.body, &mut |_, _| {});
            match took.map_err(ProxyError::MalformedResponse)? {
                Consumed::Rewritten(count) => buf.consume(count),
                Consumed::AsIs(count) => {
                    reply.body.extend_from_slice(&buf.data()[..count]);
                    buf.consume(count);
                }
            }
        }
        if reply.body.len() > limit {
            return Err(ProxyError::MalformedResponse("its body is too large"));
        }
        if body.is_done() {
            return Ok(reply);
        }
        if !more(stream, &mut buf).await? && !body.close(&mut reply.body) {
            return Err(ProxyError::ResponseTruncated);
        }
    }
}

/// Reads more input; `false` at the end of the stream.
async fn more(stream: &mut Stream, buf: &mut ReadBuffer) -> Result<bool, ProxyError> {
    let (mut from, _) = stream.split();
    let count = poll_fn(|cx| from.poll_read(cx, buf)).await;
    count.map(|count| count > 0).map_err(|_| ProxyError::ResponseTruncated)
}
