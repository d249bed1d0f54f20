//! A network link between app-api and Postgres that a test can cut, stall and restore.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::{TcpSocket, UnixStream};
use tokio::sync::watch;
use tokio::task::{AbortHandle, JoinSet};

pub(crate) struct NetworkLink {
    /// Bound and never listening: reserves the port and refuses connections while the link is cut.
    reserved: TcpSocket,
    socket: PathBuf,
    forwarder: Arc<Mutex<Option<AbortHandle>>>,
    stalled: watch::Sender<bool>,
}

impl NetworkLink {
    /// The link starts cut: connections are refused.
    pub(crate) fn to(socket: impl Into<PathBuf>) -> Self {
        Self {
            reserved: bound(([127, 0, 0, 1], 0).into()),
            socket: socket.into(),
            forwarder: Arc::default(),
            stalled: watch::Sender::new(false),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.reserved.local_addr().unwrap()
    }

    pub(crate) fn restore(&self) {
        let listener = bound(self.address()).listen(64).unwrap();
        let (socket, stalled) = (self.socket.clone(), self.stalled.clone());
        let forwarder = tokio::spawn(async move {
            // Connections end with the task that holds them.
            let mut held = JoinSet::new();
            loop {
                let (client, _) = listener.accept().await.unwrap();
                let postgres = UnixStream::connect(&socket).await.unwrap();
                let (client_read, client_write) = client.into_split();
                let (postgres_read, postgres_write) = postgres.into_split();
                held.spawn(forward(client_read, postgres_write, stalled.subscribe()));
                held.spawn(forward(postgres_read, client_write, stalled.subscribe()));
            }
        });
        *self.forwarder.lock().unwrap() = Some(forwarder.abort_handle());
    }

    pub(crate) fn cut(&self) {
        if let Some(forwarder) = self.forwarder.lock().unwrap().take() {
            forwarder.abort();
        }
    }

    /// Connections stay open and carry nothing more, like to a server that vanished.
    pub(crate) fn stall(&self) {
        self.stalled.send_replace(true);
    }
}

async fn forward(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut stalled: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let _ = stalled.wait_for(|stalled| !*stalled).await;
        if to.write_all(&buffer[..length]).await.is_err() {
            return;
        }
    }
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}
