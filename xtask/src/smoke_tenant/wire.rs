//! Bytes to a tenant and back: requests exactly as written, so that odd ones stay odd.

use anyhow::{Context as _, Result, bail};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{
    AsyncBufReadExt as _, AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader,
};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

use super::stage::{HANG, Tenant};

/// A way into a tenant.
#[derive(Clone, Copy)]
pub(crate) enum Way<'a> {
    /// The published port.
    Port(u16),
    /// The router's socket, reached from inside the container as its owner.
    Socket(&'a Tenant),
    /// Another socket, reached from inside by one of the users.
    Inside { tenant: &'a Tenant, user: &'a str, socket: &'a str },
}

#[derive(Debug, Default)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: String,
}

impl Answer {
    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(own, _)| own.eq_ignore_ascii_case(name));
        found.map(|(_, value)| value.as_str())
    }
}

/// A plain `GET` with some headers, each a whole line.
pub(crate) async fn get(way: Way<'_>, path: &str, headers: &[&str]) -> Result<Answer> {
    let mut request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\n");
    for header in headers {
        request.push_str(header);
        request.push_str("\r\n");
    }
    request.push_str("connection: close\r\n\r\n");
    send(way, request.as_bytes()).await.with_context(|| format!("GET {path}"))
}

/// Sends a request that asks for its connection to be closed, and reads the answer.
pub(crate) async fn send(way: Way<'_>, request: &[u8]) -> Result<Answer> {
    let exchanged = async {
        match way {
            Way::Port(port) => {
                exchange(TcpStream::connect(("127.0.0.1", port)).await?, request).await
            }
            Way::Socket(tenant) => {
                through_socket(tenant, "cial", "/run/cial/ingress/edge.sock", request).await
            }
            Way::Inside { tenant, user, socket } => {
                through_socket(tenant, user, socket, request).await
            }
        }
    };
    let bytes = tokio::time::timeout(HANG, exchanged).await.context("no end of the answer")??;
    parse(&bytes)
}

async fn exchange(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    request: &[u8],
) -> Result<Vec<u8>> {
    stream.write_all(request).await?;
    let mut bytes = Vec::new();
    match stream.read_to_end(&mut bytes).await {
        Err(error) if bytes.is_empty() => Err(error.into()),
        // A refusal may be followed by a reset: what was read counts.
        _ => Ok(bytes),
    }
}

async fn through_socket(
    tenant: &Tenant,
    user: &str,
    socket: &str,
    request: &[u8],
) -> Result<Vec<u8>> {
    let program = format!(
        r#"use IO::Socket::UNIX;
        my $s = IO::Socket::UNIX->new(Peer => "{socket}") or die "connect: $!";
        $s->print(pack("H*", "{}")); $s->flush;
        local $/; print unpack("H*", <$s>);"#,
        hex(request)
    );
    let ran = tenant.perl(user, &program).await?;
    if ran.code != 0 {
        bail!("through the socket: {}", ran.out);
    }
    unhex(&ran.out).with_context(|| format!("through the socket: {}", ran.out))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn unhex(text: &str) -> Result<Vec<u8>> {
    let pair = |at: usize| text.get(at..at + 2).context("half a byte");
    (0..text.len()).step_by(2).map(|at| Ok(u8::from_str_radix(pair(at)?, 16)?)).collect()
}

fn parse(bytes: &[u8]) -> Result<Answer> {
    let mut headers = [httparse::EMPTY_HEADER; 64];
    let mut head = httparse::Response::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(bytes)? else {
        bail!("an answer without a whole head: {:?}", String::from_utf8_lossy(bytes));
    };
    let own = |header: &httparse::Header<'_>| {
        (header.name.to_ascii_lowercase(), String::from_utf8_lossy(header.value).into_owned())
    };
    let headers: Vec<_> = head.headers.iter().map(own).collect();
    let status = head.code.unwrap_or_default();
    let mut answer = Answer { status, headers, body: String::new() };
    let chunked = answer.header("transfer-encoding") == Some("chunked");
    let body = if chunked { unchunk(&bytes[length..])? } else { bytes[length..].to_vec() };
    answer.body = String::from_utf8_lossy(&body).into_owned();
    Ok(answer)
}

fn unchunk(mut rest: &[u8]) -> Result<Vec<u8>> {
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

/// An open WebSocket through the published port.
pub(crate) async fn websocket(
    port: u16,
    path: &str,
    token: Option<&str>,
) -> Result<WebSocketStream<TcpStream>> {
    use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;
    let mut request = format!("ws://localhost:{port}{path}").into_client_request()?;
    if let Some(token) = token {
        request.headers_mut().insert("x-cial-route-token", token.parse()?);
    }
    let opened = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        anyhow::Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    };
    tokio::time::timeout(HANG, opened).await.context("no upgrade")?
}

/// The status with which an upgrade is answered that a page of `origin` asks for.
pub(crate) async fn upgrade_status(port: u16, path: &str, origin: &str) -> Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\norigin: {origin}\r\n\
         connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let asked = async {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
        stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).with_context(|| format!("no status: {line:?}"))?;
        anyhow::Ok(status.parse()?)
    };
    tokio::time::timeout(HANG, asked).await.context("no answer")?
}

/// What a WebSocket sends back.
pub(crate) async fn echo(socket: &mut WebSocketStream<TcpStream>, text: &str) -> Result<String> {
    socket.send(Message::text(text)).await?;
    let answer = tokio::time::timeout(HANG, socket.next()).await.context("no echo")?;
    Ok(answer.context("closed instead of an echo")??.into_text()?.to_string())
}

/// Waits for the end of a WebSocket; the code that it was closed with.
pub(crate) async fn close_code(mut socket: WebSocketStream<TcpStream>) -> Result<Option<u16>> {
    let ended = async {
        while let Some(message) = socket.next().await {
            match message {
                Ok(Message::Close(frame)) => return frame.map(|frame| frame.code.into()),
                Ok(_) => {}
                Err(_) => return None,
            }
        }
        None
    };
    tokio::time::timeout(HANG, ended).await.context("not closed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_are_read_in_both_framings() {
        let plain = parse(b"HTTP/1.1 200 OK\r\nA: b\r\n\r\nhello").unwrap();
        assert_eq!(
            (plain.status, plain.header("a"), plain.body.as_str()),
            (200, Some("b"), "hello")
        );
        let chunked = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n";
        assert_eq!(parse(chunked).unwrap().body, "hello");
    }
}
