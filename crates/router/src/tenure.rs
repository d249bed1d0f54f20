//! A lease as the serving threads see it: until when requests may be sent, where to, and who is at it.
//!
//! A request takes its [`Use`] before it looks at the clock; whoever gives a lease back takes the right to send away
//! before he looks for uses. So one of the two always sees the other, and neither waits.

use std::sync::atomic::Ordering::{Acquire, Relaxed, SeqCst};
use std::sync::atomic::{AtomicBool, AtomicU64, fence};
use std::sync::{Arc, OnceLock};

use lease::{Millis, Moment};
use protocol::TenantId;
use protocol::orchestrator::Upstream;

use crate::clock;
use crate::routes::keys::TenantKeys;

/// Where a tenant of one generation is reached.
pub(crate) struct Target {
    pub(crate) generation: i64,
    pub(crate) told: Upstream,
    pub(crate) upstream: proxy::Upstream,
}

/// One tenant at one target. Outlives tables for as long as its target stays the same.
pub(crate) struct Tenure {
    pub(crate) tenant: TenantId,
    pub(crate) keys: Arc<TenantKeys>,
    pub(crate) target: Target,
    /// Requests may be sent before then.
    until: AtomicU64,
    /// When it was woken; 0 once the first byte of an answer was seen, or when it was not.
    woke: AtomicU64,
    /// From there to the first byte; 0 once told.
    first_byte: AtomicU64,
    /// One a thread; made at the first use.
    shares: OnceLock<Box<[Share]>>,
    threads: usize,
    /// Its keeping knows of uses without a lease.
    is_known: AtomicBool,
    /// Before then its keeping is not told again that data of a stream came without a lease.
    quiet: AtomicU64,
}

/// What one thread does with a tenant. Only that thread writes `last`.
#[derive(Default)]
struct Share {
    requests: Arc<()>,
    streams: Arc<()>,
    last: AtomicU64,
}

/// A tenant in use: by a request to the last byte of its answer, or by a stream, which counts while its data flows.
pub(crate) struct Use {
    pub(crate) tenure: Arc<Tenure>,
    thread: usize,
    kind: Kind,
}

enum Kind {
    Request(#[expect(dead_code, reason = "held to be counted")] Arc<()>),
    Stream(#[expect(dead_code, reason = "held to be counted")] Arc<()>),
}

/// What a lease was used for, seen from the thread that renews it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) requests: usize,
    pub(crate) streams: usize,
    /// The end of the last request or the last data of a stream; the epoch when there was none.
    pub(crate) last: Moment,
}

impl Usage {
    pub(crate) fn and(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            streams: self.streams + other.streams,
            last: self.last.max(other.last),
        }
    }

    pub(crate) fn is_over(&self) -> bool {
        self.requests == 0 && self.streams == 0
    }
}

impl Tenure {
    /// `threads`: how many serve.
    pub(crate) fn new(
        tenant: TenantId,
        keys: Arc<TenantKeys>,
        (generation, told): (i64, Upstream),
        threads: usize,
    ) -> Arc<Self> {
        let upstream = match &told {
            Upstream::Unix(path) => proxy::Upstream::unix(path),
            Upstream::Tcp(address) => proxy::Upstream::tcp(address),
        };
        Arc::new(Self {
            tenant,
            keys,
            target: Target { generation, told, upstream },
            until: AtomicU64::new(0),
            woke: AtomicU64::new(0),
            first_byte: AtomicU64::new(0),
            shares: OnceLock::new(),
            threads,
            is_known: AtomicBool::new(false),
            quiet: AtomicU64::new(0),
        })
    }

    pub(crate) fn is_at(&self, generation: i64, upstream: &Upstream) -> bool {
        self.target.generation == generation && self.target.told == *upstream
    }

    /// A request of `thread` begins. It may be sent only if [`Use::is_leased`] says so afterwards.
    pub(crate) fn begin(self: &Arc<Self>, thread: usize) -> Use {
        let held = self.share(thread).requests.clone();
        Use { tenure: self.clone(), thread, kind: Kind::Request(held) }
    }

    fn share(&self, thread: usize) -> &Share {
        let shares =
            self.shares.get_or_init(|| (0..self.threads).map(|_| Share::default()).collect());
        &shares[thread]
    }

    /// Requests may be sent before `until`; at the epoch not any more.
    pub(crate) fn set_until(&self, until: Moment) {
        self.until.store(until.0, SeqCst);
        fence(SeqCst);
    }

    pub(crate) fn is_live(&self, now: Moment) -> bool {
        now.0 < self.until.load(SeqCst)
    }

    /// `true` the first time.
    pub(crate) fn make_known(&self) -> bool {
        !self.is_known.load(Relaxed) && !self.is_known.swap(true, Relaxed)
    }

    /// `true` for one of all who ask within `pause`, or until what it told was [heard](Tenure::is_heard).
    pub(crate) fn may_tell(&self, now: Moment, pause: Millis) -> bool {
        let (quiet, next) = (self.quiet.load(Relaxed), now.plus(pause).0);
        quiet <= now.0 && self.quiet.compare_exchange(quiet, next, Relaxed, Relaxed).is_ok()
    }

    /// There is a lease: its end is news.
    pub(crate) fn is_heard(&self) {
        self.quiet.store(0, Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for share in self.shares.get().into_iter().flatten() {
            usage.requests += Arc::strong_count(&share.requests) - 1;
            usage.streams += Arc::strong_count(&share.streams) - 1;
            // After the counts: whoever let go has said when before that.
            fence(Acquire);
            usage.last = usage.last.max(Moment(share.last.load(SeqCst)));
        }
        usage
    }

    /// It was woken for somebody who waits; at the epoch for nobody.
    pub(crate) fn woke(&self, at: Moment) {
        self.woke.store(at.0, Relaxed);
    }

    /// The first byte of an answer has come. Nearly always there is nothing to note.
    pub(crate) fn answered(&self) {
        if self.woke.load(Relaxed) == 0 {
            return;
        }
        let woke = self.woke.swap(0, Relaxed);
        if woke > 0 {
            self.first_byte.store(clock::now().since(Moment(woke)).max(1), Relaxed);
        }
    }

    /// Milliseconds from the wake to the first byte; once a wake.
    pub(crate) fn take_first_byte(&self) -> Option<u32> {
        let took = self.first_byte.swap(0, Relaxed);
        (took > 0).then(|| u32::try_from(took).unwrap_or(u32::MAX))
    }
}

impl Use {
    pub(crate) fn is_leased(&self) -> bool {
        fence(SeqCst);
        self.tenure.is_live(clock::now())
    }

    /// A stream from here on.
    pub(crate) fn becomes_stream(&mut self) {
        let held = self.tenure.share(self.thread).streams.clone();
        // Data flows now: it may not look idle between the two.
        self.stamp();
        self.kind = Kind::Stream(held);
    }

    /// Data of a stream flows now. Whoever sends it looks at [`Use::is_leased`] afterwards.
    pub(crate) fn stamp(&self) {
        self.tenure.share(self.thread).last.store(clock::now().0, SeqCst);
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.kind, Kind::Stream(_))
    }
}

impl Drop for Use {
    fn drop(&mut self) {
        if let Kind::Request(_) = self.kind {
            self.stamp();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tenure() -> Arc<Tenure> {
        let keys = TenantKeys { route_token: String::new(), route_proof: String::new() };
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        let target = (1, Upstream::Unix("/1".to_owned()));
        Tenure::new(tenant, Arc::new(keys), target, 2)
    }

    #[test]
    fn what_is_held_is_seen_and_what_is_let_go_leaves_its_time() {
        let tenure = tenure();
        assert_eq!(tenure.usage(), Usage::default());
        let (one, mut other) = (tenure.begin(0), tenure.begin(1));
        assert_eq!((tenure.usage().requests, tenure.usage().streams), (2, 0));
        other.becomes_stream();
        assert_eq!((tenure.usage().requests, tenure.usage().streams), (1, 1));
        let before = tenure.usage().last;
        assert!(before > Moment(0), "a stream begins with data");
        drop(one);
        assert_eq!((tenure.usage().requests, tenure.usage().streams), (0, 1));
        assert!(tenure.usage().last >= before);
        drop(other);
        assert_eq!((tenure.usage().requests, tenure.usage().streams), (0, 0));
    }

    #[test]
    fn only_a_lease_that_lasts_lets_a_request_through() {
        let tenure = tenure();
        let used = tenure.begin(0);
        assert!(!used.is_leased());
        tenure.set_until(clock::now().plus(60_000));
        assert!(used.is_leased());
        tenure.set_until(clock::now());
        assert!(!used.is_leased());
        tenure.set_until(Moment(0));
        assert!(!used.is_leased());
    }

    #[test]
    fn of_all_who_have_something_to_tell_one_does_once_in_a_while() {
        let tenure = tenure();
        let told: Vec<_> = [1, 1, 1_000, 1_001, 1_002, 9_000]
            .into_iter()
            .filter(|at| tenure.may_tell(Moment(*at), 1_000))
            .collect();
        assert_eq!(told, [1, 1_001, 9_000]);
        tenure.is_heard();
        assert!(tenure.may_tell(Moment(9_001), 1_000));
    }

    #[test]
    fn the_first_byte_after_a_wake_is_told_once() {
        let tenure = tenure();
        tenure.answered();
        assert_eq!(tenure.take_first_byte(), None);
        tenure.woke(clock::now());
        tenure.answered();
        tenure.answered();
        assert!(tenure.take_first_byte().is_some());
        assert_eq!(tenure.take_first_byte(), None);
    }
}
