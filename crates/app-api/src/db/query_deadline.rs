//! Bounds what Postgres sends on the wire: a query without a reply fails its connection after the deadline, and so does one
//! whose reply is too long.
//!
//! The statement timeout is the server's; a server that vanished or stopped enforces nothing. A tenant can make rows of any
//! size of its own tables, whatever a query asks for.

use std::io::{self, ErrorKind};
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};

/// `ReadyForQuery` with its length and any status: the last bytes of each reply (Postgres protocol 3.0, §53.7).
const READY_FOR_QUERY: &[u8; 5] = b"Z\0\0\0\x05";

/// The bounds of one reply.
#[derive(Clone, Copy, Debug)]
pub(super) struct ReplyBounds {
    pub(super) deadline: Duration,
    pub(super) max_bytes: usize,
}

pub(super) struct DeadlineStream<S> {
    stream: S,
    bounds: ReplyBounds,
    /// The bytes that were read since the last write.
    read_bytes: usize,
    /// Runs from the first write of a query to the end of its reply.
    timer: Option<Pin<Box<Sleep>>>,
    tail: ReplyTail,
}

impl<S> DeadlineStream<S> {
    pub(super) fn new(stream: S, bounds: ReplyBounds) -> Self {
        Self { stream, bounds, read_bytes: 0, timer: None, tail: ReplyTail::default() }
    }
}

/// The last six bytes of what was read, to recognise the end of a reply across reads.
#[derive(Debug, Default)]
struct ReplyTail([u8; 6]);

impl ReplyTail {
    fn push(&mut self, bytes: &[u8]) {
        for byte in &bytes[bytes.len().saturating_sub(6)..] {
            self.0.rotate_left(1);
            self.0[5] = *byte;
        }
    }

    fn is_ready_for_query(&self) -> bool {
        self.0.starts_with(READY_FOR_QUERY) && matches!(self.0[5], b'I' | b'T' | b'E')
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for DeadlineStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let this = &mut *self;
        match Pin::new(&mut this.stream).poll_read(cx, buffer) {
            Poll::Ready(Ok(())) => {
                let new = &buffer.filled()[before..];
                this.tail.push(new);
                this.read_bytes = this.read_bytes.saturating_add(new.len());
                if this.read_bytes > this.bounds.max_bytes {
                    let text = format!(
                        "a reply of Postgres has more than {} bytes",
                        this.bounds.max_bytes
                    );
                    return Poll::Ready(Err(io::Error::new(ErrorKind::InvalidData, text)));
                }
                if this.tail.is_ready_for_query() {
                    this.timer = None;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => {
                let timer = this.timer.as_mut().map(|timer| timer.as_mut().poll(cx));
                match timer {
                    Some(Poll::Ready(())) => {
                        let text =
                            format!("Postgres did not reply within {:?}", this.bounds.deadline);
                        Poll::Ready(Err(io::Error::new(ErrorKind::TimedOut, text)))
                    }
                    Some(Poll::Pending) | None => Poll::Pending,
                }
            }
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for DeadlineStream<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.timer.is_none() {
            let mut timer = Box::pin(sleep(self.bounds.deadline));
            // Registers the waker: the connection's task reads only after a wake-up.
            let _ = timer.as_mut().poll(cx);
            self.timer = Some(timer);
        }
        self.read_bytes = 0;
        Pin::new(&mut self.stream).poll_write(cx, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _, duplex};

    use super::*;

    #[test]
    fn the_end_of_a_reply_is_recognised_across_reads() {
        let mut tail = ReplyTail::default();
        for (bytes, is_ready) in [
            (&b"D\0\0\0\x0b\0\x01\0\0\0\x01x"[..], false),
            (b"C\0\0\0\rSELECT 1\0Z\0\0", false),
            (b"\0\x05", false),
            (b"T", true),
            (b"N", false),
        ] {
            tail.push(bytes);
            assert_eq!(tail.is_ready_for_query(), is_ready, "{bytes:?}");
        }
    }

    fn bounds(max_bytes: usize) -> ReplyBounds {
        ReplyBounds { deadline: Duration::from_secs(20), max_bytes }
    }

    #[tokio::test(start_paused = true)]
    async fn a_reply_that_is_too_long_fails_and_each_query_begins_anew() {
        let (client, mut server) = duplex(64);
        let mut client = DeadlineStream::new(client, bounds(10));
        let mut reply = [0; 10];
        for _ in 0..3 {
            client.write_all(b"query").await.unwrap();
            server.write_all(&[7; 10]).await.unwrap();
            client.read_exact(&mut reply).await.unwrap();
        }
        server.write_all(&[7]).await.unwrap();
        let error = client.read(&mut reply).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
    }

    #[tokio::test(start_paused = true)]
    async fn a_query_without_a_reply_fails_and_an_idle_connection_does_not() {
        let (client, mut server) = duplex(64);
        let mut client = DeadlineStream::new(client, bounds(6));
        let mut reply = [0; 6];
        client.write_all(b"query").await.unwrap();
        server.write_all(b"Z\0\0\0\x05I").await.unwrap();
        client.read_exact(&mut reply).await.unwrap();
        let idle = tokio::time::timeout(Duration::from_secs(3_600), client.read(&mut reply)).await;
        assert!(idle.is_err(), "an idle connection waits");
        client.write_all(b"query").await.unwrap();
        let error = client.read(&mut reply).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TimedOut);
    }
}
