//! From listening sockets to the last drained tunnel.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{LocalSet, spawn_local, unconstrained};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::connection;
use crate::policy::{Peer, Policy};
use crate::settings::Settings;
use crate::stream::{Listener, Stream};
use crate::thread::{Phase, Thread};

/// Connections that the kernel keeps for a listener until they are accepted.
const BACKLOG: i32 = 4_096;

/// Serves on this thread until `stop`, then drains: no new connection, requests under way finish with
/// `Connection: close`, tunnels get 1001 at their deadline.
///
/// Runs inside a current-thread runtime with I/O and time enabled.
pub async fn serve<P: Policy>(
    listeners: Vec<Listener>,
    policy: P,
    settings: Settings,
    stop: CancellationToken,
) -> io::Result<()> {
    let thread = Thread::new(policy, settings);
    let tasks = LocalSet::new();
    tasks.run_until(run(thread, listeners, stop)).await
}

/// A listening TCP socket that every thread of this process may open once more; the kernel spreads clients.
///
/// Refused when another process listens there already: two would silently share the clients.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let open = |address, shared| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(shared)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    // Bound for a moment without sharing, so that a port that is taken is told.
    let sole = open(address, false)?;
    let address = sole.local_addr()?.as_socket().unwrap_or(address);
    drop(sole);
    let listen = |_| {
        let socket = open(address, true)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    (0..threads.max(1)).map(listen).collect()
}

async fn run<P: Policy>(
    thread: Rc<Thread<P>>,
    listeners: Vec<Listener>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut accepting = Vec::new();
    for (place, listener) in listeners.into_iter().enumerate() {
        let listener = AcceptSocket::new(listener)?;
        accepting.push(spawn_local(accept(thread.clone(), listener, place, stop.clone())));
    }
    let time = thread.clone();
    let time = spawn_local(async move { time.sweep.run(|now| time.pool.sweep(now)).await });
    stop.cancelled().await;
    for listener in accepting {
        // A listener that failed has nobody left to wait for.
        let _ = listener.await;
    }
    let Settings {
        drain_timeout, idle_drain_timeout, tunnel_drain_timeout, ref close_idle, ..
    } = thread.settings;
    let tunnel_drain_timeout = tunnel_drain_timeout.min(drain_timeout);
    // All from here.
    let idle = pin!(sleep(idle_drain_timeout.min(tunnel_drain_timeout)));
    let (tunnels, end) = (pin!(sleep(tunnel_drain_timeout)), pin!(sleep(drain_timeout)));
    let all = || thread.live.at_most(0);
    if !idle_drain_timeout.is_zero() {
        thread.enter(Phase::Finishing);
        tokio::select! {
            () = all() => {}
            () = idle => {}
            () = close_idle.cancelled() => {}
        }
    }
    thread.enter(Phase::Draining);
    thread.pool.clear();
    tokio::select! {
        biased;
        () = all() => {}
        () = tunnels => {
            thread.enter(Phase::Closing);
            // Whoever is not done by then is cut off.
            tokio::select! {
                () = all() => {}
                () = end => {}
            }
        }
    }
    time.abort();
    Ok(())
}

enum AcceptSocket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

impl AcceptSocket {
    fn new(listener: Listener) -> io::Result<Self> {
        match listener {
            Listener::Tcp(listener) => {
                // Whoever is accepted inherits both: no call for each connection.
                let socket = SockRef::from(&listener);
                socket.set_tcp_nodelay(true)?;
                let keepalive = TcpKeepalive::new().with_time(Duration::from_secs(60));
                socket.set_tcp_keepalive(&keepalive)?;
                listener.set_nonblocking(true)?;
                TcpListener::from_std(listener).map(Self::Tcp)
            }
            Listener::Unix(listener) => {
                listener.set_nonblocking(true)?;
                UnixListener::from_std(listener).map(Self::Unix)
            }
        }
    }

    async fn accept(&self) -> io::Result<(Stream, Option<SocketAddr>)> {
        match self {
            Self::Tcp(listener) => {
                listener.accept().await.map(|(s, from)| (Stream::Tcp(s), Some(from)))
            }
            Self::Unix(listener) => listener.accept().await.map(|(s, _)| (Stream::Unix(s), None)),
        }
    }
}

async fn accept<P: Policy>(
    thread: Rc<Thread<P>>,
    listener: AcceptSocket,
    place: usize,
    stop: CancellationToken,
) {
    let most = thread.settings.max_connections.saturating_sub(1);
    loop {
        let next = async {
            if thread.live.count() > most {
                thread.settings.stats.paused();
            }
            thread.live.at_most(most).await;
            listener.accept().await
        };
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = next => accepted,
        };
        match accepted {
            Ok(accepted) => welcome(&thread, accepted, place),
            // Out of descriptors, most likely: others must end first.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
    // Whoever had connected before the stop is still let in, as far as there is room. However many more connect
    // meanwhile, it ends.
    tokio::task::yield_now().await;
    for _ in 0..BACKLOG {
        if thread.live.count() > most {
            return;
        }
        let accepted = unconstrained(poll_fn(|cx| match pin!(listener.accept()).poll(cx) {
            Poll::Ready(Ok(accepted)) => Poll::Ready(Some(accepted)),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
        }));
        let Some(accepted) = accepted.await else { return };
        welcome(&thread, accepted, place);
    }
}

fn welcome<P: Policy>(
    thread: &Rc<Thread<P>>,
    (client, address): (Stream, Option<SocketAddr>),
    place: usize,
) {
    let (alive, peer) = (thread.live.enter(), Peer { address, listener: place });
    // The task itself is next to nothing: what a connection is, and then a tunnel, are boxes that others can use again.
    let talk = Box::pin(connection::run(thread.clone(), client, peer, alive));
    spawn_local(async move {
        let tunnel = talk.await;
        if let Some(mut tunnel) = tunnel {
            poll_fn(|cx| tunnel.poll(cx)).await;
        }
    });
}
