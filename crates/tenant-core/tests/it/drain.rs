//! WebSockets echo, and close with 1001 on SIGTERM; the service finishes the requests in progress.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use tokio::net::UnixStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;
use tokio_tungstenite::{WebSocketStream, client_async};

use crate::harness::{Core, code};

async fn connect(core: &Core) -> WebSocketStream<UnixStream> {
    let stream = UnixStream::connect(core.socket()).await.unwrap();
    client_async("ws://acme.localhost/ws", stream).await.unwrap().0
}

#[tokio::test]
async fn a_websocket_says_back_what_it_hears() {
    let core = Core::start(&[]);
    let mut socket = connect(&core).await;
    for message in [Message::text("hello"), Message::binary(vec![7; 100_000])] {
        socket.send(message.clone()).await.unwrap();
        assert_eq!(socket.next().await.unwrap().unwrap(), message);
    }
}

#[tokio::test]
async fn a_plain_request_to_a_websocket_is_told() {
    let answer = Core::start(&[]).get("/ws").await;
    assert_eq!(answer.status(), StatusCode::UPGRADE_REQUIRED);
    assert_eq!(code(&answer), "upgrade_required");
}

#[tokio::test]
async fn at_the_stop_a_websocket_gets_1001_and_a_held_request_its_answer() {
    let core = Core::start(&[]);
    let mut socket = connect(&core).await;
    socket.send(Message::text("here")).await.unwrap();
    socket.next().await.unwrap().unwrap();

    let path = core.socket();
    let held = tokio::spawn(async move {
        crate::harness::ask(&path, hyper::Method::GET, "/healthz", &[]).await
    });
    // The echo after it proves that the held request was accepted before the stop.
    assert_eq!(core.get("/echo-path").await.status(), StatusCode::OK);
    core.stop.cancel();
    let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("not a close");
    };
    assert_eq!(frame.code, CloseCode::Away);
    core.reporter.report_ready();
    assert_eq!(held.await.unwrap().status(), StatusCode::OK);
    drop(socket);
    core.stopped().await;
}
