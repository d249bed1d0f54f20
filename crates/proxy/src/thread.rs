//! What all connections of one thread share. Nothing here is known to another thread.

use std::cell::Cell;
use std::future::poll_fn;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use tokio::sync::Notify;

use crate::buffers::Buffers;
use crate::pool::Pool;
use crate::settings::Settings;
use crate::stats::Stats;
use crate::stream::Stream;
use crate::sweep::{Deadline, Sweep, Ticks};

pub(crate) struct Thread<P> {
    pub(crate) policy: P,
    pub(crate) settings: Settings,
    pub(crate) patience: Patience,
    pub(crate) buffers: Rc<Buffers>,
    pub(crate) sweep: Rc<Sweep>,
    pub(crate) pool: Pool,
    pub(crate) phase: Cell<Phase>,
    pub(crate) live: Rc<Live>,
}

/// Those times of the settings that each request needs.
pub(crate) struct Patience {
    pub(crate) head: Ticks,
    pub(crate) keep_alive: Ticks,
    pub(crate) body: Ticks,
    pub(crate) answer: Ticks,
    pub(crate) pool: Ticks,
}

impl Patience {
    fn new(settings: &Settings, sweep: &Sweep) -> Self {
        Self {
            head: sweep.ticks(settings.head_timeout),
            keep_alive: sweep.ticks(settings.keep_alive_timeout),
            body: sweep.ticks(settings.body_idle_timeout),
            answer: sweep.ticks(settings.response_timeout),
            pool: sweep.ticks(settings.pool_idle_timeout),
        }
    }
}

/// How near the end is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd)]
pub(crate) enum Phase {
    Serving,
    /// No new connection; each that is there may ask once more.
    Finishing,
    /// Requests under way finish.
    Draining,
    /// Tunnels are closed, too.
    Closing,
}

/// How many connections and tunnels there are.
pub(crate) struct Live {
    count: Cell<usize>,
    fewer: Notify,
    stats: Arc<Stats>,
}

/// One connection or tunnel, while it is held.
pub(crate) struct Alive(Rc<Live>);

impl<P> Thread<P> {
    pub(crate) fn new(policy: P, settings: Settings) -> Rc<Self> {
        let sweep = Sweep::new(settings.timer_tick);
        Rc::new(Self {
            policy,
            patience: Patience::new(&settings, &sweep),
            buffers: Buffers::new(
                settings
                    .buffer_bytes
                    .max(settings.request_head.bytes)
                    .max(settings.response_head.bytes),
            ),
            pool: Pool::new(settings.max_idle_per_upstream, sweep.clone(), settings.stats.clone()),
            live: Rc::new(Live::new(settings.stats.clone())),
            sweep,
            settings,
            phase: Cell::new(Phase::Serving),
        })
    }

    /// No connection outlasts its next answer.
    pub(crate) fn is_draining(&self) -> bool {
        self.phase.get() != Phase::Serving
    }

    /// Nor does one that asks for nothing.
    pub(crate) fn drops_idle(&self) -> bool {
        self.phase.get() > Phase::Finishing
    }

    /// Connections change their ways at once, also those that wait.
    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.set(phase);
        self.sweep.wake_all();
    }
}

impl Live {
    fn new(stats: Arc<Stats>) -> Self {
        Self { count: Cell::new(0), fewer: Notify::new(), stats }
    }

    pub(crate) fn enter(self: &Rc<Self>) -> Alive {
        self.set(self.count.get() + 1);
        Alive(self.clone())
    }

    fn set(&self, count: usize) {
        self.count.set(count);
        self.stats.set_connections(count);
    }

    pub(crate) fn count(&self) -> usize {
        self.count.get()
    }

    /// Waits until at most `count` live.
    pub(crate) async fn at_most(&self, count: usize) {
        loop {
            let fewer = self.fewer.notified();
            if self.count.get() <= count {
                return;
            }
            fewer.await;
        }
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.set(self.0.count.get() - 1);
        self.0.fewer.notify_waiters();
    }
}

/// Writes all of `bytes` while `deadline` lets it.
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
    to: &mut crate::stream::WriteHalf<'_>,
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
