//! The runs without planted bugs: every state of these scenes is sound.

use std::collections::BTreeSet;

use super::orchestrator::Orchestrator;
use super::world::{Budget, Note, Part, Run, UNIT, World};
use super::{Explored, Move, explore};
use crate::EngineCall;
use crate::command::AuthoritySettings;
use crate::sleep_state::SleepPolicy;
use crate::wake_queue::WakeLimits;

pub(super) const SETTINGS: AuthoritySettings = AuthoritySettings {
    lease_duration: 2 * UNIT,
    retry_delay: UNIT,
    limits: WakeLimits {
        concurrent_starts: 1,
        concurrent_thaws: 2,
        queued_wakes: 4,
        waiters_per_tenant: 4,
        waiters: 8,
        readiness_timeout: UNIT,
    },
};

pub(super) const QUIET: Budget = Budget {
    router_crashes: 0,
    orchestrator_crashes: 0,
    owner: 0,
    exits: 0,
    refusals: 0,
    busy: 0,
    leaves: 0,
    repeats: 0,
    requests: 2,
    ticks: 6,
    network: 2,
};

const FREEZES: SleepPolicy = SleepPolicy {
    freeze_after: Some(UNIT),
    sleep_after: None,
    max_awake: None,
    wake_on_any: false,
};
const BOTH: SleepPolicy = SleepPolicy { sleep_after: Some(2 * UNIT), ..FREEZES };

/// Late, lost and reordered messages, and an orchestrator that crashes.
pub(super) fn crash() -> World {
    World::new(1, 1, FREEZES, SETTINGS, Budget { orchestrator_crashes: 1, ticks: 4, ..QUIET })
}

/// Repeated messages as well.
pub(super) fn post() -> World {
    World::new(1, 1, FREEZES, SETTINGS, Budget { repeats: 1, ticks: 4, ..QUIET })
}

/// A router that crashes: the restarted router is another holder.
pub(super) fn router() -> World {
    let budget = Budget { router_crashes: 1, ticks: 4, ..QUIET };
    World::new(1, 1, BOTH, SETTINGS, budget)
}

/// An orchestrator that crashes around every kind of call: freezes and stops, thaws and starts.
pub(super) fn recovery() -> World {
    let budget = Budget { orchestrator_crashes: 1, refusals: 1, network: 1, ..QUIET };
    World::new(1, 1, BOTH, SETTINGS, budget)
}

/// Freeze and stop, an engine that refuses, clients that leave.
pub(super) fn depths() -> World {
    World::new(1, 1, BOTH, SETTINGS, Budget { refusals: 1, leaves: 1, network: 1, ..QUIET })
}

/// An owner who stops and starts the tenant, and a tenant that exits.
pub(super) fn owner() -> World {
    World::new(
        1,
        1,
        BOTH,
        SETTINGS,
        Budget { owner: 2, exits: 1, ticks: 4, requests: 1, network: 1, ..QUIET },
    )
}

/// Two routers hold leases on one tenant, which is busy once.
pub(super) fn pair() -> World {
    World::new(2, 1, FREEZES, SETTINGS, Budget { busy: 1, network: 1, ticks: 3, ..QUIET })
}

/// A tenant that reports busy before a freeze, or right before the freeze took effect.
pub(super) fn work() -> World {
    let budget = Budget { busy: 2, refusals: 1, requests: 1, network: 1, ..QUIET };
    World::new(1, 1, BOTH, SETTINGS, budget)
}

/// Two sleeping tenants and one slot to start them.
pub(super) fn queue() -> World {
    let budget = Budget { refusals: 1, leaves: 1, ticks: 3, network: 1, ..QUIET };
    let mut world = World::new(2, 2, SleepPolicy::default(), SETTINGS, budget);
    for container in &mut world.containers {
        (container.run, container.note) = (Run::Stopped, Note::Sleeping);
    }
    world.orchestrator = Orchestrator::start(world.now, SETTINGS, world.policy, &world.containers);
    world
}

fn is_sound(name: &str, scene: World) -> Explored {
    let explored = explore(scene, 1_000_000).unwrap_or_else(|fault| panic!("{name}:\n{fault}"));
    println!("{name}: {} states, {} moves", explored.states, explored.moves);
    assert!(explored.whole, "{name} is too large: bound it");
    explored
}

#[test]
fn everything_that_may_happen_happens_in_some_scene() {
    let scenes =
        [crash(), post(), depths(), owner(), pair(), router(), recovery(), work(), queue()];
    let explored = scenes.into_iter().filter_map(|scene| explore(scene, 3_000).ok());
    let walked: BTreeSet<_> = explored.flat_map(|e| e.walked).map(|(name, _)| name).collect();
    let never: Vec<_> = Move::NAMES.iter().filter(|name| !walked.contains(*name)).collect();
    assert!(never.is_empty(), "in no scene: {never:?}");
}

#[test]
fn an_orchestrator_that_crashes_breaks_no_lease() {
    is_sound("crash", crash());
}

#[test]
fn no_order_of_late_lost_and_repeated_messages_breaks_a_lease() {
    is_sound("post", post());
}

#[test]
fn no_refusal_of_the_engine_leaves_anybody_waiting() {
    is_sound("depths", depths());
}

#[test]
fn no_will_of_its_owner_and_no_death_leaves_anybody_waiting() {
    is_sound("owner", owner());
}

#[test]
fn a_tenant_sleeps_only_when_no_router_holds_it() {
    is_sound("pair", pair());
}

#[test]
fn a_router_that_crashes_leaves_nobody_waiting_and_nothing_awake() {
    is_sound("router", router());
}

#[test]
fn an_orchestrator_that_crashes_at_any_depth_recovers() {
    let explored = is_sound("recovery", recovery());
    let during: Vec<_> = explored.walked.into_iter().filter_map(|(_, call)| call).collect();
    let first = [
        EngineCall::Freeze,
        EngineCall::Stop,
        EngineCall::ThawThenStop,
        EngineCall::Thaw,
        EngineCall::Start,
    ];
    let later = [Part::Queried, Part::Last].map(|part| (EngineCall::ThawThenStop, part));
    for call in first.map(|call| (call, Part::First)).into_iter().chain(later) {
        assert!(during.contains(&call), "no crash during {call:?}");
    }
}

#[test]
fn a_tenant_that_says_it_is_busy_is_neither_frozen_nor_stopped() {
    is_sound("work", work());
}

#[test]
fn tenants_that_wake_together_wake_one_after_the_other() {
    is_sound("queue", queue());
}
