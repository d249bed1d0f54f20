//! Connection counts of one serving thread, readable from other threads.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// The counters that [`Settings::stats`](crate::Settings) passes in. Only the serving thread
/// writes.
#[derive(Debug, Default)]
pub struct Stats {
    connections: AtomicUsize,
    idle: AtomicUsize,
    pauses: AtomicU64,
    evicted: AtomicU64,
    refused: AtomicU64,
}

impl Stats {
    /// Connected clients, tunnels included.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Idle upstream connections as of the last timer tick, so that no request pays for counting.
    pub fn idle(&self) -> usize {
        self.idle.load(Relaxed)
    }

    /// How often accepting paused because all connection slots were in use.
    pub fn pauses(&self) -> u64 {
        self.pauses.load(Relaxed)
    }

    pub(crate) fn set_connections(&self, count: usize) {
        self.connections.store(count, Relaxed);
    }

    pub(crate) fn set_idle(&self, count: usize) {
        self.idle.store(count, Relaxed);
    }

    pub(crate) fn count_accept_pause(&self) {
        self.pauses.store(self.pauses() + 1, Relaxed);
    }
    /// How many silent connections were closed to make room.
    pub fn evicted(&self) -> u64 {
        self.evicted.load(Relaxed)
    }

    /// How many connections were refused because their client had as many as it may have.
    pub fn refused(&self) -> u64 {
        self.refused.load(Relaxed)
    }

    pub(crate) fn count_evicted(&self, count: usize) {
        self.evicted.store(self.evicted() + count as u64, Relaxed);
    }

    pub(crate) fn count_refused(&self) {
        self.refused.store(self.refused() + 1, Relaxed);
    }
}
