//! A WebSocket that echoes each message and closes with 1001 when the service drains.

use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use crate::response::{ResponseBody, insert_header};
use crate::{Drain, Request, RequestContext, Response};
use protocol::problem::Code;

const MAX_MESSAGE_BYTES: usize = 1 << 20;
const READ_BUFFER_BYTES: usize = 4 << 10;
/// Bounds the wait for the peer's close frame.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(2);

/// Accepts the WebSocket handshake and echoes messages until either side closes.
pub fn upgrade(context: &RequestContext, request: Request, drain: &Drain) -> Response {
    let (parts, body) = request.into_parts();
    let head = hyper::Request::from_parts(parts.clone(), ());
    let Ok(accepted) = create_response(&head) else {
        return refuse(context);
    };
    let task_drain = drain.clone();
    let upgraded = hyper::upgrade::on(Request::from_parts(parts, body));
    drain.spawn(async move {
        // An error means that the peer left before the upgrade.
        if let Ok(upgraded) = upgraded.await {
            let config = WebSocketConfig::default()
                .read_buffer_size(READ_BUFFER_BYTES)
                .write_buffer_size(0)
                .max_message_size(Some(MAX_MESSAGE_BYTES))
                .max_frame_size(Some(MAX_MESSAGE_BYTES));
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
            echo(socket, task_drain).await;
        }
    });
    accepted.map(|()| ResponseBody::default())
}

fn refuse(context: &RequestContext) -> Response {
    let mut response =
        context.problem(Code::UpgradeRequired, "This address speaks WebSocket (version 13) only.");
    insert_header(&mut response, hyper::header::UPGRADE, "websocket");
    insert_header(&mut response, hyper::header::CONNECTION, "upgrade");
    response
}

async fn echo<S>(mut socket: WebSocketStream<S>, drain: Drain)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        let received = tokio::select! {
            received = socket.next() => received,
            () = drain.requested() => break,
        };
        match received {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            // The library answers pings and closes while this loop reads.
            Some(Ok(
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
            )) => {}
            Some(Err(_)) | None => return,
        }
    }
    let away = CloseFrame { code: CloseCode::Away, reason: "the tenant is stopping".into() };
    if socket.close(Some(away)).await.is_ok() {
        let _ =
            tokio::time::timeout(CLOSE_TIMEOUT, async { while socket.next().await.is_some() {} })
                .await;
    }
}
