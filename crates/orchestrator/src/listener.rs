//! The listener of the API: a bound on its open connections, at which an idle one gives way.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use axum::body::Body;
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use service::connections::{ConnectionId, Connections, EvictableStream};
use tokio::net::{TcpListener, TcpStream};

pub struct EvictingListener {
    listener: TcpListener,
    connections: Arc<Connections>,
}

/// The connection of a request.
#[derive(Clone, Debug)]
pub struct RequestConnection(ConnectionId);

impl EvictingListener {
    pub fn new(listener: TcpListener, limit: usize) -> Self {
        Self { listener, connections: Connections::new(limit) }
    }

    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }
}

/// Middleware: keeps the connection of a request from eviction until the last byte of its response.
pub(crate) async fn track_request(
    ConnectInfo(RequestConnection(connection)): ConnectInfo<RequestConnection>,
    request: Request,
    next: Next,
) -> Response {
    let active = connection.begin_request();
    active.track(next.run(request).await).map(Body::new)
}

impl Connected<IncomingStream<'_, EvictingListener>> for RequestConnection {
    fn connect_info(stream: IncomingStream<'_, EvictingListener>) -> Self {
        Self(stream.io().connection())
    }
}

impl Listener for EvictingListener {
    type Io = EvictableStream<TcpStream>;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        (self.connections.admit(stream).await, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}
