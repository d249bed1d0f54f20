//! A listener for untrusted peers: a bounded number of connections, each for a bounded time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use crate::serve::Listener;

/// Limits the connections of a listener. Further peers wait in the backlog of the socket.
pub struct BoundedListener<L> {
    listener: L,
    permits: Arc<Semaphore>,
    max_duration: Duration,
}

/// A connection that holds a permit and fails once its time is up.
pub struct BoundedConnection<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
    _permit: OwnedSemaphorePermit,
}

impl<L> BoundedListener<L> {
    /// Allows `max_connections` at once, each for at most `max_duration`.
    pub fn new(listener: L, max_connections: usize, max_duration: Duration) -> Self {
        Self { listener, permits: Arc::new(Semaphore::new(max_connections)), max_duration }
    }
}

impl<L: Listener + Sync> Listener for BoundedListener<L> {
    type Stream = BoundedConnection<L::Stream>;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let permit = self.permits.clone().acquire_owned().await.map_err(io::Error::other)?;
        let stream = self.listener.accept().await?;
        let deadline = Box::pin(tokio::time::sleep(self.max_duration));
        Ok(BoundedConnection { stream, deadline, _permit: permit })
    }
}

impl<S> BoundedConnection<S> {
    /// # Errors
    /// `TimedOut` once the deadline has passed, whether or not the peer sends or reads.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for BoundedConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for BoundedConnection<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.check_deadline(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.stream).poll_shutdown(cx))?;
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream, duplex};

    use super::*;

    /// Each accept returns a connection whose peer sends nothing.
    struct SilentPeers(std::sync::Mutex<Vec<DuplexStream>>);

    impl Listener for SilentPeers {
        type Stream = DuplexStream;

        async fn accept(&self) -> io::Result<DuplexStream> {
            let (near, far) = duplex(16);
            self.0.lock().unwrap().push(far);
            Ok(near)
        }
    }

    fn bounded() -> BoundedListener<SilentPeers> {
        BoundedListener::new(SilentPeers(std::sync::Mutex::default()), 2, Duration::from_secs(10))
    }

    #[tokio::test(start_paused = true)]
    async fn an_accept_over_the_limit_waits_for_a_free_permit() {
        let bounded = bounded();
        let first = bounded.accept().await.unwrap();
        let _second = bounded.accept().await.unwrap();
        let third = tokio::time::timeout(Duration::from_secs(5), bounded.accept()).await;
        assert!(third.is_err(), "a third connection");
        drop(first);
        bounded.accept().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_neither_sends_nor_reads_is_disconnected() {
        let bounded = bounded();
        let mut connection = bounded.accept().await.unwrap();
        let read = connection.read(&mut [0; 4]).await.unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::TimedOut);
        let mut connection = bounded.accept().await.unwrap();
        let written = connection.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(written.kind(), io::ErrorKind::TimedOut);
    }
}
