//! After the stop the edge accepts no connection and finishes the requests in progress.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::raw::Response;
use crate::world::Tenant;

#[tokio::test]
async fn a_request_under_way_is_finished() {
    let tenant = Tenant::open().await;
    let mut stream = TcpStream::connect(tenant.tcp).await.unwrap();
    let head = "POST /x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\n";
    // The platform responds to the head alone. The first byte of the response proves that the edge
    // has the head.
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut response = vec![0; 1];
    stream.read_exact(&mut response).await.unwrap();
    tenant.stop.cancel();
    stream.write_all(b"body").await.unwrap();
    stream.read_to_end(&mut response).await.unwrap();
    assert_eq!(Response::read(&response).json()["by"], "platform");
    tenant.ended().await;
}

#[tokio::test]
async fn a_websocket_of_an_app_that_does_not_end_gets_1001() {
    let tenant = Tenant::open().await;
    let stream = TcpStream::connect(tenant.tcp).await.unwrap();
    let (mut socket, _) = client_async("ws://acme.localhost/ws", stream).await.unwrap();
    socket.send(Message::text("here")).await.unwrap();
    socket.next().await.unwrap().unwrap();
    tenant.stop.cancel();
    let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("not a close");
    };
    assert_eq!(frame.code, CloseCode::Away);
    drop(socket);
    tenant.ended().await;
}
