//! A listener for untrusted peers: each connection lasts for a bounded time.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

use crate::serve::Listener;

/// Limits the time of each connection of a listener.
pub struct TimedListener<L> {
    listener: L,
    max_duration: Duration,
}

/// A connection that fails once its time is up.
pub struct TimedConnection<S> {
    stream: S,
    deadline: Pin<Box<Sleep>>,
}

impl<L> TimedListener<L> {
    /// Allows each connection `max_duration`.
    pub fn new(listener: L, max_duration: Duration) -> Self {
        Self { listener, max_duration }
    }
}

impl<L: Listener + Sync> Listener for TimedListener<L> {
    type Stream = TimedConnection<L::Stream>;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let stream = self.listener.accept().await?;
        let deadline = Box::pin(tokio::time::sleep(self.max_duration));
        Ok(TimedConnection { stream, deadline })
    }
}

impl<S> TimedConnection<S> {
    /// # Errors
    /// `TimedOut` once the deadline has passed, whether or not the peer sends or reads.
    fn check_deadline(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.deadline.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for TimedConnection<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check_deadline(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for TimedConnection<S> {
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

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_neither_sends_nor_reads_is_disconnected() {
        let peers = SilentPeers(std::sync::Mutex::default());
        let timed = TimedListener::new(peers, Duration::from_secs(10));
        let mut connection = timed.accept().await.unwrap();
        let read = connection.read(&mut [0; 4]).await.unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::TimedOut);
        let mut connection = timed.accept().await.unwrap();
        let written = connection.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(written.kind(), io::ErrorKind::TimedOut);
    }
}
