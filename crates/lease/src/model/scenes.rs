//! The scenes: in every state of each, all properties hold. Each scene has budgets for a few kinds of failure, so that
//! all its states can be visited; together they cover every move.

use std::collections::BTreeSet;

use super::container::{Container, Part};
use super::router::RequestKind;
use super::system::{Budget, Layer, System, UNIT};
use super::{Explored, Move, explore};
use crate::EngineCall;
use crate::authority::command::AuthoritySettings;
use crate::authority::sleep_state::SleepPolicy;
use crate::authority::wake_queue::WakeLimits;

const SETTINGS: AuthoritySettings = AuthoritySettings {
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

/// No events but those that nothing prevents.
pub(super) const NOTHING: Budget = Budget {
    ticks: 0,
    requests: 0,
    kinds: &[RequestKind::Visit],
    losses: 0,
    repeats: 0,
    faults: 0,
    leaves: 0,
    route_changes: 0,
    failed_leases: 0,
    router_crashes: 0,
    orchestrator_crashes: 0,
    owner: 0,
    exits: 0,
    refusals: 0,
    busy: 0,
    calls: 2,
    layers_first: &[],
};

const USED: Budget = Budget { ticks: 4, requests: 2, ..NOTHING };

/// For scenes about routers and their calls.
const ENGINE: &[Layer] = &[Layer::Engine];
/// For scenes about the orchestrator: routers are prompt, and calls arrive at once.
const ROUTERS: &[Layer] = &[Layer::Timers, Layer::Transport];

/// A policy under which a tenant is suspended after any scene's end. Its leases linger for one unit.
const LATE: SleepPolicy = SleepPolicy {
    freeze_after: Some(4 * UNIT),
    sleep_after: None,
    max_awake: None,
    wake_on_any: false,
};
const FREEZES: SleepPolicy = SleepPolicy { freeze_after: Some(UNIT), ..LATE };
const BOTH: SleepPolicy = SleepPolicy { sleep_after: Some(2 * UNIT), ..FREEZES };

/// One router and one running tenant.
fn one(policy: SleepPolicy, budget: Budget) -> System {
    System::new(1, vec![Container::READY], policy, SETTINGS, budget)
}

/// One router and one sleeping tenant.
fn sleeping(policy: SleepPolicy, budget: Budget) -> System {
    System::new(1, vec![Container::SLEEPING], policy, SETTINGS, budget)
}

/// Late and lost calls, and an orchestrator that crashes.
fn crash() -> System {
    one(
        FREEZES,
        Budget {
            orchestrator_crashes: 1,
            ticks: 3,
            calls: 1,
            layers_first: &[Layer::Timers],
            ..USED
        },
    )
}

/// Late, lost and repeated calls.
fn transport() -> System {
    one(FREEZES, Budget { losses: 1, repeats: 1, ticks: 3, calls: 1, layers_first: ENGINE, ..USED })
}

/// A router that crashes: the restarted router is another holder.
fn router_crash() -> System {
    one(BOTH, Budget { router_crashes: 1, calls: 1, layers_first: ENGINE, ..USED })
}

/// An orchestrator that crashes around every kind of call: freezes and stops, thaws and starts.
fn recovery() -> System {
    one(
        BOTH,
        Budget { ticks: 6, orchestrator_crashes: 1, refusals: 1, layers_first: ROUTERS, ..USED },
    )
}

/// Freeze and stop, an engine that refuses, clients that leave.
fn refusals() -> System {
    one(BOTH, Budget { ticks: 6, refusals: 1, leaves: 1, layers_first: ROUTERS, ..USED })
}

/// An owner who stops and starts the tenant, and a tenant that exits.
fn owner() -> System {
    one(BOTH, Budget { owner: 2, exits: 1, layers_first: ROUTERS, ..USED })
}

/// Two routers hold leases on one tenant, which is busy once.
fn pair() -> System {
    let budget = Budget { busy: 1, ticks: 3, calls: 1, layers_first: ENGINE, ..USED };
    System::new(2, vec![Container::READY], FREEZES, SETTINGS, budget)
}

/// A tenant that reports busy before a freeze, or right before the freeze took effect.
fn work() -> System {
    one(BOTH, Budget { ticks: 6, busy: 2, refusals: 1, layers_first: ROUTERS, ..USED })
}

/// Two sleeping tenants and one slot to start them.
fn queue() -> System {
    let budget = Budget { refusals: 1, leaves: 1, ticks: 3, layers_first: ROUTERS, ..USED };
    System::new(2, vec![Container::SLEEPING; 2], LATE, SETTINGS, budget)
}

/// An orchestrator that does not answer: a running tenant.
fn outage() -> System {
    one(LATE, Budget { losses: 2, ticks: 3, calls: 1, layers_first: ENGINE, ..USED })
}

/// An orchestrator that does not answer: a sleeping tenant.
fn outage_asleep() -> System {
    sleeping(LATE, Budget { losses: 2, ticks: 3, calls: 1, layers_first: ENGINE, ..USED })
}

/// Requests of every kind for a sleeping tenant whose wake may fail.
fn kinds() -> System {
    let kinds = &[RequestKind::Visit, RequestKind::Background, RequestKind::Retry];
    let budget = Budget {
        kinds,
        requests: 3,
        ticks: 2,
        refusals: 1,
        calls: 1,
        layers_first: ENGINE,
        ..USED
    };
    sleeping(LATE, budget)
}

/// A route table that lags behind, or does not list the tenant.
fn routes() -> System {
    one(FREEZES, Budget { route_changes: 2, ticks: 3, calls: 1, layers_first: ENGINE, ..USED })
}

/// A lease under which the tenant does not answer.
fn failed_leases() -> System {
    one(
        LATE,
        Budget { failed_leases: 1, losses: 1, ticks: 2, calls: 1, layers_first: ENGINE, ..USED },
    )
}

/// An orchestrator that rejects calls or fails, and calls that fail for want of resources.
fn faults() -> System {
    let budget = Budget { faults: 2, losses: 1, ticks: 2, calls: 1, layers_first: ENGINE, ..USED };
    sleeping(LATE, budget)
}

const SCENES: [fn() -> System; 15] = [
    crash,
    transport,
    router_crash,
    recovery,
    refusals,
    owner,
    pair,
    work,
    queue,
    outage,
    outage_asleep,
    kinds,
    routes,
    failed_leases,
    faults,
];

fn is_sound(name: &str, scene: System) -> Explored {
    let explored = explore(scene, 300_000).unwrap_or_else(|fault| panic!("{name}:\n{fault}"));
    println!("{name}: {} states, {} moves", explored.states, explored.moves);
    assert!(explored.is_complete, "{name} is too large: bound it");
    explored
}

#[test]
fn every_move_happens_in_some_scene() {
    let explored = SCENES.iter().filter_map(|scene| explore(scene(), 3_000).ok());
    let covered: BTreeSet<_> = explored.flat_map(|e| e.covered).map(|(name, _)| name).collect();
    let never: Vec<_> = Move::NAMES.iter().filter(|name| !covered.contains(*name)).collect();
    assert!(never.is_empty(), "in no scene: {never:?}");
}

#[test]
fn an_orchestrator_that_crashes_breaks_no_lease() {
    is_sound("crash", crash());
}

#[test]
fn no_order_of_late_lost_and_repeated_calls_breaks_a_lease() {
    is_sound("transport", transport());
}

#[test]
fn a_router_that_crashes_leaves_no_request_waiting_and_nothing_awake() {
    is_sound("router crash", router_crash());
}

#[test]
fn no_refusal_of_the_engine_leaves_a_request_waiting() {
    is_sound("refusals", refusals());
}

#[test]
fn no_intent_of_the_owner_and_no_exit_leaves_a_request_waiting() {
    is_sound("owner", owner());
}

#[test]
fn a_tenant_is_suspended_only_when_no_router_holds_a_lease() {
    is_sound("pair", pair());
}

#[test]
fn an_orchestrator_that_crashes_during_any_call_recovers() {
    let explored = is_sound("recovery", recovery());
    let during: Vec<_> = explored.covered.into_iter().filter_map(|(_, call)| call).collect();
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
fn a_tenant_that_reports_busy_is_neither_frozen_nor_stopped() {
    is_sound("work", work());
}

#[test]
fn tenants_that_wake_together_wake_one_after_the_other() {
    is_sound("queue", queue());
}

#[test]
fn requests_to_a_running_tenant_are_served_through_every_outage() {
    is_sound("outage", outage());
}

#[test]
fn requests_to_a_sleeping_tenant_outlast_an_outage_or_leave() {
    is_sound("outage asleep", outage_asleep());
}

#[test]
fn requests_of_every_kind_get_one_response_whatever_becomes_of_the_wake() {
    is_sound("kinds", kinds());
}

#[test]
fn a_route_table_that_lags_behind_breaks_no_lease() {
    is_sound("routes", routes());
}

#[test]
fn a_lease_under_which_the_tenant_does_not_answer_is_requested_anew() {
    is_sound("failed leases", failed_leases());
}

#[test]
fn rejected_calls_are_no_outage_and_leave_no_request_waiting() {
    is_sound("faults", faults());
}
