//! The rate limit: bounds how many requests one client sends to one tenant, without effect on other clients and other tenants.

mod bounded_states;

use std::fmt;
use std::net::IpAddr;
use std::num::NonZeroU32;
use std::str::FromStr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use governor::clock::{Clock, DefaultClock, Reference as _};
use governor::middleware::NoOpMiddleware;
use governor::{Quota, RateLimiter};
use protocol::TenantId;
use service::forwarded;

use bounded_states::BoundedStates;

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

type Limiter<C> =
    RateLimiter<ClientTenantPair, BoundedStates, C, NoOpMiddleware<<C as Clock>::Instant>>;

/// The token buckets of all pairs, which all threads share.
pub(crate) struct RateLimit<C: Clock = DefaultClock> {
    limiter: Limiter<C>,
    clock: C,
    /// How many pairs have a bucket of their own. All others share one.
    pub(crate) max_pairs: usize,
    /// When full buckets were last dropped for want of room.
    last_sweep: Mutex<Option<C::Instant>>,
}

/// The time from one sweep to the next while there is no room.
const SWEEP_INTERVAL: Duration = Duration::from_secs(1);

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
        let limit = |quota| Self::with(quota, max_pairs, DefaultClock::default());
        rate.quota().map(limit).map(Arc::new)
    }
}

impl<C: Clock + Clone> RateLimit<C> {
    fn with(quota: Quota, max_pairs: usize, clock: C) -> Self {
        let limiter = RateLimiter::new(quota, BoundedStates::new(max_pairs), clock.clone());
        Self { limiter, clock, max_pairs, last_sweep: Mutex::default() }
    }

    /// How many pairs have a bucket of their own now.
    pub(crate) fn count(&self) -> usize {
        self.limiter.len()
    }

    /// Counts one request.
    ///
    /// # Errors
    /// The bucket is empty; the next request may come after this time.
    pub(crate) fn check(&self, pair: ClientTenantPair) -> Result<(), Duration> {
        if self.limiter.len() >= self.max_pairs {
            self.sweep();
        }
        self.limiter.check_key(&pair).map_err(|not_yet| not_yet.wait_time_from(self.clock.now()))
    }

    /// Drops full buckets, which are as good as new ones. One thread sweeps, the others go on.
    fn sweep(&self) {
        let Ok(mut last_sweep) = self.last_sweep.try_lock() else { return };
        let now = self.clock.now();
        let is_due = |last| Duration::from(now.duration_since(last)) >= SWEEP_INTERVAL;
        if last_sweep.is_none_or(is_due) {
            self.limiter.retain_recent();
            *last_sweep = Some(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use governor::clock::FakeRelativeClock;

    use super::*;

    fn pair(tenant: u128, client: &str) -> ClientTenantPair {
        ClientTenantPair::new(TenantId::new(uuid::Uuid::from_u128(tenant)), client.parse().unwrap())
    }

    fn limit(rate: &str, max_pairs: usize) -> (RateLimit<FakeRelativeClock>, FakeRelativeClock) {
        let clock = FakeRelativeClock::default();
        let quota = rate.parse::<Rate>().unwrap().quota().unwrap();
        (RateLimit::with(quota, max_pairs, clock.clone()), clock)
    }

    #[test]
    fn a_burst_passes_then_the_rate_and_no_other_pair_is_limited() {
        let (limit, clock) = limit("2:5", 100);
        let greedy = pair(1, "10.0.0.1");
        let passed = (0..10).filter(|_| limit.check(greedy).is_ok()).count();
        assert_eq!(passed, 5);
        assert_eq!(limit.check(greedy), Err(Duration::from_millis(500)));
        assert_eq!(limit.check(pair(1, "10.0.0.2")), Ok(()), "another client");
        assert_eq!(limit.check(pair(2, "10.0.0.1")), Ok(()), "another tenant");
        clock.advance(Duration::from_millis(500));
        assert_eq!(limit.check(greedy), Ok(()));
        assert!(limit.check(greedy).is_err());
    }

    #[test]
    fn threads_share_the_bucket_of_a_pair() {
        let (limit, _clock) = limit("1:1000", 100);
        let passed = std::sync::atomic::AtomicUsize::new(0);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let ours =
                        (0..500).filter(|_| limit.check(pair(1, "10.0.0.1")).is_ok()).count();
                    passed.fetch_add(ours, std::sync::atomic::Ordering::Relaxed);
                });
            }
        });
        assert_eq!((passed.into_inner(), limit.count()), (1_000, 1));
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
            assert_eq!(limit.check(pair(n, "10.0.0.1")), Ok(()));
        }
        assert_eq!(limit.count(), 32);
        let passed = (100..110).filter(|n| limit.check(pair(*n, "10.0.0.1")).is_ok()).count();
        assert_eq!(
            (passed, limit.count()),
            (2, 32),
            "memory is bounded, and so are the requests that pass"
        );
        clock.advance(Duration::from_secs(60));
        assert_eq!(limit.check(pair(200, "10.0.0.1")), Ok(()));
        assert_eq!(limit.count(), 1, "the buckets of the others are full again");
    }

    #[test]
    fn a_flood_of_new_pairs_gives_no_limited_pair_a_new_bucket() {
        let (limit, clock) = limit("1:60", 32);
        let greedy = pair(1, "10.0.0.1");
        while limit.check(greedy).is_ok() {}
        for second in 1..=30 {
            clock.advance(Duration::from_secs(1));
            for n in 0..100 {
                let _ = limit.check(pair(1_000 * second + n, "10.0.0.2"));
            }
            assert!(limit.count() <= 32, "{}", limit.count());
            assert_eq!(limit.check(greedy), Ok(()), "the rate");
            assert!(limit.check(greedy).is_err(), "and no more after {second} s");
        }
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
