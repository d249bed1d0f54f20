//! Idle upstream connections of one thread, by the upstream's identity.

use std::cell::RefCell;
use std::collections::HashMap;
use std::hash::{BuildHasherDefault, Hasher};
use std::rc::Rc;
use std::sync::Arc;

use crate::stats::Stats;
use crate::stream::Stream;
use crate::sweep::Sweep;

pub(crate) struct Pool {
    idle: RefCell<HashMap<u64, Vec<Idle>, BuildHasherDefault<Identity>>>,
    /// For each upstream.
    limit: usize,
    sweep: Rc<Sweep>,
    stats: Arc<Stats>,
}

struct Idle {
    stream: Stream,
    due: u64,
}

impl Pool {
    pub(crate) fn new(limit: usize, sweep: Rc<Sweep>, stats: Arc<Stats>) -> Self {
        Self { idle: RefCell::default(), limit, sweep, stats }
    }

    /// The connection used last, if it still stands. `surely` asks the kernel: for a request that cannot be
    /// sent twice.
    pub(crate) fn take(&self, upstream: u64, surely: bool) -> Option<Stream> {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.get_mut(&upstream)?;
        while let Some(Idle { stream, .. }) = kept.pop() {
            self.sweep.disarm();
            if if surely { stream.is_surely_quiet() } else { stream.is_quiet() } {
                return Some(stream);
            }
        }
        None
    }

    pub(crate) fn put(&self, upstream: u64, stream: Stream, due: u64) {
        let mut idle = self.idle.borrow_mut();
        let kept = idle.entry(upstream).or_default();
        if kept.len() < self.limit {
            kept.push(Idle { stream, due });
            self.sweep.arm();
        }
    }

    /// Closes what was idle for too long, and what its upstream has closed.
    pub(crate) fn sweep(&self, now: u64) {
        let mut all = 0;
        self.idle.borrow_mut().retain(|_, kept| {
            let before = kept.len();
            kept.retain(|idle| idle.due > now && idle.stream.is_quiet());
            (kept.len()..before).for_each(|_| self.sweep.disarm());
            all += kept.len();
            !kept.is_empty()
        });
        self.stats.set_idle(all);
    }

    /// Closes all.
    pub(crate) fn clear(&self) {
        self.sweep(u64::MAX);
    }
}

/// Identities are small numbers, each given once: they need no mixing beyond a spread over the high bits.
#[derive(Default)]
struct Identity(u64);

impl Hasher for Identity {
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
