//! WebSockets through the published port.

use std::time::Duration;

use anyhow::{Context as _, Result};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::client::IntoClientRequest as _;

const TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) async fn open_websocket(
    port: u16,
    path: &str,
    route_token: Option<&str>,
) -> Result<WebSocketStream<TcpStream>> {
    let mut request = format!("ws://localhost:{port}{path}").into_client_request()?;
    if let Some(token) = route_token {
        request.headers_mut().insert("x-cial-route-token", token.parse()?);
    }
    let opened = async {
        let stream = TcpStream::connect(("127.0.0.1", port)).await?;
        anyhow::Ok(tokio_tungstenite::client_async(request, stream).await?.0)
    };
    tokio::time::timeout(TIMEOUT, opened).await.context("no upgrade")?
}

/// The status of the response to an upgrade that a page of `origin` requests.
pub(crate) async fn upgrade_status(port: u16, path: &str, origin: &str) -> Result<u16> {
    let request = format!(
        "GET {path} HTTP/1.1\r\nhost: localhost:{port}\r\norigin: {origin}\r\n\
         connection: upgrade\r\nupgrade: websocket\r\nsec-websocket-version: 13\r\n\
         sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
    );
    let exchanged = async {
        let mut stream = BufReader::new(TcpStream::connect(("127.0.0.1", port)).await?);
        stream.write_all(request.as_bytes()).await?;
        let mut line = String::new();
        stream.read_line(&mut line).await?;
        let status = line.split(' ').nth(1).with_context(|| format!("no status: {line:?}"))?;
        anyhow::Ok(status.parse()?)
    };
    tokio::time::timeout(TIMEOUT, exchanged).await.context("no response")?
}

/// Sends a text, and returns the message that comes back.
pub(crate) async fn echo(socket: &mut WebSocketStream<TcpStream>, text: &str) -> Result<String> {
    socket.send(Message::text(text)).await?;
    let message = tokio::time::timeout(TIMEOUT, socket.next()).await.context("no echo")?;
    Ok(message.context("closed instead of an echo")??.into_text()?.to_string())
}

/// Waits for the end of a WebSocket, and returns its close code.
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
    tokio::time::timeout(TIMEOUT, ended).await.context("not closed")
}
