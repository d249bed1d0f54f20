//! The sockets that PID 1 passes to its services: listeners, and the link on which a service reports that it is ready.

use std::io;
use std::net::TcpListener;
use std::os::unix::net::{UnixDatagram, UnixListener};

use listenfd::ListenFd;
use protocol::inside::link;

/// The inherited descriptors of this process. Each is taken once, by its position.
pub struct Inherited {
    fds: ListenFd,
}

/// This service's end of the datagram pair with PID 1.
pub struct ReadinessLink(UnixDatagram);

impl Inherited {
    pub fn take() -> Self {
        Self { fds: ListenFd::from_env() }
    }

    /// The number of listeners: every descriptor except the last, which is the readiness link.
    pub fn listener_count(&self) -> usize {
        self.fds.len().saturating_sub(1)
    }

    /// Takes the TCP listener at `index`, in non-blocking mode.
    ///
    /// # Errors
    /// When the descriptor is absent or of another kind.
    pub fn tcp_listener(&mut self, index: usize) -> io::Result<TcpListener> {
        let listener =
            self.fds.take_tcp_listener(index)?.ok_or_else(|| absent("TCP listener", index))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Takes the unix listener at `index`, in non-blocking mode.
    ///
    /// # Errors
    /// When the descriptor is absent or of another kind.
    pub fn unix_listener(&mut self, index: usize) -> io::Result<UnixListener> {
        let listener =
            self.fds.take_unix_listener(index)?.ok_or_else(|| absent("unix listener", index))?;
        listener.set_nonblocking(true)?;
        Ok(listener)
    }

    /// Takes the readiness link.
    ///
    /// # Errors
    /// When the descriptor is absent or of another kind.
    pub fn readiness_link(&mut self) -> io::Result<ReadinessLink> {
        let index = self.listener_count();
        let link = self.fds.take_unix_datagram(index)?;
        link.map(ReadinessLink).ok_or_else(|| absent("readiness link", index))
    }
}

impl ReadinessLink {
    /// Notifies PID 1 that this service accepts connections.
    ///
    /// # Errors
    /// When PID 1 has closed its end.
    pub fn notify_ready(&self) -> io::Result<()> {
        self.0.send(link::READY).map(drop)
    }

    /// For core-back: the socket on which PID 1 reports that all services are ready.
    ///
    /// # Errors
    /// When the socket cannot be set to non-blocking mode.
    pub fn into_socket(self) -> io::Result<UnixDatagram> {
        self.0.set_nonblocking(true)?;
        Ok(self.0)
    }
}

fn absent(kind: &str, index: usize) -> io::Error {
    io::Error::other(format!("no inherited {kind} at index {index}: PID 1 starts this program"))
}
