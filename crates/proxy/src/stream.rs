//! The two kinds of socket, as one.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::buffers::Buf;

/// A listening socket, set not to block.
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// Where an upstream is reached.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// One upstream for as long as it is the same one: idle connections are kept and used again by this identity,
/// never by address. Make a new one when what answers there may be another process.
#[derive(Debug)]
pub struct Upstream {
    pub(crate) id: u64,
    pub(crate) address: Address,
}

impl Upstream {
    pub fn new(address: Address) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self { id: NEXT.fetch_add(1, Ordering::Relaxed), address }
    }

    pub fn unix(path: impl Into<PathBuf>) -> Self {
        Self::new(Address::Unix(path.into()))
    }

    pub fn tcp(address: impl Into<String>) -> Self {
        Self::new(Address::Tcp(address.into()))
    }

    pub fn address(&self) -> &Address {
        &self.address
    }
}

/// A connection with a client or an upstream.
pub(crate) enum Stream {
    Tcp(TcpStream),
    Unix(UnixStream),
}

pub(crate) enum ReadHalf<'a> {
    Tcp(tcp::ReadHalf<'a>),
    Unix(unix::ReadHalf<'a>),
}

pub(crate) enum WriteHalf<'a> {
    Tcp(tcp::WriteHalf<'a>),
    Unix(unix::WriteHalf<'a>),
}

impl Stream {
    pub(crate) async fn connect(address: &Address) -> io::Result<Self> {
        match address {
            Address::Unix(path) => loop {
                match UnixStream::connect(path).await {
                    Ok(stream) => return Ok(Self::Unix(stream)),
                    // Its queue is full (it may be frozen): there is no event to wait for.
                    Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                        tokio::time::sleep(Duration::from_millis(5)).await;
                    }
                    Err(error) => return Err(error),
                }
            },
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    pub(crate) fn split(&mut self) -> (ReadHalf<'_>, WriteHalf<'_>) {
        match self {
            Self::Tcp(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Tcp(read), WriteHalf::Tcp(write))
            }
            Self::Unix(stream) => {
                let (read, write) = stream.split();
                (ReadHalf::Unix(read), WriteHalf::Unix(write))
            }
        }
    }

    /// Whether an idle connection still stands and has nothing to say that nobody asked for.
    pub(crate) fn is_quiet(&self) -> bool {
        // The kernel is asked only if the runtime has heard of something.
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    /// The same, asked of the kernel: what the runtime has not noticed yet counts, too.
    pub(crate) fn is_surely_quiet(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(s) => SockRef::from(s).peek(&mut byte),
            Self::Unix(s) => SockRef::from(s).peek(&mut byte),
        };
        peeked.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Waits until the other end sends no more, without reading what it sent before.
    pub(crate) async fn closed(&self) {
        // Of what a socket may be ready for, the end of reading is the only thing that satisfies this interest here:
        // urgent data is not listened for.
        let ready = match self {
            Self::Tcp(stream) => stream.ready(Interest::PRIORITY).await,
            Self::Unix(stream) => stream.ready(Interest::PRIORITY).await,
        };
        if ready.is_ok_and(|ready| !ready.is_read_closed()) {
            std::future::pending().await
        }
    }

    /// Writes some of `bytes`, which are not empty.
    pub(crate) fn poll_send(&self, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        loop {
            let sent = match self {
                Self::Tcp(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write(bytes)
                }
                Self::Unix(stream) => {
                    ready!(stream.poll_write_ready(cx))?;
                    stream.try_write(bytes)
                }
            };
            match sent {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                sent => return Poll::Ready(sent),
            }
        }
    }

    /// Makes the coming close an abort: what went out so far must not look whole.
    pub(crate) fn abort_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // A socket that cannot be told so is gone already.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl ReadHalf<'_> {
    /// Reads into the room of `buf`, which is not empty. `Ok(0)` is the end.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut Buf,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(buf.room());
        debug_assert!(room.capacity() > 0, "no room: an end would be seen where there is none");
        let polled = match self {
            Self::Tcp(half) => Pin::new(half).poll_read(cx, &mut room),
            Self::Unix(half) => Pin::new(half).poll_read(cx, &mut room),
        };
        let count = room.filled().len();
        polled.map_ok(|()| {
            buf.filled(count);
            count
        })
    }
}

impl WriteHalf<'_> {
    /// Writes some of `first`, then of `second`; not both are empty.
    pub(crate) fn poll_write(
        &mut self,
        cx: &mut Context<'_>,
        first: &[u8],
        second: &[u8],
    ) -> Poll<io::Result<usize>> {
        let polled = match (first, second) {
            ([], bytes) | (bytes, []) => match self {
                Self::Tcp(half) => Pin::new(half).poll_write(cx, bytes),
                Self::Unix(half) => Pin::new(half).poll_write(cx, bytes),
            },
            _ => {
                let both = [io::IoSlice::new(first), io::IoSlice::new(second)];
                match self {
                    Self::Tcp(half) => Pin::new(half).poll_write_vectored(cx, &both),
                    Self::Unix(half) => Pin::new(half).poll_write_vectored(cx, &both),
                }
            }
        };
        if let Poll::Ready(Ok(0)) = polled {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        polled
    }

    pub(crate) fn poll_shutdown(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self {
            Self::Tcp(half) => Pin::new(half).poll_shutdown(cx),
            Self::Unix(half) => Pin::new(half).poll_shutdown(cx),
        }
    }
}
