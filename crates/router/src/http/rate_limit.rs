//! Limits how many requests one client sends to one tenant, without effect on other clients and other tenants.
//!
//! Each pair of client and tenant has a token bucket, which all threads share without a lock. A thread finds the bucket
//! in a map of its own. Only a pair that is new to the thread costs a look into the shared map.

use std::cell::RefCell;
use std::collections::HashMap;
use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::middleware::NoOpMiddleware;
use governor::state::{InMemoryState, NotKeyed};
use governor::{Quota, RateLimiter};
use protocol::TenantId;
use service::forwarded;

/// `CIAL_RATE_LIMIT`: requests per second and burst of one client to one tenant, or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<(NonZeroU32, NonZeroU32)>);

/// The text is not a rate.
#[derive(Debug)]
pub struct InvalidRate;

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientTenantPair {
    tenant: TenantId,
    client: IpAddr,
}

type Bucket<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The buckets of all pairs.
pub(crate) struct RateLimit<C: Clock = DefaultClock> {
    quota: Quota,
    clock: C,
    /// How many pairs have a bucket of their own.
    pub(crate) max_pairs: usize,
    pairs: Mutex<SharedBuckets<C>>,
    /// The bucket that all pairs beyond `max_pairs` share.
    overflow: Arc<Bucket<C>>,
    count: AtomicU64,
}

struct SharedBuckets<C: Clock> {
    buckets: HashMap<ClientTenantPair, Arc<Bucket<C>>>,
    /// How many new pairs go to the overflow bucket before unused buckets are looked for again.
    sweep_in: usize,
}

/// The buckets that one thread used lately.
pub(crate) struct LocalRateLimit<C: Clock = DefaultClock> {
    limit: Arc<RateLimit<C>>,
    buckets: RefCell<HashMap<ClientTenantPair, Arc<Bucket<C>>>>,
}

/// How many buckets a thread keeps in its own map.
const MAX_LOCAL_BUCKETS: usize = 4_096;

impl Rate {
    pub const OFF: Self = Self(None);

    fn quota(self) -> Option<Quota> {
        self.0.map(|(rate, burst)| Quota::per_second(rate).allow_burst(burst))
    }
}

impl Default for Rate {
    fn default() -> Self {
        const RATE: NonZeroU32 = NonZeroU32::new(50).unwrap();
        const BURST: NonZeroU32 = NonZeroU32::new(1_000).unwrap();
        Self(Some((RATE, BURST)))
    }
}

impl FromStr for Rate {
    type Err = InvalidRate;

    fn from_str(text: &str) -> Result<Self, InvalidRate> {
        if text == "off" {
            return Ok(Self::OFF);
        }
        let (rate, burst) = text.split_once(':').unwrap_or((text, text));
        let number = |text: &str| text.parse().map_err(|_| InvalidRate);
        Ok(Self(Some((number(rate)?, number(burst)?))))
    }
}

impl fmt::Display for InvalidRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(
            "must be off, or requests a second, or these and how many at once, like 50:1000",
        )
    }
}

impl ClientTenantPair {
    pub(crate) fn new(tenant: TenantId, client: IpAddr) -> Self {
        Self { tenant, client: forwarded::rate_limit_key(client) }
    }
}

impl RateLimit {
    /// Returns `None` when the rate is off. `max_pairs` bounds the memory.
    pub(crate) fn new(rate: Rate, max_pairs: usize) -> Option<Arc<Self>> {
        rate.quota().map(|quota| Self::with(quota, max_pairs, DefaultClock::default()))
    }
}

impl<C: Clock + Clone> RateLimit<C> {
    fn with(quota: Quota, max_pairs: usize, clock: C) -> Arc<Self> {
        let overflow = Arc::new(Bucket::direct_with_clock(quota, clock.clone()));
        let pairs = Mutex::new(SharedBuckets { buckets: HashMap::new(), sweep_in: 0 });
        Arc::new(Self { quota, clock, max_pairs, pairs, overflow, count: AtomicU64::new(0) })
    }

    pub(crate) fn local(self: &Arc<Self>) -> LocalRateLimit<C> {
        LocalRateLimit { limit: self.clone(), buckets: RefCell::default() }
    }

    /// How many pairs have a bucket of their own now.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    fn bucket(&self, pair: ClientTenantPair) -> Arc<Bucket<C>> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let SharedBuckets { buckets, sweep_in } = &mut *pairs;
        if let Some(bucket) = buckets.get(&pair) {
            return bucket.clone();
        }
        if buckets.len() >= self.max_pairs && *sweep_in == 0 {
            // A full bucket that no thread holds is as good as a new one.
            let is_full = |b: &Bucket<C>| matches!(b.check_n(self.quota.burst_size()), Ok(Ok(())));
            buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !is_full(bucket));
            *sweep_in = self.max_pairs / 16;
        }
        if buckets.len() >= self.max_pairs {
            *sweep_in = sweep_in.saturating_sub(1);
            return self.overflow.clone();
        }
        let bucket = Arc::new(Bucket::direct_with_clock(self.quota, self.clock.clone()));
        buckets.insert(pair, bucket.clone());
        self.count.store(buckets.len() as u64, Relaxed);
        bucket
    }
}

impl<C: Clock + Clone> LocalRateLimit<C> {
    /// Counts one request.
    ///
    /// # Errors
    /// The bucket is empty; the next request may come after this time.
    pub(crate) fn check(&self, pair: ClientTenantPair) -> Result<(), Duration> {
        let mut buckets = self.buckets.borrow_mut();
        if !buckets.contains_key(&pair) {
            if buckets.len() >= MAX_LOCAL_BUCKETS {
                buckets.clear();
            }
            buckets.insert(pair, self.limit.bucket(pair));
        }
        let Some(bucket) = buckets.get(&pair) else { return Ok(()) };
        bucket.check().map_err(|not_yet| not_yet.wait_time_from(self.limit.clock.now()))
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn pair(tenant: u128, client: &str) -> ClientTenantPair {
        ClientTenantPair::new(TenantId::new(uuid::Uuid::from_u128(tenant)), client.parse().unwrap())
    }

    fn limit(
        rate: &str,
        max_pairs: usize,
    ) -> (Arc<RateLimit<FakeRelativeClock>>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let quota = rate.parse::<Rate>().unwrap().quota().unwrap();
        (RateLimit::with(quota, max_pairs, clock.clone()), clock)
    }

    #[test]
    fn a_burst_passes_then_the_rate_and_no_other_pair_is_limited() {
        let (limit, clock) = limit("2:5", 100);
        let (one, other) = (limit.local(), limit.local());
        let greedy = pair(1, "10.0.0.1");
        // Both threads use one bucket.
        let passed = (0..10).filter(|n| [&one, &other][n % 2].check(greedy).is_ok()).count();
        assert_eq!(passed, 5);
        assert_eq!(one.check(greedy), Err(Duration::from_millis(500)));
        assert_eq!(one.check(pair(1, "10.0.0.2")), Ok(()), "another client");
        assert_eq!(one.check(pair(2, "10.0.0.1")), Ok(()), "another tenant");
        clock.advance(Duration::from_millis(500));
        assert_eq!(other.check(greedy), Ok(()));
        assert!(one.check(greedy).is_err());
    }

    #[test]
    fn an_ipv6_client_is_a_64_network() {
        assert!(pair(1, "2001:db8::1") == pair(1, "2001:db8::ffff:1"));
        assert!(pair(1, "2001:db8::1") != pair(1, "2001:db8:0:1::1"));
    }

    #[test]
    fn new_pairs_share_one_bucket_while_there_is_no_room() {
        let (limit, clock) = limit("1:2", 32);
        for n in 0..32 {
            // Each by a thread that ends, so that no thread holds the bucket.
            assert_eq!(limit.local().check(pair(n, "10.0.0.1")), Ok(()));
        }
        assert_eq!(limit.count(), 32);
        let newcomers = limit.local();
        let passed = (100..110).filter(|n| newcomers.check(pair(*n, "10.0.0.1")).is_ok()).count();
        assert_eq!(
            (passed, limit.count()),
            (2, 32),
            "memory is bounded, and so are the requests that pass"
        );
        clock.advance(Duration::from_secs(60));
        let late = limit.local();
        assert_eq!(late.check(pair(200, "10.0.0.1")), Ok(()));
        assert_eq!(limit.count(), 1, "the buckets of the others are full again");
    }

    #[test]
    fn the_map_of_a_thread_is_bounded() {
        let (limit, _clock) = limit("1:2", 2 * MAX_LOCAL_BUCKETS);
        let seen = limit.local();
        for n in 0..=MAX_LOCAL_BUCKETS {
            assert_eq!(seen.check(pair(n as u128, "10.0.0.1")), Ok(()));
        }
        assert_eq!(seen.buckets.borrow().len(), 1);
    }

    #[test]
    fn rates_parse() {
        let rate = |text: &str| text.parse::<Rate>().ok();
        assert_eq!(rate("off"), Some(Rate::OFF));
        assert_eq!(rate("50:1000"), Some(Rate::default()));
        assert_eq!(rate("7"), rate("7:7"));
        for text in ["", "0", "5:0", "5:", ":5", "-1", "5/s", "on"] {
            assert_eq!(rate(text), None, "{text}");
        }
    }
}
