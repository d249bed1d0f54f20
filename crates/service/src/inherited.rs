//! What PID 1 of a tenant hands its services: listening sockets, and the link to say "ready" over.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};

use listenfd::ListenFd;
use protocol::inside::link;

/// The descriptors of this process. Take each once, by its place.
pub struct Inherited {
    fds: ListenFd,
}

/// This service's end of the datagram pair with PID 1.
pub struct Link(UnixDatagram);

impl Inherited {
    pub fn take() -> Self {
        Self { fds: ListenFd::from_env() }
    }

    /// How many listening sockets there are: all descriptors but the last, which is the link.
    pub fn listeners(&self) -> usize {
        self.fds.len().saturating_sub(1)
    }

    /// The listener at `place`, set not to block.
    pub fn tcp(&mut self, place: usize) -> io::Result<TcpListener> {
        let listener =
            self.fds.take_tcp_listener(place)?.ok_or_else(|| absent("TCP listener", place))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// The listener at `place`, set not to block.
    pub fn unix(&mut self, place: usize) -> io::Result<UnixListener> {
        let listener =
            self.fds.take_unix_listener(place)?.ok_or_else(|| absent("unix listener", place))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    pub fn link(&mut self) -> io::Result<Link> {
        let place = self.listeners();
        self.fds.take_unix_datagram(place)?.map(Link).ok_or_else(|| absent("link", place))
    }
}

impl Link {
    /// Tells PID 1 that this service accepts.
    pub fn say_ready(&self) -> io::Result<()> {
        self.0.send(link::READY).map(drop)
    }

    /// For core-back: the socket on which PID 1 says that all are ready.
    pub fn into_socket(self) -> io::Result<UnixDatagram> {
        self.0.set_nonblocking(true)?;
        Ok(self.0)
    }
}

fn absent(what: &str, place: usize) -> io::Error {
    io::Error::other(format!(
        "no {what} was handed over at place {place}: this program is started by PID 1"
    ))
}
