//! A wire between app-api and Postgres that a test can cut and mend.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpSocket, UnixStream};
use tokio::task::{AbortHandle, JoinSet};

pub(crate) struct Wire {
    /// Bound and never listening: keeps the port ours, and refused, while the wire is cut.
    place: TcpSocket,
    socket: PathBuf,
    carrier: Arc<Mutex<Option<AbortHandle>>>,
}

impl Wire {
    /// Not carrying yet: a connect is refused.
    pub(crate) fn to(socket: impl Into<PathBuf>) -> Self {
        Self {
            place: bound(([127, 0, 0, 1], 0).into()),
            socket: socket.into(),
            carrier: Arc::default(),
        }
    }

    pub(crate) fn address(&self) -> SocketAddr {
        self.place.local_addr().unwrap()
    }

    pub(crate) fn mend(&self) {
        let listener = bound(self.address()).listen(64).unwrap();
        let socket = self.socket.clone();
        let carrier = tokio::spawn(async move {
            // Connections end with the task that holds them.
            let mut held = JoinSet::new();
            loop {
                let (mut near, _) = listener.accept().await.unwrap();
                let mut far = UnixStream::connect(&socket).await.unwrap();
                held.spawn(async move { copy_bidirectional(&mut near, &mut far).await });
            }
        });
        *self.carrier.lock().unwrap() = Some(carrier.abort_handle());
    }

    pub(crate) fn cut(&self) {
        if let Some(carrier) = self.carrier.lock().unwrap().take() {
            carrier.abort();
        }
    }
}

fn bound(address: SocketAddr) -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_reuseport(true).unwrap();
    socket.bind(address).unwrap();
    socket
}
