//! The limits and timeouts of the engine.

use std::sync::Arc;
use std::time::Duration;

use tokio_util::sync::CancellationToken;

use crate::stats::Stats;

/// The largest acceptable head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeadLimit {
    /// Includes the request line or status line.
    pub bytes: usize,
    /// Header lines; the engine caps the value at 128.
    pub lines: usize,
}

impl HeadLimit {
    /// The limit for the first of several engines that a message passes.
    pub const FIRST_HOP: Self = Self { bytes: 16 << 10, lines: 100 };
    /// The limit for every further engine. Each engine adds header lines, and the next must accept
    /// every head that the first accepted.
    pub const NEXT_HOP: Self = Self { bytes: 20 << 10, lines: 112 };
}

#[derive(Clone, Debug)]
pub struct Settings {
    pub request_head: HeadLimit,
    pub response_head: HeadLimit,
    /// Largest request body in bytes; `None` sets no limit.
    pub max_body_bytes: Option<u64>,
    /// Size of a read buffer. Idle connections hold no buffer.
    /// The engine uses at least the size of the larger head limit.
    pub buffer_bytes: usize,
    /// Client connections of this thread. Further clients wait in the kernel's accept queue.
    pub max_connections: usize,
    /// Connections of one client on this thread, by [`Policy::client_key`](crate::Policy::client_key). Further
    /// connections of that client are closed at once.
    pub max_connections_per_client: usize,
    /// Idle connections kept per upstream on this thread.
    pub max_idle_per_upstream: usize,
    /// Idle upstream connections kept in total on this thread.
    pub max_idle_upstreams: usize,
    /// Receives the counts of client connections and idle upstream connections.
    pub stats: Arc<Stats>,

    /// The limit from the first byte of a request head to its last.
    pub head_timeout: Duration,
    /// The idle time between two requests on one client connection.
    pub keep_alive_timeout: Duration,
    /// The limit without progress in either direction while a body is transferred.
    pub body_idle_timeout: Duration,
    pub connect_timeout: Duration,
    /// The limit after the end of a client's input while its request is in progress. Once this time
    /// passes without a response, the engine checks whether the client still reads. Once a begun
    /// response pauses for five times as long, the client counts as gone.
    pub half_close_timeout: Duration,
    /// The limit from the request to the head of its response.
    pub response_timeout: Duration,
    /// Idle upstream connections are closed after this time, which must be shorter than the upstream's own timeout.
    pub pool_idle_timeout: Duration,
    /// Closes a tunnel without traffic; `None` keeps such tunnels.
    pub tunnel_idle_timeout: Option<Duration>,

    /// The time from the stop to the end of the drain. Requests in progress may finish until then.
    pub drain_timeout: Duration,
    /// The time from the stop to the moment when idle connections are closed. Until then each
    /// connection may send one more request: closing earlier would lose a request that is already
    /// on its way.
    pub idle_drain_timeout: Duration,
    /// Cancelled before or after the stop when no other process serves this address: idle connections close at once,
    /// because no later request could succeed.
    pub close_idle: CancellationToken,
    /// The time from the stop to the moment when open tunnels are closed with 1001.
    pub tunnel_drain_timeout: Duration,
    /// Timer resolution: timeouts fire up to two ticks late and never early.
    pub timer_tick: Duration,
}

impl Default for Settings {
    fn default() -> Self {
        let seconds = Duration::from_secs;
        Self {
            request_head: HeadLimit::FIRST_HOP,
            response_head: HeadLimit::NEXT_HOP,
            max_body_bytes: None,
            // A response of 64 KiB fits with its head into one read: half the system calls of two reads.
            buffer_bytes: 80 << 10,
            max_connections: 16_384,
            max_connections_per_client: usize::MAX,
            max_idle_per_upstream: 256,
            max_idle_upstreams: usize::MAX,
            stats: Arc::default(),
            head_timeout: seconds(10),
            keep_alive_timeout: seconds(75),
            body_idle_timeout: seconds(100),
            half_close_timeout: seconds(2),
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
