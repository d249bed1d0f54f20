//! Metrics. What is counted for every request has a counter in each serving thread, summed at a scrape: no cache line moves
//! between threads. Errors are rare, and all threads share their counters.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::registry::Registry;
use proxy::{ProxyError, Stats};
use service::metrics::{self, Bounded, Described, Labels, Samples};

use crate::routes::table::RouteTable;

/// All counters of this process.
#[derive(Default)]
pub(crate) struct Metrics {
    threads: Vec<Arc<RequestCounters>>,
    errors: ErrorCounters,
    pub(crate) leases: LeaseCounters,
}

/// The counters of one serving thread. No other thread writes them, `errors` excepted.
#[derive(Default)]
pub(crate) struct RequestCounters {
    /// Responses by the first digit of the status.
    responses: [AtomicU64; 6],
    requests_started: AtomicU64,
    requests_ended: AtomicU64,
    wrong_proofs: AtomicU64,
    unleased: AtomicU64,
    retries: AtomicU64,
    waiting_pages: AtomicU64,
    rate_limited: AtomicU64,
    errors: ErrorCounters,
    /// The proxy engine's own counters.
    pub(crate) engine: Arc<Stats>,
}

type CounterFamily = Described<Family<Labels<1>, Counter>>;

/// The counters of requests that fail. Clones share them.
#[derive(Clone, Default)]
struct ErrorCounters {
    by_code: CounterFamily,
    refusals: CounterFamily,
}

/// The counters of the thread that manages the leases. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct LeaseCounters {
    live_leases: Gauge,
    requests: Counter,
    wakes: Counter,
    target_moves: Counter,
}

/// The values that are read at the moment of rendering.
pub(crate) struct Gauges {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) is_feed_connected: bool,
    pub(crate) is_orchestrator_unreachable: bool,
    pub(crate) held_requests: Bounded,
    pub(crate) wake_watchers: Bounded,
    pub(crate) rate_limit_pairs: Bounded,
    /// Clients that may be connected at once, on all threads.
    pub(crate) connections_limit: usize,
}

/// Counts a request or tunnel under way until dropped.
pub(crate) struct InFlight(Arc<RequestCounters>);

impl RequestCounters {
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        add_one(&self.requests_started);
        InFlight(self.clone())
    }

    pub(crate) fn responded(&self, status: u16) {
        add_one(&self.responses[usize::from(status / 100).min(5)]);
    }

    pub(crate) fn wrong_proof(&self) {
        add_one(&self.wrong_proofs);
    }

    pub(crate) fn unleased(&self) {
        add_one(&self.unleased);
    }

    pub(crate) fn retried(&self) {
        add_one(&self.retries);
    }

    pub(crate) fn waiting_page(&self) {
        add_one(&self.waiting_pages);
    }

    pub(crate) fn rate_limited(&self) {
        add_one(&self.rate_limited);
    }

    pub(crate) fn proxy_error(&self, error: &ProxyError) {
        self.errors.by_code.0.get_or_create(&[("code", error.code())]).inc();
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        self.errors.refusals.0.get_or_create(&[("reason", reason)]).inc();
    }
}

impl LeaseCounters {
    pub(crate) fn set_live_leases(&self, count: usize) {
        self.live_leases.set(i64::try_from(count).unwrap_or(i64::MAX));
    }

    pub(crate) fn count_request(&self) {
        self.requests.inc();
    }

    pub(crate) fn count_wake(&self) {
        self.wakes.inc();
    }

    /// Counts a tenant that is at another address than before.
    pub(crate) fn count_target_change(&self) {
        self.target_moves.inc();
    }
}

impl Drop for InFlight {
    fn drop(&mut self) {
        add_one(&self.0.requests_ended);
    }
}

/// Adds without a locked instruction: each counter has one writer.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

impl Metrics {
    /// Adds the counters of a further serving thread.
    pub(crate) fn add_thread(&mut self) -> Arc<RequestCounters> {
        let errors = self.errors.clone();
        let counters = Arc::new(RequestCounters { errors, ..RequestCounters::default() });
        self.threads.push(counters.clone());
        counters
    }

    /// Renders the text format of Prometheus.
    pub(crate) fn text(&self, gauges: &Gauges) -> String {
        let mut registry = Registry::with_prefix("cial_router");
        // In this order: a request that ends in between has started before.
        let requests_ended = self.sum(|c| &c.requests_ended);
        let requests_started = self.sum(|c| &c.requests_started);
        self.register_gauges(
            &mut registry,
            gauges,
            requests_started.saturating_sub(requests_ended),
        );
        self.register_bounded(&mut registry, gauges);
        self.register_counters(&mut registry, requests_started);
        let classes = ["1xx", "2xx", "3xx", "4xx", "5xx"].into_iter().zip(1..);
        let responses =
            classes.map(|(class, index)| ([("class", class)], self.sum(|c| &c.responses[index])));
        let help = "Responses by class of status";
        registry.register("responses", help, Samples::counters(responses));
        let help = "Requests that ended in an error of the proxy";
        registry.register("errors", help, self.errors.by_code.clone());
        registry.register("refusals", "Requests that got no lease", self.errors.refusals.clone());
        metrics::render(&registry)
    }

    fn register_gauges(&self, registry: &mut Registry, gauges: &Gauges, in_flight: u64) {
        let table = &gauges.table;
        let revision = table.revision.unwrap_or(0);
        let idle = self.engine(Stats::idle);
        for (name, help, value) in [
            ("routes", "Tenants in the route table", table.len() as u64),
            ("revision", "Revision of the route table, 0 before the first", revision),
            (
                "control_plane_up",
                "Whether the route feed is connected",
                gauges.is_feed_connected.into(),
            ),
            (
                "orchestrator_up",
                "Whether the orchestrator answered the last call",
                (!gauges.is_orchestrator_unreachable).into(),
            ),
            ("in_flight", "Requests and tunnels under way", in_flight),
            ("idle_upstreams", "Idle connections to tenants", idle as u64),
        ] {
            registry.register(name, help, ConstGauge::new(value));
        }
        registry.register("leases", "Tenants with a live lease", self.leases.live_leases.clone());
    }

    fn register_bounded(&self, registry: &mut Registry, gauges: &Gauges) {
        let connections =
            Bounded { current: self.engine(Stats::connections), limit: gauges.connections_limit };
        for (name, help, value) in [
            ("connections", "Clients connected, tunnels included", connections),
            ("held_requests", "Requests that wait for a lease", gauges.held_requests),
            ("wake_watchers", "Waiting pages that watch a wake", gauges.wake_watchers),
            (
                "rate_limit_pairs",
                "Pairs of client and tenant with a rate limit of their own",
                gauges.rate_limit_pairs,
            ),
        ] {
            value.register(registry, name, help);
        }
    }

    fn register_counters(&self, registry: &mut Registry, requests_started: u64) {
        for (name, help, value) in [
            ("forwarded", "Requests forwarded to a tenant", requests_started),
            (
                "wrong_proof",
                "Responses rejected for want of a proof",
                self.sum(|c| &c.wrong_proofs),
            ),
            (
                "accept_pauses",
                "Times that a thread accepted no client because its connections were at the limit",
                self.engine(Stats::pauses),
            ),
            (
                "evicted_connections",
                "Silent connections closed to make room for others",
                self.engine(Stats::evicted),
            ),
            (
                "refused_connections",
                "Connections refused because their client had as many as it may have",
                self.engine(Stats::refused),
            ),
            ("unleased", "Requests forwarded without a lease", self.sum(|c| &c.unleased)),
            ("retries", "Requests sent again after their tenant died", self.sum(|c| &c.retries)),
            ("waiting_pages", "Waiting pages served", self.sum(|c| &c.waiting_pages)),
            ("rate_limited", "Requests refused with 429", self.sum(|c| &c.rate_limited)),
        ] {
            registry.register(name, help, ConstCounter::new(value));
        }
        for (name, help, counter) in [
            ("lease_requests", "Leases requested", &self.leases.requests),
            ("wakes", "Leases for which a tenant was woken", &self.leases.wakes),
            (
                "moves",
                "Leases on a tenant at another address than before",
                &self.leases.target_moves,
            ),
        ] {
            registry.register(name, help, counter.clone());
        }
    }

    fn sum(&self, pick: impl Fn(&RequestCounters) -> &AtomicU64) -> u64 {
        self.threads.iter().map(|counters| pick(counters).load(Relaxed)).sum()
    }

    fn engine<T: std::iter::Sum>(&self, pick: fn(&Stats) -> T) -> T {
        self.threads.iter().map(|counters| pick(&counters.engine)).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_threads_are_summed() {
        let mut metrics = Metrics::default();
        let threads = [metrics.add_thread(), metrics.add_thread()];
        let held = threads[0].enter();
        drop(threads[1].enter());
        threads.iter().for_each(|c| c.responded(204));
        threads.iter().for_each(|c| c.proxy_error(&ProxyError::ResponseTruncated));
        threads[0].refused("waking");
        metrics.leases.count_request();
        let gauges = Gauges {
            table: Arc::new(RouteTable::default()),
            is_feed_connected: true,
            is_orchestrator_unreachable: true,
            held_requests: Bounded { current: 2, limit: 20 },
            wake_watchers: Bounded { current: 1, limit: 10 },
            rate_limit_pairs: Bounded { current: 3, limit: 30 },
            connections_limit: 4,
        };
        insta::assert_snapshot!(metrics.text(&gauges));
        drop(held);
    }
}
