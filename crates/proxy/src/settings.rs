//! Every bound the engine keeps.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::stats::Stats;

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
    pub const FIRST_HOP: Self = Self { bytes: 16 << 10, lines: 100 };
    /// At the next one. Each adds lines of its own, and what one has taken the next may not refuse.
    pub const NEXT_HOP: Self = Self { bytes: 20 << 10, lines: 112 };
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub request_head: HeadLimit,
    pub response_head: HeadLimit,
    /// Bytes of a request's body; `None` is no limit.
    pub max_body_bytes: Option<u64>,
    /// Bytes read at once, for each direction that has something to say. Idle connections hold no buffer.
    /// At least as many as a head may have.
    pub buffer_bytes: usize,
    /// Clients connected at once on this thread. More wait in the kernel's queue.
    pub max_connections: usize,
    /// Idle upstream connections kept for each upstream on this thread.
    pub max_idle_per_upstream: usize,
    /// Where it is told how much of both is taken.
    pub stats: Arc<Stats>,

    /// From the first byte of a head to its last.
    pub head_timeout: Duration,
    /// Between two requests of one client.
    pub keep_alive_timeout: Duration,
    /// Without a byte moving, while a body is under way in either direction.
    pub body_idle_timeout: Duration,
    pub connect_timeout: Duration,
    /// From the request to the head of its answer.
    pub response_timeout: Duration,
    /// An idle upstream connection is closed after this long. Shorter than the upstream's own patience.
    pub pool_idle_timeout: Duration,
    /// A tunnel in which nothing moves; `None` keeps it.
    pub tunnel_idle_timeout: Option<Duration>,

    /// From the stop to the end: requests under way may finish.
    pub drain_timeout: Duration,
    /// From the stop to the moment when connections that ask for nothing are closed. Until then each may ask once
    /// more: a request that is on its way when its connection is closed would be lost.
    pub idle_drain_timeout: Duration,
    /// Cancelled, before the stop or after: nobody else serves here, and those that ask for nothing are closed at
    /// once.
    pub close_idle: CancellationToken,
    /// From the stop to the moment when tunnels that still live are closed with 1001.
    pub tunnel_drain_timeout: Duration,
    /// How exact timeouts are: they end up to two of these late, never early.
    pub timer_tick: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            request_head: HeadLimit::FIRST_HOP,
            response_head: HeadLimit::NEXT_HOP,
            max_body_bytes: None,
            // An answer of 64 KiB with its head comes in one piece: half the calls of two.
            buffer_bytes: 80 << 10,
            max_connections: 16_384,
            max_idle_per_upstream: 256,
            stats: Arc::default(),
            head_timeout: seconds(10),
            keep_alive_timeout: seconds(75),
            body_idle_timeout: seconds(100),
            connect_timeout: seconds(5),
            response_timeout: seconds(100),
            pool_idle_timeout: seconds(30),
            tunnel_idle_timeout: None,
            drain_timeout: seconds(30),
            idle_drain_timeout: Duration::ZERO,
            close_idle: CancellationToken::new(),
            tunnel_drain_timeout: seconds(28),
            timer_tick: Duration::from_millis(250),
        }
    }
}
