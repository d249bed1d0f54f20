//! A listener with a bound on its open connections.
//!
//! At the bound, a new connection takes the place of an idle one: a connection without a request under way, and of these
//! the one that has been silent for longest. No request is lost with it. Where no connection is idle, the new one waits.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::body::{Body, Bytes};
use axum::extract::connect_info::Connected;
use axum::extract::{ConnectInfo, Request};
use axum::middleware::Next;
use axum::response::Response;
use axum::serve::{IncomingStream, Listener};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

pub struct EvictingListener {
    listener: TcpListener,
    connections: Arc<Connections>,
}

/// The open connections of one listener.
#[derive(Debug)]
pub struct Connections {
    limit: usize,
    open: Mutex<OpenConnections>,
    /// A connection closed or became idle.
    changed: Notify,
}

#[derive(Debug, Default)]
struct OpenConnections {
    last_id: u64,
    by_id: HashMap<u64, OpenConnection>,
    last_place: u64,
    /// Idle connections by their place in line; the first one has been silent for longest.
    idle: BTreeMap<u64, u64>,
}

#[derive(Debug)]
struct OpenConnection {
    eviction: CancellationToken,
    /// Requests whose response is not finished.
    requests: usize,
    /// The key in [`OpenConnections::idle`], if it is idle and not evicted.
    place: Option<u64>,
}

pub struct EvictableStream {
    stream: TcpStream,
    eviction: Pin<Box<WaitForCancellationFutureOwned>>,
    slot: Slot,
}

/// Counts as one open connection until it is dropped.
#[derive(Debug)]
struct Slot {
    id: u64,
    connections: Arc<Connections>,
}

/// Identifies the connection of a request.
#[derive(Clone, Debug)]
pub struct ConnectionId {
    id: u64,
    connections: Arc<Connections>,
}

/// A request under way; its connection is not evicted until this is dropped.
struct ActiveRequest(ConnectionId);

impl EvictingListener {
    pub fn new(listener: TcpListener, limit: usize) -> Self {
        let connections = Connections { limit, open: Mutex::default(), changed: Notify::new() };
        Self { listener, connections: Arc::new(connections) }
    }

    pub fn connections(&self) -> Arc<Connections> {
        self.connections.clone()
    }
}

impl Connections {
    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn current(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Waits for a free slot. Evicts the connection that has been idle for longest where there is none.
    async fn acquire(self: &Arc<Self>) -> (Slot, CancellationToken) {
        loop {
            // Before the look: a change in between must not be missed.
            let changed = self.changed.notified();
            {
                let mut open = self.lock();
                if open.by_id.len() < self.limit {
                    let (id, eviction) = open.insert();
                    return (Slot { id, connections: self.clone() }, eviction);
                }
                open.evict_longest_idle();
            }
            changed.await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl OpenConnections {
    fn insert(&mut self) -> (u64, CancellationToken) {
        self.last_id += 1;
        let (id, eviction) = (self.last_id, CancellationToken::new());
        let connection = OpenConnection { eviction: eviction.clone(), requests: 0, place: None };
        self.by_id.insert(id, connection);
        self.join_idle(id);
        (id, eviction)
    }

    /// Puts an idle connection at the end of the line. An evicted connection does not return.
    fn join_idle(&mut self, id: u64) {
        let Some(connection) = self.by_id.get_mut(&id) else { return };
        if connection.requests > 0 || connection.eviction.is_cancelled() {
            return;
        }
        self.last_place += 1;
        if let Some(place) = connection.place.replace(self.last_place) {
            self.idle.remove(&place);
        }
        self.idle.insert(self.last_place, id);
    }

    fn begin_request(&mut self, id: u64) {
        let Some(connection) = self.by_id.get_mut(&id) else { return };
        connection.requests += 1;
        if let Some(place) = connection.place.take() {
            self.idle.remove(&place);
        }
    }

    fn end_request(&mut self, id: u64) {
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.requests = connection.requests.saturating_sub(1);
            self.join_idle(id);
        }
    }

    fn remove(&mut self, id: u64) {
        let place = self.by_id.remove(&id).and_then(|connection| connection.place);
        if let Some(place) = place {
            self.idle.remove(&place);
        }
    }

    fn evict_longest_idle(&mut self) {
        let Some((_, id)) = self.idle.pop_first() else { return };
        if let Some(connection) = self.by_id.get_mut(&id) {
            connection.place = None;
            connection.eviction.cancel();
        }
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        self.connections.lock().remove(self.id);
        self.connections.changed.notify_one();
    }
}

impl ActiveRequest {
    fn new(connection: ConnectionId) -> Self {
        connection.connections.lock().begin_request(connection.id);
        Self(connection)
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let ConnectionId { id, connections } = &self.0;
        connections.lock().end_request(*id);
        connections.changed.notify_one();
    }
}

/// Middleware: keeps the connection of a request from eviction until the last byte of its response.
pub(crate) async fn track_request(
    ConnectInfo(connection): ConnectInfo<ConnectionId>,
    request: Request,
    next: Next,
) -> Response {
    let active = ActiveRequest::new(connection);
    let response = next.run(request).await;
    response.map(|body| Body::new(TrackedBody { body, _active: active }))
}

struct TrackedBody {
    body: Body,
    _active: ActiveRequest,
}

impl http_body::Body for TrackedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl Connected<IncomingStream<'_, EvictingListener>> for ConnectionId {
    fn connect_info(stream: IncomingStream<'_, EvictingListener>) -> Self {
        let Slot { id, connections } = &stream.io().slot;
        Self { id: *id, connections: connections.clone() }
    }
}

impl Listener for EvictingListener {
    type Io = EvictableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let (slot, eviction) = self.connections.acquire().await;
        let eviction = Box::pin(eviction.cancelled_owned());
        (EvictableStream { stream, eviction, slot }, address)
    }

    fn local_addr(&self) -> io::Result<Self::Addr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for EvictableStream {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            self.slot.connections.lock().join_idle(self.slot.id);
        } else if poll.is_pending() && self.eviction.as_mut().poll(context).is_ready() {
            // The end of input: the server closes the connection.
            return Poll::Ready(Ok(()));
        }
        poll
    }
}

impl AsyncWrite for EvictableStream {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        pieces: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, pieces)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
