//! Every bound the engine keeps.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::tally::Tally;

/// How much a head may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimit {
    /// Its first line included.
    pub bytes: usize,
    /// Header lines; at most 128.
    pub lines: usize,
}

impl HeadLimit {
    /// At the end of a chain of engines where a message comes in.
    pub const FIRST: Self = Self { bytes: 16 << 10, lines: 100 };
    /// At the next one. Each adds lines of its own, and what one has taken the next may not refuse.
    pub const NEXT: Self = Self { bytes: 20 << 10, lines: 112 };
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub request_head: HeadLimit,
    pub answer_head: HeadLimit,
    /// Bytes of a request's body; `None` is no limit.
    pub body_limit: Option<u64>,
    /// Bytes read at once, for each direction that has something to say. Idle connections hold no buffer.
    /// At least as many as a head may have.
    pub buffer: usize,
    /// Clients connected at once on this thread. More wait in the kernel's queue.
    pub connections: usize,
    /// Idle upstream connections kept for each upstream on this thread.
    pub pooled: usize,
    /// Where it is told how much of both is taken.
    pub tally: Arc<Tally>,

    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Between two requests of one client.
    pub keep_alive: Duration,
    /// Without a byte moving, while a body is under way in either direction.
    pub body_idle: Duration,
    pub connect_timeout: Duration,
    /// From the request to the head of its answer.
    pub answer_timeout: Duration,
    /// An idle upstream connection is closed after this long. Shorter than the upstream's own patience.
    pub pool_idle: Duration,
    /// A tunnel in which nothing moves; `None` keeps it.
    pub tunnel_idle: Option<Duration>,

    /// From the stop to the end: requests under way may finish.
    pub drain: Duration,
    /// From the stop to the moment when connections that ask for nothing are closed. Until then each may ask once
    /// more: a request that is on its way when its connection is closed would be lost.
    pub drain_idle: Duration,
    /// Cancelled, before the stop or after: nobody else serves here, and those that ask for nothing are closed at
    /// once.
    pub alone: CancellationToken,
    /// From the stop to the moment when tunnels that still live are closed with 1001.
    pub drain_tunnels: Duration,
    /// How exact timeouts are: they end up to two of these late, never early.
    pub tick: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            request_head: HeadLimit::FIRST,
            answer_head: HeadLimit::NEXT,
            body_limit: None,
            // An answer of 64 KiB with its head comes in one piece: half the calls of two.
            buffer: 80 << 10,
            connections: 16_384,
            pooled: 256,
            tally: Arc::default(),
            head_timeout: seconds(10),
            keep_alive: seconds(75),
            body_idle: seconds(100),
            connect_timeout: seconds(5),
            answer_timeout: seconds(100),
            pool_idle: seconds(30),
            tunnel_idle: None,
            drain: seconds(30),
            drain_idle: Duration::ZERO,
            alone: CancellationToken::new(),
            drain_tunnels: seconds(28),
            tick: Duration::from_millis(250),
        }
    }
}
