//! A tenant's lease as the serving threads see it: until when requests may be sent, where to, and
//! which requests use the tenant.
//!
//! A request takes its [`LeaseGuard`] before it reads the lease. A release clears the lease before
//! it counts guards. So one of the two always sees the other, and neither waits.

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
    /// The address as the orchestrator or app-api reported it.
    pub(crate) address: Upstream,
    pub(crate) upstream: proxy::Upstream,
}

/// The lease on one tenant at one target. Route tables share it for as long as the target stays the same.
pub(crate) struct CachedLease {
    pub(crate) tenant: TenantId,
    pub(crate) keys: Arc<TenantKeys>,
    pub(crate) target: Target,
    /// Requests may be sent before this moment.
    valid_until: AtomicU64,
    /// When the tenant was woken; 0 after the first byte of a response, or without a wake.
    woken_at: AtomicU64,
    /// Milliseconds from the wake to the first byte of a response; 0 once reported.
    first_byte_ms: AtomicU64,
    /// One per thread, allocated at the first use.
    usage_by_thread: OnceLock<Box<[ThreadUsage]>>,
    threads: usize,
    /// The manager knows that the tenant is used without a lease.
    is_use_reported: AtomicBool,
    /// Until then the manager receives no further report of stream data without a lease.
    next_report_at: AtomicU64,
}

/// How one thread uses a tenant. Only that thread writes `last_used` and the counters.
#[derive(Default)]
struct ThreadUsage {
    requests: Arc<()>,
    streams: Arc<()>,
    last_used: AtomicU64,
    responses: AtomicU64,
    server_errors: AtomicU64,
}

/// How the tenant answered at this target, summed over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Responses {
    pub(crate) all: u64,
    pub(crate) server_errors: u64,
}

/// Counts a use of a tenant while it is held: a request up to the last byte of its response, or a stream.
pub(crate) struct LeaseGuard {
    pub(crate) lease: Arc<CachedLease>,
    thread: usize,
    kind: GuardKind,
}

enum GuardKind {
    Request(#[expect(dead_code, reason = "held to be counted")] Arc<()>),
    Stream(#[expect(dead_code, reason = "held to be counted")] Arc<()>),
}

/// How a tenant is used, summed over all threads.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) requests: usize,
    pub(crate) streams: usize,
    /// The end of the last request or the last data of a stream; the epoch without any.
    pub(crate) last_used: Moment,
}

impl Usage {
    pub(crate) fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests + other.requests,
            streams: self.streams + other.streams,
            last_used: self.last_used.max(other.last_used),
        }
    }

    pub(crate) fn is_unused(&self) -> bool {
        self.requests == 0 && self.streams == 0
    }
}

impl CachedLease {
    /// `threads`: the number of serving threads.
    pub(crate) fn new(
        tenant: TenantId,
        keys: Arc<TenantKeys>,
        (generation, address): (i64, Upstream),
        threads: usize,
    ) -> Arc<Self> {
        let upstream = match &address {
            Upstream::Unix(path) => proxy::Upstream::unix(path),
            Upstream::Tcp(address) => proxy::Upstream::tcp(address),
        };
        Arc::new(Self {
            tenant,
            keys,
            target: Target { generation, address, upstream },
            valid_until: AtomicU64::new(0),
            woken_at: AtomicU64::new(0),
            first_byte_ms: AtomicU64::new(0),
            usage_by_thread: OnceLock::new(),
            threads,
            is_use_reported: AtomicBool::new(false),
            next_report_at: AtomicU64::new(0),
        })
    }

    pub(crate) fn is_at(&self, generation: i64, address: &Upstream) -> bool {
        self.target.generation == generation && self.target.address == *address
    }

    /// Counts a request of `thread`. It may be sent only if [`LeaseGuard::is_leased`] returns `true` afterwards.
    pub(crate) fn begin_request(self: &Arc<Self>, thread: usize) -> LeaseGuard {
        let counted = self.thread_usage(thread).requests.clone();
        LeaseGuard { lease: self.clone(), thread, kind: GuardKind::Request(counted) }
    }

    fn thread_usage(&self, thread: usize) -> &ThreadUsage {
        let all = self
            .usage_by_thread
            .get_or_init(|| (0..self.threads).map(|_| ThreadUsage::default()).collect());
        &all[thread]
    }

    /// Lets requests be sent before `valid_until`; the epoch ends the lease.
    pub(crate) fn set_valid_until(&self, valid_until: Moment) {
        self.valid_until.store(valid_until.0, SeqCst);
        fence(SeqCst);
    }

    pub(crate) fn is_live(&self, now: Moment) -> bool {
        now.0 < self.valid_until.load(SeqCst)
    }

    /// Returns `true` the first time.
    pub(crate) fn mark_use_reported(&self) -> bool {
        !self.is_use_reported.load(Relaxed) && !self.is_use_reported.swap(true, Relaxed)
    }

    /// Returns `true` once per `interval`, or after [`CachedLease::allow_report`].
    pub(crate) fn may_report(&self, now: Moment, interval: Millis) -> bool {
        let (at, next) = (self.next_report_at.load(Relaxed), now.plus(interval).0);
        at <= now.0 && self.next_report_at.compare_exchange(at, next, Relaxed, Relaxed).is_ok()
    }

    /// A lease was granted: the end of the lease is worth a report at once.
    pub(crate) fn allow_report(&self) {
        self.next_report_at.store(0, Relaxed);
    }

    pub(crate) fn usage(&self) -> Usage {
        let mut usage = Usage::default();
        for thread in self.usage_by_thread.get().into_iter().flatten() {
            usage.requests += Arc::strong_count(&thread.requests) - 1;
            usage.streams += Arc::strong_count(&thread.streams) - 1;
            // After the counts: a guard stores its end before it is dropped.
            fence(Acquire);
            usage.last_used = usage.last_used.max(Moment(thread.last_used.load(SeqCst)));
        }
        usage
    }

    pub(crate) fn responses(&self) -> Responses {
        let mut sum = Responses::default();
        for thread in self.usage_by_thread.get().into_iter().flatten() {
            sum.all += thread.responses.load(Relaxed);
            sum.server_errors += thread.server_errors.load(Relaxed);
        }
        sum
    }

    /// Sets when the tenant was woken for a request that waits; the epoch when for none.
    pub(crate) fn set_woken_at(&self, at: Moment) {
        self.woken_at.store(at.0, Relaxed);
    }

    /// Records the first byte of a response after a wake. Rarely has anything to record.
    pub(crate) fn on_response(&self) {
        if self.woken_at.load(Relaxed) == 0 {
            return;
        }
        let woken_at = self.woken_at.swap(0, Relaxed);
        if woken_at > 0 {
            self.first_byte_ms.store(clock::now().since(Moment(woken_at)).max(1), Relaxed);
        }
    }

    /// Returns the milliseconds from the wake to the first byte, once per wake.
    pub(crate) fn take_first_byte_ms(&self) -> Option<u32> {
        let millis = self.first_byte_ms.swap(0, Relaxed);
        (millis > 0).then(|| u32::try_from(millis).unwrap_or(u32::MAX))
    }
}

impl LeaseGuard {
    pub(crate) fn is_leased(&self) -> bool {
        fence(SeqCst);
        self.lease.is_live(clock::now())
    }

    /// Counts as a stream from here on: only its data keeps the tenant awake.
    pub(crate) fn convert_to_stream(&mut self) {
        let counted = self.lease.thread_usage(self.thread).streams.clone();
        // Data flows now: the tenant must not look unused between the two counts.
        self.record_use();
        self.kind = GuardKind::Stream(counted);
    }

    /// Records data of a stream. A sender reads [`LeaseGuard::is_leased`] afterwards.
    pub(crate) fn record_use(&self) {
        self.lease.thread_usage(self.thread).last_used.store(clock::now().0, SeqCst);
    }

    /// Counts a response of the tenant, or that it failed to give one.
    pub(crate) fn count_response(&self, status: u16) {
        let usage = self.lease.thread_usage(self.thread);
        // Without a locked instruction: each counter has one writer.
        let add_one = |counter: &AtomicU64| counter.store(counter.load(Relaxed) + 1, Relaxed);
        add_one(&usage.responses);
        if status >= 500 {
            add_one(&usage.server_errors);
        }
    }

    pub(crate) fn is_stream(&self) -> bool {
        matches!(self.kind, GuardKind::Stream(_))
    }
}

impl Drop for LeaseGuard {
    fn drop(&mut self) {
        if let GuardKind::Request(_) = self.kind {
            self.record_use();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cached_lease() -> Arc<CachedLease> {
        let keys = TenantKeys { route_token: String::new(), route_proof: String::new() };
        let tenant = TenantId::new(uuid::Uuid::from_u128(1));
        let target = (1, Upstream::Unix("/1".to_owned()));
        CachedLease::new(tenant, Arc::new(keys), target, 2)
    }

    #[test]
    fn guards_are_counted_and_leave_the_time_of_their_end() {
        let lease = cached_lease();
        assert_eq!(lease.usage(), Usage::default());
        let (one, mut other) = (lease.begin_request(0), lease.begin_request(1));
        assert_eq!((lease.usage().requests, lease.usage().streams), (2, 0));
        other.convert_to_stream();
        assert_eq!((lease.usage().requests, lease.usage().streams), (1, 1));
        let before = lease.usage().last_used;
        assert!(before > Moment(0), "a stream begins with data");
        drop(one);
        assert_eq!((lease.usage().requests, lease.usage().streams), (0, 1));
        assert!(lease.usage().last_used >= before);
        drop(other);
        assert_eq!((lease.usage().requests, lease.usage().streams), (0, 0));
    }

    #[test]
    fn responses_are_counted_over_all_threads() {
        let lease = cached_lease();
        assert_eq!(lease.responses(), Responses::default());
        for (thread, status) in [(0, 200), (0, 503), (1, 404), (1, 500)] {
            lease.begin_request(thread).count_response(status);
        }
        assert_eq!(lease.responses(), Responses { all: 4, server_errors: 2 });
    }

    #[test]
    fn only_a_live_lease_lets_a_request_through() {
        let lease = cached_lease();
        let guard = lease.begin_request(0);
        assert!(!guard.is_leased());
        lease.set_valid_until(clock::now().plus(60_000));
        assert!(guard.is_leased());
        lease.set_valid_until(clock::now());
        assert!(!guard.is_leased());
        lease.set_valid_until(Moment(0));
        assert!(!guard.is_leased());
    }

    #[test]
    fn use_without_a_lease_is_reported_once_per_interval() {
        let lease = cached_lease();
        let reported: Vec<_> = [1, 1, 1_000, 1_001, 1_002, 9_000]
            .into_iter()
            .filter(|at| lease.may_report(Moment(*at), 1_000))
            .collect();
        assert_eq!(reported, [1, 1_001, 9_000]);
        lease.allow_report();
        assert!(lease.may_report(Moment(9_001), 1_000));
    }

    #[test]
    fn the_first_byte_after_a_wake_is_reported_once() {
        let lease = cached_lease();
        lease.on_response();
        assert_eq!(lease.take_first_byte_ms(), None);
        lease.set_woken_at(clock::now());
        lease.on_response();
        lease.on_response();
        assert!(lease.take_first_byte_ms().is_some());
        assert_eq!(lease.take_first_byte_ms(), None);
    }
}
