//! Counters of each thread, added up when they are read: serving threads share none.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, PoisonError};

use proxy::{ProxyError, Stats};

use crate::routes::table::RouteTable;

/// What one thread counts. Only that thread writes.
#[derive(Default)]
pub(crate) struct Counters {
    /// By the first digit of the status.
    answers: [AtomicU64; 6],
    entered: AtomicU64,
    left: AtomicU64,
    wrong_proofs: AtomicU64,
    unleased: AtomicU64,
    retries: AtomicU64,
    waiting_pages: AtomicU64,
    rate_limited: AtomicU64,
    /// Rare, hence no arrays.
    faults: Mutex<BTreeMap<&'static str, u64>>,
    refusals: Mutex<BTreeMap<&'static str, u64>>,
    /// What the engine counts itself.
    pub(crate) engine: Arc<Stats>,
}

/// What the thread that holds the leases counts.
#[derive(Default)]
pub(crate) struct LeaseCounters {
    live: AtomicU64,
    asks: AtomicU64,
    wakes: AtomicU64,
    moves: AtomicU64,
}

/// What is shown beside what threads count.
pub(crate) struct Now {
    pub(crate) table: Arc<RouteTable>,
    pub(crate) is_connected: bool,
    pub(crate) is_keeper_away: bool,
    pub(crate) held: usize,
    pub(crate) watchers: usize,
    pub(crate) clients: u64,
    /// How many clients may be connected.
    pub(crate) connections: usize,
}

/// A request or tunnel under way, while it is held.
pub(crate) struct InFlight(Arc<Counters>);

impl Counters {
    pub(crate) fn enter(self: &Arc<Self>) -> InFlight {
        add_one(&self.entered);
        InFlight(self.clone())
    }

    pub(crate) fn answered(&self, status: u16) {
        add_one(&self.answers[usize::from(status / 100).min(5)]);
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

    pub(crate) fn fault(&self, fault: &ProxyError) {
        count(&self.faults, fault.code());
    }

    pub(crate) fn refused(&self, reason: &'static str) {
        count(&self.refusals, reason);
    }
}

impl LeaseCounters {
    pub(crate) fn live(&self, count: usize) {
        self.live.store(count as u64, Relaxed);
    }

    pub(crate) fn asked(&self) {
        add_one(&self.asks);
    }

    pub(crate) fn woke(&self) {
        add_one(&self.wakes);
    }

    /// A tenant was elsewhere than before.
    pub(crate) fn moved(&self) {
        add_one(&self.moves);
    }
}

fn count(words: &Mutex<BTreeMap<&'static str, u64>>, word: &'static str) {
    let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
    *words.entry(word).or_default() += 1;
}

impl Drop for InFlight {
    fn drop(&mut self) {
        add_one(&self.0.left);
    }
}

/// One writer: no locked instruction.
fn add_one(counter: &AtomicU64) {
    counter.store(counter.load(Relaxed) + 1, Relaxed);
}

/// The text that Prometheus reads.
pub(crate) fn shown(threads: &[Arc<Counters>], wakes: &LeaseCounters, now: &Now) -> String {
    let sum = |pick: &dyn Fn(&Counters) -> &AtomicU64| {
        threads.iter().map(|c| pick(c).load(Relaxed)).sum::<u64>()
    };
    let mut out = String::new();
    let mut one = |name: &str, kind: &str, help: &str, value: u64| {
        let _ = write!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}\n");
    };
    one("cial_router_routes", "gauge", "Tenants in the table.", now.table.len() as u64);
    let revision = now.table.revision.unwrap_or(0);
    one("cial_router_revision", "gauge", "Revision of the table; 0 before the first.", revision);
    let up = u64::from(now.is_connected);
    one("cial_router_control_plane_up", "gauge", "Whether the watch of the routes stands.", up);
    let up = u64::from(!now.is_keeper_away);
    one("cial_router_orchestrator_up", "gauge", "Whether it answered when last asked.", up);
    // Read in this order: what leaves in between has entered.
    let left = sum(&|c| &c.left);
    let entered = sum(&|c| &c.entered);
    let help = "Requests and tunnels under way.";
    one("cial_router_in_flight", "gauge", help, entered.saturating_sub(left));
    one("cial_router_forwarded_total", "counter", "Requests handed to a tenant.", entered);
    let wrong = sum(&|c| &c.wrong_proofs);
    one("cial_router_wrong_proof_total", "counter", "Answers held back for want of proof.", wrong);
    let live = wakes.live.load(Relaxed);
    one("cial_router_leases", "gauge", "Tenants that may be sent requests now.", live);
    let help = "Requests that wait for their tenant.";
    one("cial_router_held", "gauge", help, now.held as u64);
    let help = "Waiting pages that watch a wake.";
    one("cial_router_wake_watchers", "gauge", help, now.watchers as u64);
    let help = "Pairs of tenant and client that the rate limit tells apart.";
    one("cial_router_rate_limit_pairs", "gauge", help, now.clients);
    let engines = |pick: &dyn Fn(&Stats) -> usize| {
        threads.iter().map(|c| pick(&c.engine) as u64).sum::<u64>()
    };
    let help = "Clients connected, those in tunnels included.";
    one("cial_router_connections", "gauge", help, engines(&|engine| engine.connections()));
    let help = "How many may be; all others wait to be let in.";
    one("cial_router_connections_limit", "gauge", help, now.connections as u64);
    let help = "Connections to tenants that are kept for the next request.";
    one("cial_router_idle_upstreams", "gauge", help, engines(&|engine| engine.idle()));
    let pauses = threads.iter().map(|c| c.engine.pauses()).sum();
    for (name, help, value) in [
        ("accept_pauses", "Times that a thread let nobody in for want of room.", pauses),
        ("asks", "Leases asked for.", wakes.asks.load(Relaxed)),
        ("wakes", "Leases for which a tenant was woken.", wakes.wakes.load(Relaxed)),
        ("moves", "Leases on a tenant that was elsewhere than before.", wakes.moves.load(Relaxed)),
        ("unleased", "Requests sent without a lease.", sum(&|c| &c.unleased)),
        ("retries", "Requests sent again, their tenant having died.", sum(&|c| &c.retries)),
        ("waiting_pages", "Waiting pages shown.", sum(&|c| &c.waiting_pages)),
        ("rate_limited", "Requests refused with 429.", sum(&|c| &c.rate_limited)),
    ] {
        one(&format!("cial_router_{name}_total"), "counter", help, value);
    }
    out.push_str("# HELP cial_router_answers_total Answers by class of status.\n# TYPE cial_router_answers_total counter\n");
    for class in 1..=5 {
        let count = sum(&|c| &c.answers[class]);
        let _ = writeln!(out, "cial_router_answers_total{{class=\"{class}xx\"}} {count}");
    }
    let help = "Requests that met a fault.";
    words(&mut out, ("faults", "code", help), threads.iter().map(|c| &c.faults));
    let help = "Requests that did not get to their tenant.";
    words(&mut out, ("refusals", "reason", help), threads.iter().map(|c| &c.refusals));
    out
}

fn words<'a>(
    out: &mut String,
    (name, label, help): (&str, &str, &str),
    all: impl Iterator<Item = &'a Mutex<BTreeMap<&'static str, u64>>>,
) {
    let mut sums = BTreeMap::<&str, u64>::new();
    for one in all {
        let one = one.lock().unwrap_or_else(PoisonError::into_inner);
        one.iter().for_each(|(word, count)| *sums.entry(word).or_default() += count);
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
    fn threads_are_added_up() {
        let threads = [Arc::new(Counters::default()), Arc::new(Counters::default())];
        let held = threads[0].enter();
        drop(threads[1].enter());
        threads.iter().for_each(|c| c.answered(204));
        threads[1].fault(&ProxyError::ResponseTruncated);
        threads[0].refused("waking");
        let wakes = LeaseCounters::default();
        wakes.asked();
        let table = Arc::new(RouteTable::default());
        let (is_connected, is_keeper_away) = (true, true);
        let now = Now {
            table,
            is_connected,
            is_keeper_away,
            held: 2,
            watchers: 1,
            clients: 3,
            connections: 4,
        };
        insta::assert_snapshot!(shown(&threads, &wakes, &now));
        drop(held);
    }
}
