//! RequestCounters per serving thread, summed when they are read: serving threads share no counter.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use proxy::{ProxyError, Stats};

use crate::routes::table::RouteTable;

/// The counters of one serving thread. No other thread writes them.
#[derive(Default)]
pub(crate) struct RequestCounters {
    /// Responses by the first digit of the status.
    responses: [AtomicU64; 6],
    entered: AtomicU64,
    left: AtomicU64,
    wrong_proofs: AtomicU64,
    unleased: AtomicU64,
    retries: AtomicU64,
    waiting_pages: AtomicU64,
    rate_limited: AtomicU64,
    /// Errors by code. Errors are rare, hence no array.
    errors: Mutex<BTreeMap<&'static str, u64>>,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// The proxy engine's own counters.
    pub(crate) engine: Arc<Stats>,
}

/// The counters of the thread that manages the leases.
#[derive(Default)]
pub(crate) struct LeaseCounters {
    live: AtomicU64,
    requests: AtomicU64,
    wakes: AtomicU64,
    moves: AtomicU64,
}

/// The values that are read at the moment of rendering.
pub(crate) struct Gauges {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) is_feed_connected: bool,
    pub(crate) is_orchestrator_away: bool,
    pub(crate) held_requests: Bounded,
    pub(crate) wake_watchers: Bounded,
    pub(crate) rate_limit_pairs: Bounded,
    /// Clients that may be connected at once, on all threads.
    pub(crate) connections_limit: usize,
}

/// How much of a bounded resource is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounded {
    pub(crate) current: u64,
    pub(crate) limit: u64,
}

/// Counts a request or tunnel under way until dropped.
pub(crate) struct InFlight(Arc<RequestCounters>);

impl RequestCounters {
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        add_one(&self.entered);
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
        count(&self.errors, error.code());
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        count(&self.refusals, reason);
    }
}

impl LeaseCounters {
    pub(crate) fn set_live_leases(&self, count: usize) {
        self.live.store(count as u64, Relaxed);
    }

    pub(crate) fn count_request(&self) {
        add_one(&self.requests);
    }

    pub(crate) fn count_wake(&self) {
        add_one(&self.wakes);
    }

    /// Counts a tenant that is at another address than before.
    pub(crate) fn count_target_change(&self) {
        add_one(&self.moves);
    }
}

fn count(counts: &Mutex<BTreeMap<&'static str, u64>>, word: &'static str) {
    let mut counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
    *counts.entry(word).or_default() += 1;
}

impl Drop for InFlight {
    fn drop(&mut self) {
        add_one(&self.0.left);
    }
}

/// Adds without a locked instruction: each counter has one writer.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// Renders the text format of Prometheus.
pub(crate) fn render(
    threads: &[Arc<RequestCounters>],
    lease_counters: &LeaseCounters,
    gauges: &Gauges,
) -> String {
    let sum = |pick: &dyn Fn(&RequestCounters) -> &AtomicU64| {
        threads.iter().map(|c| pick(c).load(Relaxed)).sum::<u64>()
    };
    let mut out = String::new();
    let mut write_metric = |name: &str, kind: &str, help: &str, value: u64| {
        let name = format!("cial_router_{name}");
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    // Read in this order: a request that leaves in between has entered.
    let left = sum(&|c| &c.left);
    let entered = sum(&|c| &c.entered);
    let live = lease_counters.live.load(Relaxed);
    let engine = |pick: &dyn Fn(&Stats) -> usize| {
        threads.iter().map(|c| pick(&c.engine) as u64).sum::<u64>()
    };
    for (name, help, value) in [
        ("routes", "Tenants in the route table.", gauges.table.len() as u64),
        (
            "revision",
            "Revision of the route table, 0 before the first.",
            gauges.table.revision.unwrap_or(0),
        ),
        (
            "control_plane_up",
            "Whether the route feed is connected.",
            gauges.is_feed_connected.into(),
        ),
        (
            "orchestrator_up",
            "Whether the orchestrator answered the last call.",
            (!gauges.is_orchestrator_away).into(),
        ),
        ("in_flight", "Requests and tunnels under way.", entered.saturating_sub(left)),
        ("leases", "Tenants with a live lease.", live),
        ("idle_upstreams", "Idle connections to tenants.", engine(&|engine| engine.idle())),
    ] {
        write_metric(name, "gauge", help, value);
    }
    let connections = Bounded {
        current: engine(&|engine| engine.connections()),
        limit: gauges.connections_limit as u64,
    };
    for (name, what, bounded) in [
        ("connections", "Clients connected, tunnels included", connections),
        ("held_requests", "Requests that wait for a lease", gauges.held_requests),
        ("wake_watchers", "Waiting pages that watch a wake", gauges.wake_watchers),
        (
            "rate_limit_pairs",
            "Pairs of client and tenant with a rate limit of their own",
            gauges.rate_limit_pairs,
        ),
    ] {
        write_metric(&format!("{name}_current"), "gauge", &format!("{what}."), bounded.current);
        let help = format!("{what}: the upper bound.");
        write_metric(&format!("{name}_limit"), "gauge", &help, bounded.limit);
    }
    let (evicted, refused) = threads.iter().fold((0, 0), |(evicted, refused), c| {
        (evicted + c.engine.evicted(), refused + c.engine.refused())
    });
    let pauses = threads.iter().map(|c| c.engine.pauses()).sum();
    for (name, help, value) in [
        ("forwarded", "Requests forwarded to a tenant.", entered),
        ("wrong_proof", "Responses rejected for want of a proof.", sum(&|c| &c.wrong_proofs)),
        (
            "accept_pauses",
            "Times that a thread accepted no client because its connections were at the limit.",
            pauses,
        ),
        ("evicted_connections", "Silent connections closed to make room for others.", evicted),
        (
            "refused_connections",
            "Connections refused because their client had all the seats it may have.",
            refused,
        ),
        ("lease_requests", "Leases requested.", lease_counters.requests.load(Relaxed)),
        ("wakes", "Leases for which a tenant was woken.", lease_counters.wakes.load(Relaxed)),
        (
            "moves",
            "Leases on a tenant at another address than before.",
            lease_counters.moves.load(Relaxed),
        ),
        ("unleased", "Requests forwarded without a lease.", sum(&|c| &c.unleased)),
        ("retries", "Requests sent again after their tenant died.", sum(&|c| &c.retries)),
        ("waiting_pages", "Waiting pages served.", sum(&|c| &c.waiting_pages)),
        ("rate_limited", "Requests refused with 429.", sum(&|c| &c.rate_limited)),
    ] {
        write_metric(&format!("{name}_total"), "counter", help, value);
    }
    out.push_str("# HELP cial_router_responses_total Responses by class of status.\n# TYPE cial_router_responses_total counter\n");
    for class in 1..=5 {
        let count = sum(&|c| &c.responses[class]);
        let _ = writeln!(out, "cial_router_responses_total{{class=\"{class}xx\"}} {count}");
    }
    let help = "Requests that ended in an error of the proxy.";
    write_labelled(&mut out, ("errors", "code", help), threads.iter().map(|c| &c.errors));
    let help = "Requests that got no lease.";
    write_labelled(&mut out, ("refusals", "reason", help), threads.iter().map(|c| &c.refusals));
    out
}

fn write_labelled<'a>(
    out: &mut String,
    (name, label, help): (&str, &str, &str),
    all: impl Iterator<Item = &'a Mutex<BTreeMap<&'static str, u64>>>,
) {
    let mut sums = BTreeMap::<&str, u64>::new();
    for counts in all {
        let counts = counts.lock().unwrap_or_else(PoisonError::into_inner);
        counts.iter().for_each(|(word, count)| *sums.entry(word).or_default() += count);
    }
    let name = format!("cial_router_{name}_total");
    let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} counter\n");
    for (word, count) in sums {
        let _ = writeln!(out, "{name}{{{label}=\"{word}\"}} {count}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_of_threads_are_summed() {
        let threads = [Arc::new(RequestCounters::default()), Arc::new(RequestCounters::default())];
        let held = threads[0].enter();
        drop(threads[1].enter());
        threads.iter().for_each(|c| c.responded(204));
        threads[1].proxy_error(&ProxyError::ResponseTruncated);
        threads[0].refused("waking");
        let lease_counters = LeaseCounters::default();
        lease_counters.count_request();
        let gauges = Gauges {
            table: Arc::new(RouteTable::default()),
            is_feed_connected: true,
            is_orchestrator_away: true,
            held_requests: Bounded { current: 2, limit: 20 },
            wake_watchers: Bounded { current: 1, limit: 10 },
            rate_limit_pairs: Bounded { current: 3, limit: 30 },
            connections_limit: 4,
        };
        insta::assert_snapshot!(render(&threads, &lease_counters, &gauges));
        drop(held);
    }
}
