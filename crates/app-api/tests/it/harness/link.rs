//! A network link between app-api and Postgres that a test can cut and restore.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpSocket, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

pub(crate) struct NetworkLink {
    /// Bound and never listening: reserves the port and refuses connections while the link is cut.
    reserved: TcpSocket,
    socket: PathBuf,
    forwarder: Arc<Mutex<Option<AbortHandle>>>,
}

impl NetworkLink {
    /// The link starts cut: connections are refused.
    pub(crate) fn to(socket: impl Into<PathBuf>) -> Self {
        Self {
            reserved: bound(([127, 0, 0, 1], 0).into()),
            socket: socket.into(),
            forwarder: Arc::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.reserved.local_addr().unwrap()
    }

    pub(crate) fn restore(&self) {
        let listener = bound(self.address()).listen(64).unwrap();
        let socket = self.socket.clone();
        let forwarder = tokio::spawn(async move {
            // Connections end with the task that holds them.
            let mut held = JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut postgres = UnixStream::connect(&socket).await.unwrap();
                held.spawn(async move { copy_bidirectional(&mut client, &mut postgres).await });
            }
        });
        *self.forwarder.lock().unwrap() = Some(forwarder.abort_handle());
    }

    pub(crate) fn cut(&self) {
        if let Some(forwarder) = self.forwarder.lock().unwrap().take() {
            forwarder.abort();
        }
    }
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}
