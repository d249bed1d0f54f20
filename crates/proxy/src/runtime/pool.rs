//! Idle upstream connections of one thread, by the identity of the upstream.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use crate::runtime::stream::Stream;
use crate::runtime::timers::Timers;
use crate::stats::Stats;

pub(crate) struct UpstreamPool {
    idle: RefCell<HashMap<u64, Vec<IdleConnection>, BuildHasherDefault<IdHasher>>>,
    /// Connections kept per upstream, and in total.
    max_per_upstream: usize,
    max_total: usize,
    total: Cell<usize>,
    timers: Rc<Timers>,
    stats: Arc<Stats>,
}

struct IdleConnection {
    stream: Stream,
    due: u64,
}

impl UpstreamPool {
    pub(crate) fn new(
        (max_per_upstream, max_total): (usize, usize),
        timers: Rc<Timers>,
        stats: Arc<Stats>,
    ) -> Self {
        let total = Cell::new(0);
        Self { idle: RefCell::default(), max_per_upstream, max_total, total, timers, stats }
    }

    /// Takes the most recently used connection that is still open. `checks_kernel` queries the kernel, for a request that
    /// cannot be sent twice.
    pub(crate) fn take_idle(&self, upstream: u64, checks_kernel: bool) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&upstream)?;
        while let Some(IdleConnection { stream, .. }) = kept.pop() {
            self.timers.disarm();
            self.total.set(self.total.get() - 1);
            if if checks_kernel { stream.is_reusable_by_kernel() } else { stream.is_reusable() } {
                return Some(stream);
            }
        }
        None
    }

    pub(crate) fn put(&self, upstream: u64, stream: Stream, due: u64) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(upstream).or_default();
        if kept.len() < self.max_per_upstream && self.total.get() < self.max_total {
            kept.push(IdleConnection { stream, due });
            self.total.set(self.total.get() + 1);
            self.timers.arm();
        }
    }

    /// Closes expired connections, and connections that the upstream closed.
    pub(crate) fn close_expired(&self, now: u64) {
        let mut all = 0;
        self.idle.borrow_mut().retain(|_, kept| {
            let before = kept.len();
            kept.retain(|idle| idle.due > now && idle.stream.is_reusable());
            (kept.len()..before).for_each(|_| self.timers.disarm());
            all += kept.len();
            !kept.is_empty()
        });
        self.total.set(all);
        self.stats.set_idle(all);
    }

    /// Closes all idle connections.
    pub(crate) fn close_all(&self) {
        self.close_expired(u64::MAX);
    }
}

/// Identities are small unique numbers, so hashing only spreads them over the high bits.
#[derive(Default)]
struct IdHasher(u64);

impl Hasher for IdHasher {
    fn write(&mut self, bytes: &[u8]) {
        bytes.iter().for_each(|b| self.0 = (self.0 << 8) | u64::from(*b));
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }

    fn finish(&self) -> u64 {
        self.0.wrapping_mul(0x9e37_79b9_7f4a_7c15)
    }
}
