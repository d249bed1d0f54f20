//! Accepts connections, and drains them after the stop.

use std::future::{Future as _, poll_fn};
use std::io;
use std::net::SocketAddr;
use std::pin::pin;
use std::rc::Rc;
use std::task::Poll;
use std::time::Duration;

use connect::is_local_shortage;
use socket2::{Domain, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::{TcpListener, UnixListener};
use tokio::task::{LocalSet, spawn_local, unconstrained};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::policy::{Peer, Policy};
use crate::runtime::stream::{Listener, Stream};
use crate::runtime::worker::{DrainPhase, Worker};
use crate::settings::Settings;

/// Connections that the kernel queues per listener before they are accepted.
const BACKLOG: i32 = 4_096;
const ACCEPT_RETRY_DELAY: Duration = Duration::from_millis(20);

/// The time from one eviction to the next while the limit is reached.
const EVICTION_INTERVAL: Duration = Duration::from_millis(20);

/// Serves on this thread until `stop`, then drains: no new connections, requests in progress finish with
/// `Connection: close`, tunnels are closed with 1001 at their deadline.
///
/// Requires a current-thread runtime with I/O and time enabled.
pub async fn serve<P: Policy>(
    listeners: Vec<Listener>,
    policy: P,
    settings: Settings,
    stop: CancellationToken,
) -> io::Result<()> {
    let worker = Worker::new(policy, settings);
    let tasks = LocalSet::new();
    tasks.run_until(run(worker, listeners, stop)).await
}

/// Opens `threads` listening TCP sockets on one address; the kernel spreads clients over them.
///
/// # Errors
/// Fails when another process listens on the address, because two processes would silently share the clients.
pub fn bind(address: SocketAddr, threads: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let open = |address, reuses_port| {
        let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(reuses_port)?;
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        Ok::<_, io::Error>(socket)
    };
    // A first bind without sharing detects that the port is in use.
    let probe = open(address, false)?;
    let address = probe.local_addr()?.as_socket().unwrap_or(address);
    drop(probe);
    let listen = |_| {
        let socket = open(address, true)?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    (0..threads.max(1)).map(listen).collect()
}

async fn run<P: Policy>(
    worker: Rc<Worker<P>>,
    listeners: Vec<Listener>,
    stop: CancellationToken,
) -> io::Result<()> {
    let mut accepting = Vec::new();
    for (index, listener) in listeners.into_iter().enumerate() {
        let listener = AcceptSocket::new(listener)?;
        accepting.push(spawn_local(accept(worker.clone(), listener, index, stop.clone())));
    }
    let ticker = worker.clone();
    let ticker =
        spawn_local(async move { ticker.timers.run(|now| ticker.pool.close_expired(now)).await });
    stop.cancelled().await;
    for listener in accepting {
        // A listener that failed needs no waiting.
        let _ = listener.await;
    }
    let Settings {
        drain_timeout, idle_drain_timeout, tunnel_drain_timeout, ref close_idle, ..
    } = worker.settings;
    let tunnel_drain_timeout = tunnel_drain_timeout.min(drain_timeout);
    // All three timers count from here.
    let idle = pin!(sleep(idle_drain_timeout.min(tunnel_drain_timeout)));
    let (tunnels, end) = (pin!(sleep(tunnel_drain_timeout)), pin!(sleep(drain_timeout)));
    let all_closed = || worker.connections.wait_until_at_most(0);
    if !idle_drain_timeout.is_zero() {
        worker.enter_phase(DrainPhase::Finishing);
        tokio::select! {
            () = all_closed() => {}
            () = idle => {}
            () = close_idle.cancelled() => {}
        }
    }
    worker.enter_phase(DrainPhase::Draining);
    worker.pool.close_all();
    tokio::select! {
        biased;
        () = all_closed() => {}
        () = tunnels => {
            worker.enter_phase(DrainPhase::ClosingTunnels);
            // Connections that are still open afterwards are cut off.
            tokio::select! {
                () = all_closed() => {}
                () = end => {}
            }
        }
    }
    ticker.abort();
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
                // Accepted sockets inherit both options, which saves two system calls per connection.
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
    worker: Rc<Worker<P>>,
    listener: AcceptSocket,
    index: usize,
    stop: CancellationToken,
) {
    let limit = worker.settings.max_connections.saturating_sub(1);
    loop {
        let accepted = tokio::select! {
            biased;
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok(accepted) => {
                tokio::select! {
                    biased;
                    () = wait_for_capacity(&worker, limit) => {}
                    () = stop.cancelled() => {}
                }
                if worker.connections.count() <= limit {
                    serve_client(&worker, accepted, index);
                }
            }
            // The client left the accept queue.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                worker.settings.stats.count_accept_pause();
                if is_local_shortage(&error) {
                    worker.free_descriptors();
                }
                tokio::time::sleep(ACCEPT_RETRY_DELAY).await;
            }
        }
    }
    // Clients that connected before the stop are still served as far as there is room. The bound ends the loop however
    // many clients connect meanwhile.
    tokio::task::yield_now().await;
    for _ in 0..BACKLOG {
        if worker.connections.count() > limit {
            return;
        }
        let accepted = unconstrained(poll_fn(|cx| match pin!(listener.accept()).poll(cx) {
            Poll::Ready(Ok(accepted)) => Poll::Ready(Some(accepted)),
            Poll::Ready(Err(_)) | Poll::Pending => Poll::Ready(None),
        }));
        let Some(accepted) = accepted.await else { return };
        serve_client(&worker, accepted, index);
    }
}

/// Waits until a connection may be accepted. Meanwhile the clients that are silent for the longest time make room.
async fn wait_for_capacity<P>(worker: &Worker<P>, limit: usize) {
    if worker.connections.count() > limit {
        worker.settings.stats.count_accept_pause();
    }
    while worker.connections.count() > limit {
        worker.evict_silent_clients();
        // A client may fall silent later, and an evicted client whose request just arrived stays.
        tokio::select! {
            () = worker.connections.wait_until_at_most(limit) => {}
            () = tokio::time::sleep(EVICTION_INTERVAL) => {}
        }
    }
}

fn serve_client<P: Policy>(
    worker: &Rc<Worker<P>>,
    (client, address): (Stream, Option<SocketAddr>),
    index: usize,
) {
    let peer = Peer { address, listener: index };
    let permit = worker.policy.client_key(&peer).map(|client| worker.acquire_client_permit(client));
    if let Some(None) = permit {
        // Dropping the connection closes it.
        return worker.settings.stats.count_refused();
    }
    let guard = worker.connections.add();
    // The task is tiny: the state of a connection, and later of a tunnel, lives in boxes whose memory is reused.
    let connection = Box::pin(crate::connection::run(worker.clone(), client, peer, guard));
    spawn_local(async move {
        let _permit = permit;
        let tunnel = connection.await;
        if let Some(mut tunnel) = tunnel {
            poll_fn(|cx| tunnel.poll(cx)).await;
        }
    });
}
