//! The model finds each planted bug with a short trace.

use super::world::World;
use super::{explore, scenes};
use crate::planted::{Bug, plant};

/// Checks that the model finds `bug`, with a trace that is short enough to read.
fn is_found(bug: Bug, scene: World, what: &str) {
    plant(Some(bug));
    let explored = explore(scene, 3_000_000);
    plant(None);
    let Err(fault) = explored else { panic!("{bug:?} was not found") };
    println!("{bug:?}:\n{fault}");
    assert!(fault.what.contains(what), "{bug:?} was found as something else:\n{fault}");
    assert!(fault.trace.len() <= 20, "{bug:?} has a long trace:\n{fault}");
}

macro_rules! found {
    ($($name:ident: $bug:ident in $scene:ident is $what:literal;)*) => {
        $(#[test]
        fn $name() {
            is_found(Bug::$bug, scenes::$scene(), $what);
        })*
    };
}

found! {
    a_holder_that_counts_from_the_answer: CountsFromArrival in crash is "without a live lease";
    a_holder_that_takes_late_grants: LateGrantCounts in post is "without a live lease";
    a_recheck_that_is_skipped: RecheckSkipped in crash is "put to sleep while";
    a_floor_that_is_forgotten: FloorForgotten in crash is "put to sleep while";
    a_release_that_ends_a_newer_lease: LateReleaseCounts in post is "without a live lease";
    a_release_that_ends_what_a_renewal_kept: RenewalForgotten in crash is "without a live lease";
    a_lease_that_is_granted_too_late: GrantedWhileFalling in crash is "put to sleep while";
    work_inside_that_is_ignored: BusyIgnored in pair is "said it is busy";
    work_declared_before_the_freeze_that_is_ignored: BusyWhenThawed in work is "said it is busy";
    a_second_call_for_one_wake: SecondCall in crash is "two calls";
    a_waiter_forgotten_on_failure: ForgottenOnFailure in depths is "is forgotten";
    a_deadline_that_nobody_looks_at: DeadlineForgotten in depths is "past its deadline";
    a_slot_that_is_never_given_back: SlotLost in depths is "would spin";
    an_ask_lost_while_falling_asleep: LostWhileFalling in crash is "is forgotten";
}
