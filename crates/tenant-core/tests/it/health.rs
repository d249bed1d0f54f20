//! Health answers once PID 1 has reported that all services are ready; an earlier request waits.

use futures_util::{SinkExt as _, StreamExt as _};
use hyper::StatusCode;
use tokio::net::UnixStream;
use tokio_tungstenite::client_async;
use tokio_tungstenite::tungstenite::Message;

use crate::harness::{Core, MAX_CONNECTIONS, code};

#[tokio::test]
async fn an_early_question_is_answered_when_all_are_ready() {
    let core = Core::start(&[]);
    let early = tokio::join!(core.get("/healthz"), async {
        // The response arrives while the other request waits: core-back itself is up.
        assert_eq!(core.get("/echo-path").await.status(), StatusCode::OK);
        core.reporter.report_ready();
    });
    assert_eq!(early.0.status(), StatusCode::OK);
    let version = env!("CARGO_PKG_VERSION");
    let want = format!(r#"{{"status":"ok","tenant":"acme","version":"{version}"}}"#);
    assert_eq!(*early.0.body(), want);
    assert_eq!(*core.get("/health").await.body(), want);
}

#[tokio::test(start_paused = true)]
async fn a_tenant_that_never_gets_ready_says_so_in_the_end() {
    let core = Core::start(&[]);
    let answer = core.get("/healthz").await;
    assert_eq!(answer.status(), StatusCode::SERVICE_UNAVAILABLE);
    assert_eq!(code(&answer), "not_ready");
}

/// Silent connections make room for new ones. The service evicts no connection with a WebSocket under way.
#[tokio::test]
async fn silent_connections_beyond_the_bound_leave_room_for_requests() {
    let core = Core::start(&[]);
    let stream = UnixStream::connect(core.socket()).await.unwrap();
    let (mut socket, _) = client_async("ws://acme.localhost/ws", stream).await.unwrap();
    let mut silent = Vec::new();
    for _ in 0..2 * MAX_CONNECTIONS {
        silent.push(UnixStream::connect(core.socket()).await.unwrap());
    }
    assert_eq!(core.get("/echo-path").await.status(), StatusCode::OK);
    socket.send(Message::text("still here")).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap(), Message::text("still here"));
}
