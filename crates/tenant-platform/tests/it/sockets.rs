//! platform-front's WebSocket echoes, and closes properly when the service stops.

use futures_util::{SinkExt as _, StreamExt as _};
use tokio::net::TcpStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::tungstenite::protocol::frame::coding::CloseCode;

use crate::world::Platform;

#[tokio::test]
async fn it_echoes_and_ends_with_1001() {
    let platform = Platform::start("demo").await;
    let stream = TcpStream::connect(platform.front).await.unwrap();
    let (mut socket, _) = client_async("ws://localhost/ws", stream).await.unwrap();
    socket.send(Message::text("hello")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("hello"));

    platform.stop.cancel();
    let Message::Close(Some(frame)) = socket.next().await.unwrap().unwrap() else {
        panic!("not a close");
    };
    assert_eq!(frame.code, CloseCode::Away);
    drop(socket);
    platform.stopped().await;
}
