//! Explores every order of events within budgets: holders, network, orchestrator, engine and clock,
//! with messages late, lost or repeated, and crashes. The cores that decide are the real ones; only
//! the shells around them are stand-ins.
//!
//! States are visited breadth first, so a trace to a fault is the shortest. Two states are the same
//! when only the time of day differs, or the values of counters that are only compared ([`canon`]).
//! A scene has budgets for time, for requests and for each kind of failure.

mod bugs;
mod canon;
mod moves;
mod orchestrator;
mod router;
mod scenes;
mod world;

use std::collections::hash_map::DefaultHasher;
use std::collections::{BTreeSet, HashSet, VecDeque};
use std::hash::{Hash as _, Hasher as _};

use crate::EngineCall;
use world::{Part, World};

/// One event. [`World::act`](world::World::act) defines the meaning of its numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Move {
    /// Time advances by one unit, and the orchestrator's timer runs.
    Tick,
    /// A client requests the tenant of this router.
    Request(usize),
    /// The last byte of the request has passed.
    Finish(usize),
    /// The router performs the action that is due.
    DueAction(usize),
    Deliver(usize),
    Repeat(usize),
    Lose(usize),
    /// The client disconnects, and the call to the orchestrator ends with the connection.
    Leave(usize),
    /// The tenant reports whether it is busy.
    BusyReport(usize, bool),
    /// The orchestrator's shell holds the tenant's lock and begins this call.
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
    RouterCrashes(usize),
    /// The engine's calls in flight take effect or not, by the flag.
    OrchestratorCrashes(bool),
}

impl Move {
    const NAMES: [&str; 18] = [
        "tick",
        "request",
        "finish",
        "due action",
        "deliver",
        "repeat",
        "lose",
        "leave",
        "busy report",
        "begin call",
        "engine returns",
        "engine refuses",
        "become ready",
        "exit",
        "owner stops",
        "owner starts",
        "router crashes",
        "orchestrator crashes",
    ];

    const fn name(self) -> &'static str {
        Self::NAMES[match self {
            Self::Tick => 0,
            Self::Request(_) => 1,
            Self::Finish(_) => 2,
            Self::DueAction(_) => 3,
            Self::Deliver(_) => 4,
            Self::Repeat(_) => 5,
            Self::Lose(_) => 6,
            Self::Leave(_) => 7,
            Self::BusyReport(..) => 8,
            Self::BeginCall(_) => 9,
            Self::EngineReturns(_) => 10,
            Self::EngineRefuses(_) => 11,
            Self::BecomeReady(_) => 12,
            Self::Exit(_) => 13,
            Self::OwnerStops(_) => 14,
            Self::OwnerStarts(_) => 15,
            Self::RouterCrashes(_) => 16,
            Self::OrchestratorCrashes(_) => 17,
        }]
    }
}

struct Explored {
    states: usize,
    moves: usize,
    /// The exploration left no state out.
    whole: bool,
    walked: BTreeSet<Walked>,
}

/// A kind of move; for a crash of the orchestrator also the engine call in flight at that moment.
type Walked = (&'static str, Option<(EngineCall, Part)>);

/// A violated property, with the trace that leads to the violation.
#[derive(Debug)]
struct Fault {
    what: String,
    trace: Vec<Move>,
    /// The moves after the trace, in which no failure occurs.
    alone: Vec<Move>,
}

/// Visits every state that can be reached from `start`, at most `most` of them. From each state,
/// follows the moves without failures too.
fn explore(start: World, most: usize) -> Result<Explored, Fault> {
    let mut seen = HashSet::new();
    let mut good = HashSet::new();
    let mut parents: Vec<(usize, Option<Move>)> = vec![(0, None)];
    let mut queue = VecDeque::new();
    let (mut count, mut walked) = (0, BTreeSet::new());
    seen.insert(key(&start));
    queue.push_back((0, start));
    while let Some((at, world)) = queue.pop_front() {
        for next in world.moves() {
            count += 1;
            walked.extend(world.walked(next));
            let mut after = world.clone();
            let ended = after.act(next).and_then(|()| after.check());
            let after_key = key(&after);
            let is_new = ended.is_err() || seen.insert(after_key);
            if !is_new {
                continue;
            }
            parents.push((at, Some(next)));
            let alone = ended.map_err(|what| (what, Vec::new()));
            let alone = alone.and_then(|()| check_liveness(&after, after_key, &mut good));
            if let Err((what, alone)) = alone {
                let trace = trace(&parents, parents.len() - 1);
                return Err(Fault { what, trace, alone });
            }
            if seen.len() > most {
                return Ok(Explored { states: seen.len(), moves: count, whole: false, walked });
            }
            queue.push_back((parents.len() - 1, after));
        }
    }
    Ok(Explored { states: seen.len(), moves: count, whole: true, walked })
}

/// Checks that every waiter is served without any time passing, if no failure occurs from here on.
fn check_liveness(
    from: &World,
    key_of_it: u64,
    good: &mut HashSet<u64>,
) -> Result<(), (String, Vec<Move>)> {
    let (mut world, mut at, mut path) = (from.clone(), key_of_it, Vec::new());
    while good.insert(at) {
        let Some(next) = world.fair_move() else {
            return world.check_quiet().map_err(|what| (what, path));
        };
        path.push(next);
        if let Err(what) = world.act(next).and_then(|()| world.check()) {
            return Err((what, path));
        }
        at = key(&world);
        assert!(path.len() < 1_000, "never comes to rest");
    }
    Ok(())
}

fn key(world: &World) -> u64 {
    let mut hasher = DefaultHasher::new();
    canon::canonical(world).hash(&mut hasher);
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

impl std::fmt::Display for Fault {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (number, next) in self.trace.iter().enumerate() {
            writeln!(f, "{:>3}. {next:?}", number + 1)?;
        }
        for next in &self.alone {
            writeln!(f, "     {next:?}")?;
        }
        write!(f, "  ⇒ {}", self.what)
    }
}
