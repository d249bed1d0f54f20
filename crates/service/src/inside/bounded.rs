//! A listener for peers that are not trusted: a few connections at once, each for a short time.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Sleep;

use super::serve::Listener;

/// Whoever comes while all seats are taken waits in the listener's own queue.
pub struct Bounded<L> {
    listener: L,
    seats: Arc<Semaphore>,
    longest: Duration,
}

/// A connection that has a seat, until it ends or its time is up.
pub struct Seated<S> {
    stream: S,
    until: Pin<Box<Sleep>>,
    _seat: OwnedSemaphorePermit,
}

impl<L> Bounded<L> {
    /// At most `seats` connections at once, each for at most `longest`.
    pub fn new(listener: L, seats: usize, longest: Duration) -> Self {
        Self { listener, seats: Arc::new(Semaphore::new(seats)), longest }
    }
}

impl<L: Listener + Sync> Listener for Bounded<L> {
    type Stream = Seated<L::Stream>;

    async fn accept(&self) -> io::Result<Self::Stream> {
        let seat = self.seats.clone().acquire_owned().await.map_err(io::Error::other)?;
        let stream = self.listener.accept().await?;
        Ok(Seated { stream, until: Box::pin(tokio::time::sleep(self.longest)), _seat: seat })
    }
}

impl<S> Seated<S> {
    /// An error once the time is up, whatever the peer does or does not do.
    fn is_in_time(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.until.as_mut().poll(cx) {
            Poll::Pending => Ok(()),
            Poll::Ready(()) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Seated<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.is_in_time(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Seated<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        from: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.is_in_time(cx)?;
        Pin::new(&mut self.stream).poll_write(cx, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.is_in_time(cx)?;
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

    /// Every accept brings another connection whose peer is silent.
    struct Silent(std::sync::Mutex<Vec<DuplexStream>>);

    impl Listener for Silent {
        type Stream = DuplexStream;

        async fn accept(&self) -> io::Result<DuplexStream> {
            let (near, far) = duplex(16);
            self.0.lock().unwrap().push(far);
            Ok(near)
        }
    }

    fn bounded() -> Bounded<Silent> {
        Bounded::new(Silent(std::sync::Mutex::default()), 2, Duration::from_secs(10))
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_has_no_seat_waits_for_one() {
        let bounded = bounded();
        let first = bounded.accept().await.unwrap();
        let _second = bounded.accept().await.unwrap();
        let third = tokio::time::timeout(Duration::from_secs(5), bounded.accept()).await;
        assert!(third.is_err(), "a third seat");
        drop(first);
        bounded.accept().await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_peer_that_says_nothing_and_reads_nothing_is_cut_off() {
        let bounded = bounded();
        let mut seated = bounded.accept().await.unwrap();
        let read = seated.read(&mut [0; 4]).await.unwrap_err();
        assert_eq!(read.kind(), io::ErrorKind::TimedOut);
        let mut seated = bounded.accept().await.unwrap();
        let written = seated.write_all(&[0; 64]).await.unwrap_err();
        assert_eq!(written.kind(), io::ErrorKind::TimedOut);
    }
}
