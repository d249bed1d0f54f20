//! Serves a router on a listener. At the bound of its connections an idle one gives way. A slow request head is cut off; a stop drains running requests for a bounded time.

use std::fs::{self, Permissions};
use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use axum::http::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use service::connections::Connections;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt as _;

const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(50);
const HEAD_TIMEOUT: Duration = Duration::from_secs(10);
/// Running requests finish within this time, like in the router. `stop_grace_period` in compose.yml is longer.
const DRAIN_TIMEOUT: Duration = Duration::from_secs(30);

/// A socket that accepts connections.
pub trait Listener: Send + Sync + 'static {
    type Stream: AsyncRead + AsyncWrite + Unpin + Send + 'static;
    /// The address of the client, for [`ConnectInfo`].
    type Peer: Clone + Send + Sync + 'static;

    /// # Errors
    /// The system's own.
    fn accept(&self) -> impl Future<Output = io::Result<(Self::Stream, Self::Peer)>> + Send;
}

impl Listener for TcpListener {
    type Stream = TcpStream;
    type Peer = SocketAddr;

    async fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        Self::accept(self).await
    }
}

impl Listener for UnixListener {
    type Stream = UnixStream;
    /// A client of a unix socket has no address.
    type Peer = ();

    async fn accept(&self) -> io::Result<(UnixStream, ())> {
        Self::accept(self).await.map(|(stream, _)| (stream, ()))
    }
}

/// Makes a unix socket, also where that of an earlier process is left.
///
/// # Errors
/// The system's own.
pub fn bind_unix(path: &Path, mode: u32) -> io::Result<UnixListener> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let listener = UnixListener::bind(path)?;
    fs::set_permissions(path, Permissions::from_mode(mode))?;
    Ok(listener)
}

pub async fn listen<L: Listener>(
    listener: L,
    connections: Arc<Connections>,
    router: Router,
    stop: CancellationToken,
) {
    let serving = TaskTracker::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, peer) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // The process is most likely out of descriptors: wait until other connections close.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
                continue;
            }
        };
        let stream = tokio::select! {
            () = stop.cancelled() => break,
            stream = connections.admit(stream) => stream,
        };
        let (router, connection) = (router.clone(), stream.connection());
        let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
            request.extensions_mut().insert(ConnectInfo(peer.clone()));
            let active = connection.clone().begin_request();
            let response = router.clone().oneshot(request);
            async move { response.await.map(|response| active.track(response)) }
        });
        let connection = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(HEAD_TIMEOUT)
            .serve_connection(TokioIo::new(stream), service)
            .with_upgrades();
        let stopping = stop.clone();
        serving.spawn(async move {
            let mut connection = pin!(connection);
            let served = tokio::select! {
                served = connection.as_mut() => served,
                () = stopping.cancelled() => {
                    connection.as_mut().graceful_shutdown();
                    connection.await
                }
            };
            if let Err(error) = served {
                tracing::debug!(%error, "connection ended early");
            }
        });
    }
    // New clients must be refused at once instead of waiting in the backlog until the drain ends.
    drop(listener);
    serving.close();
    let _ = tokio::time::timeout(DRAIN_TIMEOUT, serving.wait()).await;
}
