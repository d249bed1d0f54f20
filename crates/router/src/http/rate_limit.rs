//! How often one client may ask one tenant. No other client, and no other tenant, notices.
//!
//! Each pair has a bucket of its own, shared by all threads without a lock. A thread finds it in a map of its own; only
//! a pair that this thread has not seen for a while costs a look into the map that all share.

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

/// `CIAL_RATE_LIMIT`: requests a second of one client to one tenant, and how many at once; or `off`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate(Option<(NonZeroU32, NonZeroU32)>);

/// A text that is no rate.
#[derive(Debug)]
pub struct InvalidRate;

/// Who asks whom.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct ClientTenantPair {
    tenant: TenantId,
    client: IpAddr,
}

type Bucket<C> = RateLimiter<NotKeyed, InMemoryState, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// All pairs of all threads.
pub(crate) struct RateLimit<C: Clock = DefaultClock> {
    quota: Quota,
    clock: C,
    most: usize,
    pairs: Mutex<SharedBuckets<C>>,
    /// One for everybody there is no room for.
    rest: Arc<Bucket<C>>,
    count: AtomicU64,
}

struct SharedBuckets<C: Clock> {
    buckets: HashMap<ClientTenantPair, Arc<Bucket<C>>>,
    /// So many who found no room are turned away before all are looked at again.
    turned_away: usize,
}

/// The pairs that one thread has seen lately.
pub(crate) struct LocalRateLimit<C: Clock = DefaultClock> {
    limit: Arc<RateLimit<C>>,
    buckets: RefCell<HashMap<ClientTenantPair, Arc<Bucket<C>>>>,
}

/// So many a thread keeps at hand.
const AT_HAND: usize = 4_096;

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
        Self { tenant, client: forwarded::counted_as(client) }
    }
}

impl RateLimit {
    /// `None`: no limit. `most`: pairs that are told apart.
    pub(crate) fn new(rate: Rate, most: usize) -> Option<Arc<Self>> {
        rate.quota().map(|quota| Self::with(quota, most, DefaultClock::default()))
    }
}

impl<C: Clock + Clone> RateLimit<C> {
    fn with(quota: Quota, most: usize, clock: C) -> Arc<Self> {
        let rest = Arc::new(Bucket::direct_with_clock(quota, clock.clone()));
        let pairs = Mutex::new(SharedBuckets { buckets: HashMap::new(), turned_away: 0 });
        Arc::new(Self { quota, clock, most, pairs, rest, count: AtomicU64::new(0) })
    }

    pub(crate) fn seen(self: &Arc<Self>) -> LocalRateLimit<C> {
        LocalRateLimit { limit: self.clone(), buckets: RefCell::default() }
    }

    /// How many pairs are told apart now.
    pub(crate) fn count(&self) -> u64 {
        self.count.load(Relaxed)
    }

    fn bucket(&self, pair: ClientTenantPair) -> Arc<Bucket<C>> {
        let mut pairs = self.pairs.lock().unwrap_or_else(PoisonError::into_inner);
        let SharedBuckets { buckets, turned_away } = &mut *pairs;
        if let Some(bucket) = buckets.get(&pair) {
            return bucket.clone();
        }
        if buckets.len() >= self.most && *turned_away == 0 {
            // Whoever no thread has at hand and has its whole burst again is as good as never seen.
            let is_whole = |b: &Bucket<C>| matches!(b.check_n(self.quota.burst_size()), Ok(Ok(())));
            buckets.retain(|_, bucket| Arc::strong_count(bucket) > 1 || !is_whole(bucket));
            *turned_away = self.most / 16;
        }
        if buckets.len() >= self.most {
            *turned_away = turned_away.saturating_sub(1);
            return self.rest.clone();
        }
        let bucket = Arc::new(Bucket::direct_with_clock(self.quota, self.clock.clone()));
        buckets.insert(pair, bucket.clone());
        self.count.store(buckets.len() as u64, Relaxed);
        bucket
    }
}

impl<C: Clock + Clone> LocalRateLimit<C> {
    /// One more request; `Err`: too soon, by how much.
    pub(crate) fn check(&self, pair: ClientTenantPair) -> Result<(), Duration> {
        let mut buckets = self.buckets.borrow_mut();
        if !buckets.contains_key(&pair) {
            if buckets.len() >= AT_HAND {
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

    fn limit(rate: &str, most: usize) -> (Arc<RateLimit<FakeRelativeClock>>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let quota = rate.parse::<Rate>().unwrap().quota().unwrap();
        (RateLimit::with(quota, most, clock.clone()), clock)
    }

    #[test]
    fn a_burst_passes_then_the_rate_and_nobody_else_notices() {
        let (limit, clock) = limit("2:5", 100);
        let (one, other) = (limit.seen(), limit.seen());
        let greedy = pair(1, "10.0.0.1");
        // Both threads count on the same bucket.
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
    fn a_client_has_a_whole_64() {
        assert!(pair(1, "2001:db8::1") == pair(1, "2001:db8::ffff:1"));
        assert!(pair(1, "2001:db8::1") != pair(1, "2001:db8:0:1::1"));
    }

    #[test]
    fn beyond_the_limit_strangers_share_one_bucket_until_others_are_forgotten() {
        let (limit, clock) = limit("1:2", 32);
        for n in 0..32 {
            // Each by a thread that ends: nobody has it at hand.
            assert_eq!(limit.seen().check(pair(n, "10.0.0.1")), Ok(()));
        }
        assert_eq!(limit.count(), 32);
        let strangers = limit.seen();
        let passed = (100..110).filter(|n| strangers.check(pair(*n, "10.0.0.1")).is_ok()).count();
        assert_eq!((passed, limit.count()), (2, 32), "memory is bounded, and so is what they get");
        clock.advance(Duration::from_secs(60));
        let late = limit.seen();
        assert_eq!(late.check(pair(200, "10.0.0.1")), Ok(()));
        assert_eq!(limit.count(), 1, "the others have their whole burst again");
    }

    #[test]
    fn what_one_thread_keeps_at_hand_is_bounded() {
        let (limit, _clock) = limit("1:2", 2 * AT_HAND);
        let seen = limit.seen();
        for n in 0..=AT_HAND {
            assert_eq!(seen.check(pair(n as u128, "10.0.0.1")), Ok(()));
        }
        assert_eq!(seen.buckets.borrow().len(), 1);
    }

    #[test]
    fn rates_are_read() {
        let rate = |text: &str| text.parse::<Rate>().ok();
        assert_eq!(rate("off"), Some(Rate::OFF));
        assert_eq!(rate("50:1000"), Some(Rate::default()));
        assert_eq!(rate("7"), rate("7:7"));
        for text in ["", "0", "5:0", "5:", ":5", "-1", "5/s", "on"] {
            assert_eq!(rate(text), None, "{text}");
        }
    }
}
