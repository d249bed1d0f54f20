//! The bound on the open connections of a listener.
//!
//! At the bound, a new connection takes the place of an idle one: a connection without a request under way, and of these
//! the one that has been silent for longest. No request is lost with it. Where no connection is idle, the new one waits.

use std::collections::{BTreeMap, HashMap};
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use http::{Response, StatusCode};
use http_body::{Frame, SizeHint};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

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

/// A stream that counts as one open connection until it is dropped, and ends when it is evicted.
pub struct EvictableStream<S> {
    stream: S,
    eviction: Pin<Box<WaitForCancellationFutureOwned>>,
    slot: Slot,
}

/// Holds a place among the open connections until it is dropped.
#[derive(Debug)]
struct Slot(ConnectionId);

/// Identifies the connection of a request.
#[derive(Clone, Debug)]
pub struct ConnectionId {
    id: u64,
    connections: Arc<Connections>,
}

/// A request under way; its connection is not evicted until this is dropped.
pub struct ActiveRequest(ConnectionId);

/// A response body that keeps its connection from eviction until its last byte.
pub struct TrackedBody<B> {
    body: B,
    _active: ActiveRequest,
}

impl Connections {
    /// Allows `limit` connections at once.
    pub fn new(limit: usize) -> Arc<Self> {
        Arc::new(Self { limit, open: Mutex::default(), changed: Notify::new() })
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    pub fn current(&self) -> usize {
        self.lock().by_id.len()
    }

    /// Waits for a free place for `stream`. Evicts the connection that has been idle for longest where there is none.
    pub async fn admit<S>(self: &Arc<Self>, stream: S) -> EvictableStream<S> {
        loop {
            // Before the look: a change in between must not be missed.
            let changed = self.changed.notified();
            {
                let mut open = self.lock();
                if open.by_id.len() < self.limit {
                    let (id, eviction) = open.insert();
                    let slot = Slot(ConnectionId { id, connections: self.clone() });
                    let eviction = Box::pin(eviction.cancelled_owned());
                    return EvictableStream { stream, eviction, slot };
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
        let ConnectionId { id, connections } = &self.0;
        connections.lock().remove(*id);
        connections.changed.notify_one();
    }
}

impl ConnectionId {
    fn has_requests(&self) -> bool {
        self.connections.lock().by_id.get(&self.id).is_some_and(|open| open.requests > 0)
    }

    /// Keeps the connection from eviction until the last byte of the response.
    pub fn begin_request(self) -> ActiveRequest {
        self.connections.lock().begin_request(self.id);
        ActiveRequest(self)
    }
}

impl ActiveRequest {
    /// Ends the request with the response's last byte. A connection that is upgraded stays in use until it closes.
    pub fn track<B>(self, response: Response<B>) -> Response<TrackedBody<B>> {
        if response.status() == StatusCode::SWITCHING_PROTOCOLS {
            self.0.connections.lock().begin_request(self.0.id);
        }
        response.map(|body| TrackedBody { body, _active: self })
    }
}

impl Drop for ActiveRequest {
    fn drop(&mut self) {
        let ConnectionId { id, connections } = &self.0;
        connections.lock().end_request(*id);
        connections.changed.notify_one();
    }
}

impl<B: http_body::Body + Unpin> http_body::Body for TrackedBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

impl<S> EvictableStream<S> {
    pub fn connection(&self) -> ConnectionId {
        self.slot.0.clone()
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for EvictableStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let poll = Pin::new(&mut self.stream).poll_read(context, buffer);
        if buffer.filled().len() > before {
            let ConnectionId { id, connections } = &self.slot.0;
            connections.lock().join_idle(*id);
        } else if poll.is_pending()
            && self.eviction.as_mut().poll(context).is_ready()
            && !self.slot.0.has_requests()
        {
            // The end of input: the server closes the connection. With a request that arrived just before the eviction,
            // the server reads on after the response; until then the end would count as the client's, and cancel it.
            return Poll::Ready(Ok(()));
        }
        poll
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for EvictableStream<S> {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, DuplexStream, duplex};
    use tokio::time::{Duration, timeout};

    use super::*;

    type TestStream = EvictableStream<DuplexStream>;

    /// Returns whether the server would read the end of input.
    async fn is_evicted(stream: &mut TestStream) -> bool {
        timeout(Duration::from_secs(60), stream.read(&mut [0])).await.is_ok()
    }

    #[tokio::test(start_paused = true)]
    async fn the_longest_idle_connection_gives_way_and_an_active_or_upgraded_one_stays() {
        let connections = Connections::new(3);
        // The other ends stay open.
        let mut clients = Vec::new();
        let mut stream = || {
            let (near, far) = duplex(16);
            clients.push(far);
            near
        };
        let mut active = connections.admit(stream()).await;
        let mut upgraded = connections.admit(stream()).await;
        let request = active.connection().begin_request();
        let response = upgraded
            .connection()
            .begin_request()
            .track(Response::builder().status(StatusCode::SWITCHING_PROTOCOLS).body("").unwrap());
        drop(response);
        let mut idle = connections.admit(stream()).await;
        assert_eq!((connections.current(), connections.limit()), (3, 3));

        let admitting = connections.clone();
        let (fourth, fifth) = (stream(), stream());
        let waiting = tokio::spawn(async move { admitting.admit(fourth).await });
        assert!(is_evicted(&mut idle).await);
        drop(idle);
        let mut fourth = waiting.await.unwrap();
        assert!(!is_evicted(&mut active).await && !is_evicted(&mut upgraded).await);

        // A finished request makes its connection idle; the fourth has been so for longer.
        drop(request);
        let admitting = connections.clone();
        let waiting = tokio::spawn(async move { admitting.admit(fifth).await });
        assert!(is_evicted(&mut fourth).await);
        drop(fourth);
        waiting.await.unwrap();
        assert!(!is_evicted(&mut upgraded).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_arrived_before_the_eviction_is_not_cut_off() {
        let connections = Connections::new(1);
        let (near, _far) = duplex(16);
        let mut stream = connections.admit(near).await;
        let admitting = connections.clone();
        let waiting = tokio::spawn(async move { admitting.admit(duplex(16).0).await });
        while !connections.lock().idle.is_empty() {
            tokio::task::yield_now().await;
        }
        let request = stream.connection().begin_request();
        assert!(!is_evicted(&mut stream).await, "the request is under way");
        drop(request);
        assert!(is_evicted(&mut stream).await);
        drop(stream);
        waiting.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_new_connection_waits_while_all_are_active() {
        let connections = Connections::new(1);
        let active = connections.admit(duplex(16).0).await;
        let request = active.connection().begin_request();
        let waiting = timeout(Duration::from_secs(60), connections.admit(duplex(16).0)).await;
        assert!(waiting.is_err(), "a second connection");
        drop((request, active));
        connections.admit(duplex(16).0).await;
    }
}
