//! How much room of one thread is taken, for whoever watches it from another.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};

/// Given with [`Settings::stats`](crate::Settings). Only the thread that serves writes.
#[derive(Debug, Default)]
pub struct Stats {
    connections: AtomicUsize,
    idle: AtomicUsize,
    pauses: AtomicU64,
}

impl Stats {
    /// Clients connected, those in tunnels included.
    pub fn connections(&self) -> usize {
        self.connections.load(Relaxed)
    }

    /// Idle upstream connections, as of the last tick: no request pays for the count.
    pub fn idle(&self) -> usize {
        self.idle.load(Relaxed)
    }

    /// How often nobody was let in for want of room.
    pub fn pauses(&self) -> u64 {
        self.pauses.load(Relaxed)
    }

    pub(crate) fn set_connections(&self, count: usize) {
        self.connections.store(count, Relaxed);
    }

    pub(crate) fn set_idle(&self, count: usize) {
        self.idle.store(count, Relaxed);
    }

    pub(crate) fn paused(&self) {
        self.pauses.store(self.pauses() + 1, Relaxed);
    }
}
