//! HTTP/1.1 as bytes: requests exactly as written, one connection each, and nothing followed.

use std::net::Ipv4Addr;
use std::time::Duration;

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpStream;

/// One request, from connect to the last byte of its response.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(60);

#[derive(Clone, Debug, Default)]
pub struct Response {
    pub status: u16,
    /// Names in lower case.
    pub headers: Vec<(String, String)>,
    pub body: String,
}

impl Response {
    /// The first header of this name; `name` in lower case.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str())
    }

    /// The body as JSON; `null` where it is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_default()
    }

    pub fn location(&self) -> &str {
        self.header("location").unwrap_or_default()
    }

    /// Status and the beginning of the body, for a failure message.
    pub fn summary(&self) -> String {
        let body: String = self.body.chars().take(300).collect();
        format!("{} {body}", self.status)
    }

    /// # Errors
    /// The status is another one; the message holds the beginning of the body.
    pub fn expect_status(&self, status: u16) -> Result<()> {
        ensure!(self.status == status, "expected {status}, got {}", self.summary());
        Ok(())
    }

    /// Parses a whole response of a closed connection.
    ///
    /// # Errors
    /// The head is incomplete, or the body is shorter than its framing announces.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let mut headers = [httparse::EMPTY_HEADER; 64];
        let mut head = httparse::Response::new(&mut headers);
        let httparse::Status::Complete(length) = head.parse(bytes)? else {
            bail!("a response without a whole head: {:?}", String::from_utf8_lossy(bytes));
        };
        let own = |header: &httparse::Header<'_>| {
            (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
        };
        let headers: Vec<_> = head.headers.iter().map(own).collect();
        let status = head.code.unwrap_or_default();
        let mut response = Self { status, headers, body: String::new() };
        let mut body = &bytes[length..];
        let unchunked;
        if response.header("transfer-encoding") == Some("chunked") {
            unchunked = decode_chunks(body)?;
            body = &unchunked;
        } else if let Some(length) = response.header("content-length") {
            let length: usize = length.parse().context("content-length")?;
            ensure!(body.len() >= length, "a body of {} bytes, announced as {length}", body.len());
            body = &body[..length];
        }
        response.body = String::from_utf8_lossy(body).into_owned();
        Ok(response)
    }
}

fn decode_chunks(mut rest: &[u8]) -> Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let Ok(httparse::Status::Complete((start, size))) = httparse::parse_chunk_size(rest) else {
            bail!("a chunk without its size");
        };
        let size = usize::try_from(size)?;
        if size == 0 {
            return Ok(body);
        }
        let end = start + size;
        body.extend_from_slice(rest.get(start..end).context("a chunk that ends early")?);
        rest = rest.get(end + 2..).context("a chunk without its end")?;
    }
}

/// Sends `request`, which must contain `Connection: close`, and reads to the end.
///
/// # Errors
/// The connection fails before a byte arrives.
pub async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> Result<Vec<u8>> {
    // A server may refuse and close while the request is still being sent: its response counts.
    let sent = stream.write_all(request).await;
    let mut bytes = Vec::new();
    let read = stream.read_to_end(&mut bytes).await;
    if bytes.is_empty() {
        sent?;
        read?;
    }
    Ok(bytes)
}

/// A client of JSON APIs on loopback that sends the given `Host` and keeps one cookie.
#[derive(Clone, Debug)]
pub struct Client {
    port: u16,
    host: String,
    cookie: Option<String>,
}

impl Client {
    /// A client that resolves `host` to this machine's `port`.
    pub fn new(host: &str, port: u16) -> Self {
        Self { port, host: format!("{host}:{port}"), cookie: None }
    }

    /// A client that sends the same cookie to another host, as no browser does.
    #[must_use]
    pub fn at_host(&self, host: &str) -> Self {
        Self { host: format!("{host}:{}", self.port), ..self.clone() }
    }

    /// The value of its cookie.
    pub fn cookie(&self) -> Option<&str> {
        self.cookie.as_deref().and_then(|cookie| cookie.split_once('=')).map(|(_, value)| value)
    }

    /// The cookie as a `Cookie` header wants it: name and value.
    pub fn cookie_pair(&self) -> Option<&str> {
        self.cookie.as_deref()
    }

    pub async fn get(&mut self, path: &str) -> Result<Response> {
        self.send("GET", path, None).await
    }

    pub async fn post(&mut self, path: &str, body: &Value) -> Result<Response> {
        self.send("POST", path, Some(body)).await
    }

    pub async fn patch(&mut self, path: &str, body: &Value) -> Result<Response> {
        self.send("PATCH", path, Some(body)).await
    }

    pub async fn delete(&mut self, path: &str) -> Result<Response> {
        self.send("DELETE", path, None).await
    }

    /// Posts a body that is no JSON.
    pub async fn post_bytes(
        &mut self,
        path: &str,
        content_type: &str,
        body: &[u8],
    ) -> Result<Response> {
        self.exchange("POST", path, Some((content_type, body))).await
    }

    async fn send(&mut self, method: &str, path: &str, body: Option<&Value>) -> Result<Response> {
        let body = body.map(Value::to_string);
        let body = body.as_deref().map(|body| ("application/json", body.as_bytes()));
        self.exchange(method, path, body).await
    }

    async fn exchange(
        &mut self,
        method: &str,
        path: &str,
        body: Option<(&str, &[u8])>,
    ) -> Result<Response> {
        let title = format!("{method} {path} at {}", self.host);
        let request = self.request(method, path, body);
        let exchanged = async {
            let stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.port)).await?;
            Response::parse(&exchange(stream, &request).await?)
        };
        let response = tokio::time::timeout(REQUEST_TIMEOUT, exchanged).await;
        let response = response.with_context(|| format!("{title}: no response in time"))?;
        let response = response.with_context(|| title)?;
        if let Some(cookie) = response.header("set-cookie") {
            self.cookie = cookie.split(';').next().map(str::to_owned);
        }
        Ok(response)
    }

    /// The bytes of a request on a connection of its own. `body` follows its content type.
    pub fn request(&self, method: &str, path: &str, body: Option<(&str, &[u8])>) -> Vec<u8> {
        let host = &self.host;
        let mut head = format!("{method} {path} HTTP/1.1\r\nhost: {host}\r\n");
        if let Some(cookie) = &self.cookie {
            head.push_str(&format!("cookie: {cookie}\r\n"));
        }
        if let Some((content_type, body)) = body {
            let length = body.len();
            head.push_str(&format!("content-type: {content_type}\r\n"));
            head.push_str(&format!("content-length: {length}\r\n"));
        }
        head.push_str("connection: close\r\n\r\n");
        let (_, body) = body.unwrap_or_default();
        [head.as_bytes(), body].concat()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn responses_are_parsed_in_each_framing() {
        let plain = Response::parse(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello").unwrap();
        assert_eq!(
            (plain.status, plain.header("a"), plain.body.as_str()),
            (200, Some("b"), "hello")
        );
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(Response::parse(chunked).unwrap().body, "hello");
        let counted = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";
        assert_eq!(Response::parse(counted).unwrap().body, "hello");
    }

    #[test]
    fn a_body_that_ends_early_is_an_error() {
        assert!(Response::parse(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nhello").is_err());
        let cut = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel";
        assert!(Response::parse(cut).is_err());
        assert!(Response::parse(b"HTTP/1.1 200 OK\r\n").is_err());
    }
}
