//! TCP and unix sockets behind one type.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use connect::SocketFile;
use rustix::event::{PollFd, PollFlags, Timespec};
use socket2::SockRef;
use tokio::io::{AsyncRead as _, AsyncWrite as _, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream, tcp, unix};

use crate::runtime::buffers::ReadBuffer;

const ACCEPT_QUEUE_RETRY_DELAY: Duration = Duration::from_millis(5);

/// A listening socket.
pub enum Listener {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener),
}

/// The address of an upstream.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Address {
    /// The directory is trusted; a symbolic link in place of the socket is not followed.
    Unix(PathBuf),
    /// `host:port`.
    Tcp(String),
}

/// An upstream with an identity. Idle connections are reused by identity, never by address.
/// Create a new value whenever another process may listen at the address.
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

/// A connection to a client or an upstream.
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
            Address::Unix(path) => {
                // The file must stay open until the connection stands.
                let file = SocketFile::open(path)?;
                Self::connect_unix(&file.path()).await
            }
            Address::Tcp(address) => {
                let stream = TcpStream::connect(address).await?;
                stream.set_nodelay(true)?;
                Ok(Self::Tcp(stream))
            }
        }
    }

    async fn connect_unix(path: &Path) -> io::Result<Self> {
        loop {
            match UnixStream::connect(path).await {
                Ok(stream) => return Ok(Self::Unix(stream)),
                // The accept queue is full (the upstream may be frozen), and the kernel reports no event for it.
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    tokio::time::sleep(ACCEPT_QUEUE_RETRY_DELAY).await;
                }
                Err(error) => return Err(error),
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

    /// Whether an idle connection is open and has no unsolicited input.
    pub(crate) fn is_reusable(&self) -> bool {
        // Costs a system call only if the runtime received an event.
        let mut byte = [0];
        let read = match self {
            Self::Tcp(stream) => stream.try_read(&mut byte),
            Self::Unix(stream) => stream.try_read(&mut byte),
        };
        read.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Like [`Stream::is_reusable`], but queries the kernel: catches a close that the runtime has not noticed yet.
    pub(crate) fn is_reusable_by_kernel(&self) -> bool {
        let mut byte = [std::mem::MaybeUninit::uninit()];
        let peeked = match self {
            Self::Tcp(s) => SockRef::from(s).peek(&mut byte),
            Self::Unix(s) => SockRef::from(s).peek(&mut byte),
        };
        peeked.is_err_and(|e| e.kind() == io::ErrorKind::WouldBlock)
    }

    /// Whether the connection is closed in both directions or failed, according to the kernel.
    ///
    /// A TCP peer that closed its socket is indistinguishable from a peer that closed its sending side, until it
    /// resets the connection. A unix socket reports the difference at once.
    pub(crate) fn is_hung_up(&self) -> bool {
        let fd = match self {
            Self::Tcp(stream) => stream.as_fd(),
            Self::Unix(stream) => stream.as_fd(),
        };
        let mut fds = [PollFd::from_borrowed_fd(fd, PollFlags::empty())];
        // A failed query shows nothing about the connection.
        let _ = rustix::event::poll(&mut fds, Some(&Timespec::default()));
        fds[0].revents().intersects(PollFlags::HUP | PollFlags::ERR)
    }

    /// Sends all of `bytes` without waiting. A full socket buffer counts as success: the peer is not known to be gone.
    ///
    /// # Errors
    /// Fails when the connection failed, or accepted only a part.
    pub(crate) fn try_send_all(&self, bytes: &[u8]) -> io::Result<()> {
        let sent = match self {
            Self::Tcp(stream) => stream.try_write(bytes),
            Self::Unix(stream) => stream.try_write(bytes),
        };
        match sent {
            Ok(count) if count == bytes.len() => Ok(()),
            Ok(_) => Err(io::ErrorKind::WriteZero.into()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// Waits until the remote end closes its sending side. Reads none of its earlier input.
    pub(crate) async fn wait_for_input_end(&self) {
        // The runtime registers no interest in urgent data, so only the end of the read side completes this interest.
        let ready = match self {
            Self::Tcp(stream) => stream.ready(Interest::PRIORITY).await,
            Self::Unix(stream) => stream.ready(Interest::PRIORITY).await,
        };
        if ready.is_ok_and(|ready| !ready.is_read_closed()) {
            std::future::pending().await
        }
    }

    /// Writes a part of `bytes`, which must not be empty.
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

    /// Turns the coming close into a reset, so that a truncated response does not look complete.
    pub(crate) fn reset_on_close(&self) {
        if let Self::Tcp(stream) = self {
            // A socket that rejects the option is closed already.
            let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
        }
    }
}

impl ReadHalf<'_> {
    /// Reads into the unfilled space of `buf`, which must not be empty. `Ok(0)` is the end of the stream.
    pub(crate) fn poll_read(
        &mut self,
        cx: &mut Context<'_>,
        buf: &mut ReadBuffer,
    ) -> Poll<io::Result<usize>> {
        let mut room = ReadBuf::new(buf.unfilled());
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
    /// Writes a part of `first`, then of `second`; at least one must not be empty.
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
