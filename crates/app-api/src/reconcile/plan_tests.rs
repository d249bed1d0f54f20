use std::fmt::Write as _;

use proptest::prelude::*;
use protocol::TenantId;
use protocol::orchestrator::Exit;
use uuid::Uuid;

use super::*;

const PHASES: [Phase; 7] = [
    Phase::Created,
    Phase::Starting,
    Phase::Ready,
    Phase::Frozen,
    Phase::Sleeping,
    Phase::Stopped,
    Phase::Exited,
];

pub(crate) fn observed(phase: Phase) -> ObservedTenant {
    ObservedTenant {
        id: TenantId::new(Uuid::nil()),
        generation: 1,
        phase,
        container_id: "c".into(),
        container_port: (phase == Phase::Ready).then_some(40_000),
        upstream: None,
        image_outdated: false,
        exits: 0,
        last_exit: None,
        reason: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn life(state: State) -> Life {
    Life { state, ..Life::begun(at(0)) }
}

fn want(desired: Desired) -> Want {
    Want { desired, generation: 1, restart: false, change: false, wake: false }
}

fn sights() -> Vec<(String, Option<ObservedTenant>)> {
    let phases = PHASES.map(|phase| (format!("{phase:?}"), Some(observed(phase))));
    [("Nothing".to_owned(), None)].into_iter().chain(phases).collect()
}

fn seen(observed: Option<&ObservedTenant>) -> Seen<'_> {
    observed.map_or(Seen::Nothing, Seen::This)
}

#[test]
fn every_step_by_wish_and_sight() {
    let gave_up = Life { gave_up: true, ..life(State::Error) };
    let rows: [(&str, Want, Life); 8] = [
        ("running", want(Desired::Running), life(State::Running)),
        ("restart", Want { restart: true, ..want(Desired::Running) }, life(State::Running)),
        ("change", Want { change: true, ..want(Desired::Running) }, life(State::Running)),
        ("wake", Want { wake: true, ..want(Desired::Running) }, life(State::Sleeping)),
        ("newer", Want { generation: 2, ..want(Desired::Running) }, life(State::Running)),
        ("gave up", want(Desired::Running), gave_up),
        ("stopped", want(Desired::Stopped), life(State::Running)),
        ("deleted", want(Desired::Deleted), life(State::Deleting)),
    ];
    let mut table = format!("{:<10}", "");
    rows.iter().for_each(|(name, ..)| write!(table, "{name:<9}").unwrap());
    for (name, sight) in sights() {
        write!(table, "\n{name:<10}").unwrap();
        for (_, want, life) in &rows {
            let step = format!("{:?}", plan(*want, life, seen(sight.as_ref())));
            write!(table, "{step:<9}").unwrap();
        }
    }
    let table: Vec<_> = table.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(table.join("\n"));
}

#[test]
fn nothing_is_done_for_what_is_unknown() {
    for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
        let restart = Want { restart: true, ..want(desired) };
        assert_eq!(plan(restart, &life(State::Starting), Seen::Unknown), Step::Rest);
    }
}

#[test]
fn every_state_by_wish_and_sight() {
    let mut table = String::new();
    for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
        writeln!(table, "wanted {}", desired.as_str()).unwrap();
        for (name, sight) in sights() {
            write!(table, "  {name:<9}").unwrap();
            for state in State::ALL {
                let next = settle(want(desired), &life(state), seen(sight.as_ref()), at(1));
                let moved = next.state != state;
                let word = if moved { next.state.as_str() } else { "-" };
                write!(table, " {word:<12}").unwrap();
                assert_eq!(next.since, if moved { at(1) } else { at(0) });
            }
            table.truncate(table.trim_end().len());
            table.push('\n');
        }
    }
    insta::assert_snapshot!(table);
}

#[test]
fn running_is_said_only_when_health_answers() {
    for state in State::ALL {
        for (name, sight) in sights() {
            let next = settle(want(Desired::Running), &life(state), seen(sight.as_ref()), at(1));
            if next.state == State::Running && state != State::Running {
                assert_eq!(name, "Ready");
            }
        }
    }
}

#[test]
fn settling_twice_is_settling_once() {
    for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
        for state in State::ALL {
            for (_, sight) in sights() {
                let once = settle(want(desired), &life(state), seen(sight.as_ref()), at(1));
                assert_eq!(settle(want(desired), &once, seen(sight.as_ref()), at(2)), once);
            }
        }
    }
}

#[test]
fn what_stays_unknown_says_so_and_loses_nothing() {
    let waiting = Life { container_id: Some("c".into()), ..life(State::Starting) };
    let next = settle(want(Desired::Running), &waiting, Seen::Unknown, at(9_999));
    assert_eq!((next.state, next.container_id.as_deref()), (State::Starting, Some("c")));
    assert!(next.reason.unwrap().contains("orchestrator"));
    let running = settle(want(Desired::Running), &life(State::Running), Seen::Unknown, at(1));
    assert_eq!(running, life(State::Running));
}

#[test]
fn five_crashes_end_in_error_and_a_stop_until_its_owner_asks() {
    let exit = Exit { at: at(5), code: 7, out_of_memory: false, was_ready: false };
    let sight = ObservedTenant { exits: 5, last_exit: Some(exit), ..observed(Phase::Starting) };
    let failed = settle(want(Desired::Running), &life(State::Starting), Seen::This(&sight), at(6));
    assert_eq!((failed.state, failed.gave_up), (State::Error, true));
    insta::assert_snapshot!(failed.reason.clone().unwrap(), @"It ended five times within five minutes without getting ready, the last time with exit code 7. Look at its log, then start it again.");
    assert_eq!(plan(want(Desired::Running), &failed, Seen::This(&sight)), Step::Stop);
    let rests = ObservedTenant { phase: Phase::Stopped, ..sight.clone() };
    let rested = settle(want(Desired::Running), &failed, Seen::This(&rests), at(7));
    assert_eq!(rested.state, State::Error);
    assert_eq!(plan(want(Desired::Running), &rested, Seen::This(&rests)), Step::Rest);
    let asked = rested.asked(Ask::Start, at(8));
    assert_eq!((asked.state, asked.reason.as_deref()), (State::Provisioning, None));
    assert_eq!(plan(want(Desired::Running), &asked, Seen::This(&rests)), Step::Run);
    let again = settle(want(Desired::Running), &asked, Seen::This(&sight), at(9));
    assert_eq!(again.state, State::Starting, "the same five are not counted again");
}

#[test]
fn what_gets_ready_and_dies_again_and_again_ends_in_error_once_it_is_down() {
    let exit = |n: u32| Exit { at: at(n.into()), code: 1, out_of_memory: false, was_ready: true };
    let sight =
        |n: u32, phase| ObservedTenant { exits: n, last_exit: Some(exit(n)), ..observed(phase) };
    let mut held = life(State::Running);
    for n in 1..=10 {
        assert!(!held.gave_up, "after {} exits", n - 1);
        for phase in [Phase::Exited, Phase::Ready] {
            let seen = sight(n, phase);
            let now = at(n.into());
            held = settle(want(Desired::Running), &held, Seen::This(&seen), now);
            let again = settle(want(Desired::Running), &held, Seen::This(&seen), now);
            assert_eq!(again, held, "seen again, it changes nothing");
            if held.gave_up {
                assert_eq!((n, phase, held.state), (10, Phase::Exited, State::Error));
                let told = held.reason.as_deref().unwrap();
                assert!(
                    told.starts_with("It ended ten times within five minutes, the last"),
                    "{told}"
                );
                assert_eq!(plan(want(Desired::Running), &held, Seen::This(&seen)), Step::Stop);
                break;
            }
        }
    }
    assert!(held.gave_up);
}

#[test]
fn a_transient_state_has_an_end_and_readiness_ends_the_error() {
    let sight = observed(Phase::Starting);
    let starting = life(State::Starting);
    let wanted = want(Desired::Running);
    assert_eq!(settle(wanted, &starting, Seen::This(&sight), at(120)).state, State::Starting);
    let late = settle(wanted, &starting, Seen::This(&sight), at(121));
    assert_eq!((late.state, late.gave_up), (State::Error, false));
    insta::assert_snapshot!(late.reason.clone().unwrap(), @"It did not get ready within 120 s; it is still being tried. Look at its log.");
    let ready = settle(wanted, &late, Seen::This(&observed(Phase::Ready)), at(130));
    assert_eq!((ready.state, ready.reason), (State::Running, None));
}

#[test]
fn a_refusal_is_an_error_and_an_outage_is_not() {
    let refused = life(State::Provisioning).set_back("no such image".into(), true, at(1));
    assert_eq!((refused.state, refused.reason.as_deref()), (State::Error, Some("no such image")));
    let next = settle(want(Desired::Running), &refused, Seen::Nothing, at(2));
    assert_eq!(next, refused, "the reason stays while nothing runs");
    assert_eq!(plan(want(Desired::Running), &refused, Seen::Nothing), Step::Run);
    let waits = life(State::Provisioning).set_back("the engine is down".into(), false, at(1));
    assert_eq!(
        (waits.state, waits.reason.as_deref()),
        (State::Provisioning, Some("the engine is down"))
    );
    let going = life(State::Deleting).set_back("no".into(), true, at(1));
    assert_eq!(going.state, State::Deleting);
}

#[test]
fn a_delete_is_final() {
    for state in State::ALL {
        let deleted = life(state).asked(Ask::Delete, at(1));
        assert_eq!(deleted.state, State::Deleting);
        for ask in [Ask::Start, Ask::Restart, Ask::Stop, Ask::Delete] {
            assert_eq!(deleted.asked(ask, at(2)).state, State::Deleting);
        }
    }
}

#[test]
fn who_sleeps_by_want_of_use_is_woken_by_its_owners_start_alone() {
    for phase in [Phase::Frozen, Phase::Sleeping] {
        let sight = observed(phase);
        let asleep =
            settle(want(Desired::Running), &life(State::Running), Seen::This(&sight), at(1));
        let step = |want| plan(want, &asleep, Seen::This(&sight));
        assert_eq!(step(want(Desired::Running)), Step::Rest);
        let changed = Want { change: true, wake: true, ..want(Desired::Running) };
        assert_eq!(step(changed), Step::Update, "it wakes under what is wanted now");
        let left = changed.without(Step::Update.meets());
        assert_eq!(step(left), Step::Wake, "an update does not meet the wish to wake");
        assert_eq!(step(left.without(Step::Wake.meets())), Step::Rest);
    }
}

/// An engine that does what it is told and then takes its own course.
fn obey(step: Step, engine: &mut Option<ObservedTenant>) {
    *engine = match step {
        Step::Rest | Step::Update => return,
        Step::Run | Step::Restart | Step::Wake => Some(observed(Phase::Starting)),
        Step::Stop => engine.take().map(|held| ObservedTenant { phase: Phase::Stopped, ..held }),
        Step::Remove => None,
    };
}

fn any_sight() -> impl Strategy<Value = Option<ObservedTenant>> {
    proptest::option::of(proptest::sample::select(PHASES.to_vec()).prop_map(observed))
}

fn any_want() -> impl Strategy<Value = Want> {
    let desired = proptest::sample::select(vec![Desired::Running, Desired::Stopped]);
    (desired, any::<[bool; 3]>()).prop_map(|(desired, [restart, change, wake])| Want {
        desired,
        generation: 1,
        restart,
        change,
        wake,
    })
}

proptest! {
    /// From anywhere: a few steps, and nothing is left to do.
    #[test]
    fn with_an_obedient_engine_it_comes_to_rest_as_wanted(
        mut want in any_want(),
        mut engine in any_sight(),
        from in proptest::sample::select(State::ALL.to_vec()),
        gave_up in any::<bool>(),
    ) {
        prop_assume!(from != State::Deleting);
        let mut held = Life { gave_up: gave_up && from == State::Error, ..life(from) };
        for second in 1..10 {
            held = settle(want, &held, seen(engine.as_ref()), at(second));
            let step = plan(want, &held, seen(engine.as_ref()));
            if step == Step::Rest {
                break;
            }
            obey(step, &mut engine);
            want = want.without(step.meets());
        }
        prop_assert_eq!(plan(want, &held, seen(engine.as_ref())), Step::Rest);
        if want.desired == Desired::Stopped {
            prop_assert_eq!(held.state, State::Stopped);
        }
    }

    /// However often it is looked at, in whatever order things come.
    #[test]
    fn a_deleted_tenant_never_comes_back(
        sights in proptest::collection::vec(any_sight(), 1..20),
        from in proptest::sample::select(State::ALL.to_vec()),
    ) {
        let mut held = life(from).asked(Ask::Delete, at(0));
        for (second, sight) in (1..).zip(&sights) {
            held = settle(want(Desired::Deleted), &held, seen(sight.as_ref()), at(second));
            prop_assert_eq!(held.state, State::Deleting);
            let step = plan(want(Desired::Deleted), &held, seen(sight.as_ref()));
            prop_assert_eq!(step, Step::Remove);
        }
    }
}
