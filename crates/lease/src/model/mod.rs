//! Explores every order of events within budgets: routers, transport, orchestrator, engine and clock,
//! with calls late, lost or repeated, and crashes. The cores that decide are the shipped ones,
//! [`LeaseManager`](crate::LeaseManager) and [`Authority`](crate::Authority); only the code around them is a stand-in.
//!
//! States are visited breadth first, so a trace to a violation is the shortest. Two states are the same
//! when only the time of day differs, or the values of counters that are only compared ([`canon`]).
//! A scene has budgets for time, for requests and for each kind of failure.

mod call;
mod canon;
mod container;
mod moves;
mod orchestrator;
mod router;
mod scenes;
mod system;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::Hasher as _;

use crate::EngineCall;
use crate::holder::command::RouteStatus;
use crate::holder::outage::CallHealth;
use container::Part;
use router::RequestKind;
use system::System;

/// One event. [`System::act`](system::System::act) defines the meaning of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Time advances by one unit, and the orchestrator's timer runs.
    Tick,
    /// A client requests the tenant of this router.
    Request(usize, RequestKind),
    /// The last byte of the requests in flight has passed.
    Finish(usize),
    /// The router's timer runs.
    TickRouter(usize),
    /// The router clears the published lease, and counts uses again.
    FinishRelease(usize),
    /// A client disconnects while it waits.
    WaiterLeaves(usize),
    RouteChanges(usize, RouteStatus),
    /// The tenant does not answer under its lease.
    LeaseFails(usize),
    RouterCrashes(usize),
    /// The call reaches the orchestrator, or its response the router.
    Deliver(u8),
    Repeat(u8),
    Lose(u8),
    /// The router gives the call up, which arrives all the same.
    Delay(u8),
    Fault(u8, CallHealth),
    /// The tenant reports whether it is busy.
    BusyReport(usize, bool),
    /// The orchestrator holds the tenant's lock and begins this call.
    BeginCall(usize),
    /// The engine's call for this tenant takes effect and returns.
    EngineReturns(usize),
    EngineRefuses(usize),
    /// The health endpoint of this tenant reports ready.
    BecomeReady(usize),
    /// The tenant exits by itself.
    Exit(usize),
    OwnerStops(usize),
    OwnerStarts(usize),
    /// The engine's calls in flight take effect or not, by the flag.
    OrchestratorCrashes(bool),
}

impl Move {
    const NAMES: [&str; 23] = [
        "tick",
        "request",
        "finish",
        "tick router",
        "finish release",
        "waiter leaves",
        "route changes",
        "lease fails",
        "router crashes",
        "deliver",
        "repeat",
        "lose",
        "delay",
        "fault",
        "busy report",
        "begin call",
        "engine returns",
        "engine refuses",
        "become ready",
        "exit",
        "owner stops",
        "owner starts",
        "orchestrator crashes",
    ];

    const fn name(self) -> &'static str {
        Self::NAMES[match self {
            Self::Tick => 0,
            Self::Request(..) => 1,
            Self::Finish(_) => 2,
            Self::TickRouter(_) => 3,
            Self::FinishRelease(_) => 4,
            Self::WaiterLeaves(_) => 5,
            Self::RouteChanges(..) => 6,
            Self::LeaseFails(_) => 7,
            Self::RouterCrashes(_) => 8,
            Self::Deliver(_) => 9,
            Self::Repeat(_) => 10,
            Self::Lose(_) => 11,
            Self::Delay(_) => 12,
            Self::Fault(..) => 13,
            Self::BusyReport(..) => 14,
            Self::BeginCall(_) => 15,
            Self::EngineReturns(_) => 16,
            Self::EngineRefuses(_) => 17,
            Self::BecomeReady(_) => 18,
            Self::Exit(_) => 19,
            Self::OwnerStops(_) => 20,
            Self::OwnerStarts(_) => 21,
            Self::OrchestratorCrashes(_) => 22,
        }]
    }
}

struct Explored {
    states: usize,
    moves: usize,
    /// The exploration left no state out.
    is_complete: bool,
    covered: BTreeSet<Covered>,
}

/// A kind of move; for a crash of the orchestrator also the engine call in flight at that moment.
type Covered = (&'static str, Option<(EngineCall, Part)>);

/// A violated property, with the trace that leads to the violation.
#[derive(Debug)]
struct Violation {
    property: String,
    trace: Vec<Move>,
    /// The moves after the trace, in which no failure occurs.
    failure_free_moves: Vec<Move>,
}

/// How long the failure-free moves after a trace may take, in units.
const FAILURE_FREE_TICKS: usize = 4;
/// A request in flight is watched for this long: two renewals.
const RENEWAL_TICKS: usize = 2;

/// Visits every state that can be reached from `start`, at most `max_states` of them. From each state,
/// follows the moves without failures too.
fn explore(start: System, max_states: usize) -> Result<Explored, Violation> {
    let mut start = start;
    canon::canonicalize(&mut start);
    let (mut seen, mut live) = (HashSet::from([hash(&start)]), HashSet::new());
    let mut parents: Vec<(usize, Option<Move>)> = vec![(0, None)];
    let mut queue = VecDeque::from([(0, start)]);
    let (mut moves, mut covered) = (0, BTreeSet::new());
    while let Some((at, system)) = queue.pop_front() {
        for next in system.moves() {
            moves += 1;
            covered.extend(system.covered(next));
            let mut after = system.clone();
            let outcome = after.act(next).and_then(|()| after.check());
            canon::canonicalize(&mut after);
            if outcome.is_ok() && !seen.insert(hash(&after)) {
                continue;
            }
            parents.push((at, Some(next)));
            let outcome = outcome.map_err(|property| (property, Vec::new()));
            let outcome = outcome.and_then(|()| check_liveness(&after, &mut live));
            if let Err((property, failure_free_moves)) = outcome {
                let trace = trace(&parents, parents.len() - 1);
                return Err(Violation { property, trace, failure_free_moves });
            }
            if seen.len() > max_states {
                return Ok(Explored { states: seen.len(), moves, is_complete: false, covered });
            }
            queue.push_back((parents.len() - 1, after));
        }
    }
    Ok(Explored { states: seen.len(), moves, is_complete: true, covered })
}

/// Checks that every waiter is served, and that a tenant in use is leased and stays leased, if no failure occurs from
/// here on. `live` holds the states from which that is known.
fn check_liveness(from: &System, live: &mut HashSet<u64>) -> Result<(), (String, Vec<Move>)> {
    let mut system = System { budget: scenes::NOTHING, ..from.clone() };
    let (mut path, mut ticks) = (Vec::new(), 0);
    // Whether each router had a lease in use when only time moved before.
    let mut leased = vec![false; system.routers.len()];
    while live.insert(hash(&(&system, &leased))) {
        let is_quiet = system.failure_free_move().is_none();
        if is_quiet {
            for (router, leased) in system.routers.iter().zip(&mut leased) {
                if *leased && system.lacks_lease(router) {
                    return Err(("a lease in use is not renewed".to_owned(), path));
                }
                *leased = router.in_use && router.published > system.now;
            }
            let is_open = |r: &router::Router| !r.waiters.is_empty() || system.lacks_lease(r);
            let is_open = system.routers.iter().any(is_open);
            let is_watched = ticks < RENEWAL_TICKS && system.routers.iter().any(|r| r.in_use);
            if ticks == FAILURE_FREE_TICKS || !(is_open || is_watched) {
                return system.check_quiet().map_err(|property| (property, path));
            }
            ticks += 1;
        }
        let next = system.failure_free_move().unwrap_or(Move::Tick);
        path.push(next);
        if let Err(property) = system.act(next).and_then(|()| system.check()) {
            return Err((property, path));
        }
        canon::canonicalize(&mut system);
        assert!(path.len() < 1_000, "never comes to rest: {path:?}");
    }
    Ok(())
}

fn hash(value: &impl std::hash::Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

fn trace(parents: &[(usize, Option<Move>)], mut at: usize) -> Vec<Move> {
    let mut moves = Vec::new();
    while let (parent, Some(next)) = parents[at] {
        moves.push(next);
        at = parent;
    }
    moves.reverse();
    moves
}

impl std::fmt::Display for Violation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, next) in self.trace.iter().enumerate() {
            writeln!(f, "{:>3}. {next:?}", number + 1)?;
        }
        for next in &self.failure_free_moves {
            writeln!(f, "     {next:?}")?;
        }
        write!(f, "  ⇒ {}", self.property)
    }
}
