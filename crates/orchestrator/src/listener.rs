//! A listener with a bound on its open connections.
//!
//! At the bound, a new connection takes the place of the one that has been silent for longest: no request is lost with a
//! connection on which no byte was ever received. Where no connection is silent, the new one waits.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};

use axum::serve::Listener;
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
    closed: Notify,
}

#[derive(Debug, Default)]
struct OpenConnections {
    count: usize,
    last_id: u64,
    /// Connections without a received byte, oldest first.
    silent: BTreeMap<u64, CancellationToken>,
}

pub struct EvictableStream {
    stream: TcpStream,
    /// `None` once a byte was received.
    eviction: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    slot: Slot,
}

/// Counts as one open connection until it is dropped.
struct Slot {
    id: u64,
    connections: Arc<Connections>,
}

impl EvictingListener {
    pub fn new(listener: TcpListener, limit: usize) -> Self {
        let connections = Connections { limit, open: Mutex::default(), closed: Notify::new() };
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
        self.lock().count
    }

    /// Waits for a free slot. Evicts the oldest silent connection where there is none.
    async fn acquire(self: &Arc<Self>) -> (Slot, CancellationToken) {
        loop {
            // Before the look: a connection that closes in between must not be missed.
            let closed = self.closed.notified();
            {
                let mut open = self.lock();
                if open.count < self.limit {
                    open.count += 1;
                    open.last_id += 1;
                    let (id, token) = (open.last_id, CancellationToken::new());
                    open.silent.insert(id, token.clone());
                    return (Slot { id, connections: self.clone() }, token);
                }
                if let Some((_, oldest)) = open.silent.pop_first() {
                    oldest.cancel();
                }
            }
            closed.await;
        }
    }

    fn on_first_byte(&self, id: u64) {
        self.lock().silent.remove(&id);
    }

    fn lock(&self) -> MutexGuard<'_, OpenConnections> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for Slot {
    fn drop(&mut self) {
        let mut open = self.connections.lock();
        open.count -= 1;
        open.silent.remove(&self.id);
        drop(open);
        self.connections.closed.notify_one();
    }
}

impl Listener for EvictingListener {
    type Io = EvictableStream;
    type Addr = SocketAddr;

    async fn accept(&mut self) -> (Self::Io, Self::Addr) {
        let (stream, address) = Listener::accept(&mut self.listener).await;
        let (slot, token) = self.connections.acquire().await;
        let eviction = Some(Box::pin(token.cancelled_owned()));
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
        let Some(eviction) = self.eviction.as_mut() else { return poll };
        if buffer.filled().len() > before {
            self.eviction = None;
            self.slot.connections.on_first_byte(self.slot.id);
        } else if poll.is_pending() && eviction.as_mut().poll(context).is_ready() {
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
