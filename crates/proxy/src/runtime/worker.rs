//! The state that all connections of one thread share. Never shared with another thread.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::future::poll_fn;
use std::io;
use std::net::IpAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::Notify;

use crate::runtime::buffers::BufferPool;
use crate::runtime::pool::UpstreamPool;
use crate::runtime::stream::Stream;
use crate::runtime::timers::{Deadline, Ticks, Timers};
use crate::settings::Settings;
use crate::stats::Stats;

pub(crate) struct Worker<P> {
    pub(crate) policy: P,
    pub(crate) settings: Settings,
    pub(crate) timeouts: Timeouts,
    pub(crate) buffers: Rc<BufferPool>,
    pub(crate) timers: Rc<Timers>,
    pub(crate) pool: UpstreamPool,
    pub(crate) phase: Cell<DrainPhase>,
    pub(crate) connections: Rc<ConnectionCount>,
    /// Open connections by client.
    clients: RefCell<HashMap<IpAddr, usize>>,
}

/// The timeouts that every request needs, converted to ticks once.
pub(crate) struct Timeouts {
    pub(crate) head: Ticks,
    pub(crate) keep_alive: Ticks,
    pub(crate) body: Ticks,
    pub(crate) response: Ticks,
    pub(crate) pool: Ticks,
}

impl Timeouts {
    fn new(settings: &Settings, timers: &Timers) -> Self {
        Self {
            head: timers.ticks(settings.head_timeout),
            keep_alive: timers.ticks(settings.keep_alive_timeout),
            body: timers.ticks(settings.body_idle_timeout),
            response: timers.ticks(settings.response_timeout),
            pool: timers.ticks(settings.pool_idle_timeout),
        }
    }
}

/// The progress of a drain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum DrainPhase {
    Serving,
    /// No new connections; each existing connection may send one more request.
    Finishing,
    /// Requests in progress finish.
    Draining,
    /// Tunnels are closed as well.
    ClosingTunnels,
}

/// The number of open connections and tunnels.
pub(crate) struct ConnectionCount {
    count: Cell<usize>,
    decreased: Notify,
    stats: Arc<Stats>,
}

/// Counts one connection of a client while it is held.
pub(crate) struct ClientPermit<P> {
    worker: Rc<Worker<P>>,
    client: IpAddr,
}

impl<P> Drop for ClientPermit<P> {
    fn drop(&mut self) {
        let mut clients = self.worker.clients.borrow_mut();
        if let Some(taken) = clients.get_mut(&self.client) {
            *taken -= 1;
            if *taken == 0 {
                clients.remove(&self.client);
            }
        }
    }
}

/// One in this many connections is closed at once when the limit is reached, so that a search serves many new clients.
const EVICTED_SHARE: usize = 64;

/// Counts one connection or tunnel while it is held.
pub(crate) struct ConnectionGuard(Rc<ConnectionCount>);

impl<P> Worker<P> {
    pub(crate) fn new(policy: P, settings: Settings) -> Rc<Self> {
        let timers = Timers::new(settings.timer_tick);
        Rc::new(Self {
            policy,
            timeouts: Timeouts::new(&settings, &timers),
            buffers: BufferPool::new(
                settings
                    .buffer_bytes
                    .max(settings.request_head.bytes)
                    .max(settings.response_head.bytes),
            ),
            pool: UpstreamPool::new(
                (settings.max_idle_per_upstream, settings.max_idle_upstreams),
                timers.clone(),
                settings.stats.clone(),
            ),
            connections: Rc::new(ConnectionCount::new(settings.stats.clone())),
            clients: RefCell::default(),
            timers,
            settings,
            phase: Cell::new(DrainPhase::Serving),
        })
    }

    /// Makes room when no connection or no descriptor is left: closes idle upstream connections, and the clients that are
    /// silent for the longest time.
    pub(crate) fn free_descriptors(&self) {
        self.pool.close_all();
        self.evict_silent_clients();
    }

    pub(crate) fn evict_silent_clients(&self) {
        let batch = self.settings.max_connections / EVICTED_SHARE + 1;
        let evicted = self.timers.evict_longest_silent(batch);
        self.settings.stats.count_evicted(evicted);
    }

    /// Counts a connection of a client. Returns `None` when the client has as many as it may have.
    pub(crate) fn acquire_client_permit(
        self: &Rc<Self>,
        client: IpAddr,
    ) -> Option<ClientPermit<P>> {
        let mut clients = self.clients.borrow_mut();
        let taken = clients.entry(client).or_default();
        if *taken >= self.settings.max_connections_per_client {
            return None;
        }
        *taken += 1;
        Some(ClientPermit { worker: self.clone(), client })
    }

    /// Whether connections close after their next response.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.get() != DrainPhase::Serving
    }

    /// Whether idle connections close at once.
    pub(crate) fn closes_idle(&self) -> bool {
        self.phase.get() > DrainPhase::Finishing
    }

    /// Enters a phase and wakes every waiting connection.
    pub(crate) fn enter_phase(&self, phase: DrainPhase) {
        self.phase.set(phase);
        self.timers.wake_all();
    }
}

impl ConnectionCount {
    fn new(stats: Arc<Stats>) -> Self {
        Self { count: Cell::new(0), decreased: Notify::new(), stats }
    }

    pub(crate) fn add(self: &Rc<Self>) -> ConnectionGuard {
        self.set(self.count.get() + 1);
        ConnectionGuard(self.clone())
    }

    fn set(&self, count: usize) {
        self.count.set(count);
        self.stats.set_connections(count);
    }

    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// Waits until at most `count` connections are open.
    pub(crate) async fn wait_until_at_most(&self, count: usize) {
        loop {
            let decreased = self.decreased.notified();
            if self.count.get() <= count {
                return;
            }
            decreased.await;
        }
    }
}

impl Drop for ConnectionGuard {
    fn drop(&mut self) {
        self.0.set(self.0.count.get() - 1);
        self.0.decreased.notify_waiters();
    }
}

/// Writes all of `bytes` before `deadline` passes.
pub(crate) async fn write_all(
    stream: &mut Stream,
    mut bytes: &[u8],
    deadline: &Deadline,
) -> io::Result<()> {
    let (_, mut to) = stream.split();
    poll_fn(|cx| poll_write_all(cx, &mut to, &mut bytes, deadline)).await
}

fn poll_write_all(
    cx: &mut Context<'_>,
    to: &mut crate::runtime::stream::WriteHalf<'_>,
    bytes: &mut &[u8],
    deadline: &Deadline,
) -> Poll<io::Result<()>> {
    while !bytes.is_empty() {
        if deadline.has_passed(cx) {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        let count = ready!(to.poll_write(cx, bytes, &[]))?;
        *bytes = &bytes[count..];
    }
    Poll::Ready(Ok(()))
}
