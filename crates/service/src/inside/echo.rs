//! A WebSocket that says back what it hears, and takes its leave with 1001 when the service drains.

use std::time::Duration;

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::{Request, StatusCode};
use hyper_util::rt::TokioIo;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::handshake::server::create_response;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::tungstenite::protocol::{CloseFrame, Role, WebSocketConfig};

use super::answer::{Answer, Asker};
use super::serve::Drain;

const LONGEST_MESSAGE: usize = 1 << 20;
const BUFFER: usize = 4 << 10;
/// How long a peer may take to say goodbye too.
const GOODBYE: Duration = Duration::from_secs(2);

/// Answers the upgrade and echoes from then on.
pub fn upgrade(asker: &Asker, request: Request<Incoming>, drain: &Drain) -> Answer {
    let (parts, body) = request.into_parts();
    let head = Request::from_parts(parts.clone(), ());
    let Ok(accepted) = create_response(&head) else {
        return refuse(asker);
    };
    let ended = drain.clone();
    let upgraded = hyper::upgrade::on(Request::from_parts(parts, body));
    drain.spawn(async move {
        // A peer that goes away before the upgrade has nothing to hear.
        if let Ok(upgraded) = upgraded.await {
            let config = WebSocketConfig::default()
                .read_buffer_size(BUFFER)
                .write_buffer_size(0)
                .max_message_size(Some(LONGEST_MESSAGE))
                .max_frame_size(Some(LONGEST_MESSAGE));
            let io = TokioIo::new(upgraded);
            let socket = WebSocketStream::from_raw_socket(io, Role::Server, Some(config)).await;
            echo(socket, ended).await;
        }
    });
    accepted.map(|()| Full::<Bytes>::default())
}

fn refuse(asker: &Asker) -> Answer {
    let mut answer = asker.problem(
        StatusCode::UPGRADE_REQUIRED,
        "upgrade_required",
        "This address speaks WebSocket (version 13) only.",
    );
    super::answer::set(&mut answer, hyper::header::UPGRADE, "websocket");
    super::answer::set(&mut answer, hyper::header::CONNECTION, "upgrade");
    answer
}

async fn echo<S>(mut socket: WebSocketStream<S>, drain: Drain)
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin,
{
    loop {
        let heard = tokio::select! {
            heard = socket.next() => heard,
            () = drain.asked() => break,
        };
        match heard {
            Some(Ok(message @ (Message::Text(_) | Message::Binary(_)))) => {
                if socket.send(message).await.is_err() {
                    return;
                }
            }
            // Pings and closes are answered by the library, while reading goes on.
            Some(Ok(
                Message::Ping(_) | Message::Pong(_) | Message::Close(_) | Message::Frame(_),
            )) => {}
            Some(Err(_)) | None => return,
        }
    }
    let away = CloseFrame { code: CloseCode::Away, reason: "the tenant is stopping".into() };
    if socket.close(Some(away)).await.is_ok() {
        let _ =
            tokio::time::timeout(GOODBYE, async { while socket.next().await.is_some() {} }).await;
    }
}
