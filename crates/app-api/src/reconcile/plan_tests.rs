use std::fmt::Write as _;

use proptest::prelude::*;
use protocol::TenantId;
use protocol::orchestrator::Exit;
use uuid::Uuid;

use super::*;
use crate::tenant::status::OwnerAction;

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
        lacks_spec: false,
        image_outdated: false,
        drift: std::collections::BTreeSet::new(),
        exits: 0,
        last_exit: None,
        reason: None,
        last_lines: None,
    }
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
}

fn status(state: State) -> TenantStatus {
    TenantStatus { state, ..TenantStatus::provisioning(at(0)) }
}

fn desired_state(desired: Desired) -> DesiredState {
    DesiredState {
        desired,
        generation: 1,
        restart: false,
        change: false,
        wake: false,
        has_database: true,
    }
}

fn observations() -> Vec<(String, Option<ObservedTenant>)> {
    let phases = PHASES.map(|phase| (format!("{phase:?}"), Some(observed(phase))));
    [("Nothing".to_owned(), None)].into_iter().chain(phases).collect()
}

fn present(observed: &ObservedTenant) -> Observation {
    Observation::Present(Box::new(observed.clone()))
}

fn observation(observed: Option<&ObservedTenant>) -> Observation {
    observed.map_or(Observation::Absent, present)
}

#[test]
fn every_step_by_desired_state_and_observation() {
    let gave_up = TenantStatus { gave_up: true, ..status(State::Error) };
    let rows: [(&str, DesiredState, TenantStatus); 10] = [
        ("running", desired_state(Desired::Running), status(State::Running)),
        (
            "restart",
            DesiredState { restart: true, ..desired_state(Desired::Running) },
            status(State::Running),
        ),
        (
            "change",
            DesiredState { change: true, ..desired_state(Desired::Running) },
            status(State::Running),
        ),
        (
            "wake",
            DesiredState { wake: true, ..desired_state(Desired::Running) },
            status(State::Sleeping),
        ),
        (
            "newer",
            DesiredState { generation: 2, ..desired_state(Desired::Running) },
            status(State::Running),
        ),
        ("gave up", desired_state(Desired::Running), gave_up),
        ("stopped", desired_state(Desired::Stopped), status(State::Running)),
        ("deleted", desired_state(Desired::Deleted), status(State::Deleting)),
        (
            "no schema",
            DesiredState { has_database: false, ..desired_state(Desired::Running) },
            status(State::Running),
        ),
        (
            "emptied",
            DesiredState { has_database: false, ..desired_state(Desired::Deleted) },
            status(State::Deleting),
        ),
    ];
    let mut table = format!("{:<10}", "");
    rows.iter().for_each(|(name, ..)| write!(table, "{name:<15}").unwrap());
    for (name, observed) in observations() {
        write!(table, "\n{name:<10}").unwrap();
        for (_, desired, status) in &rows {
            let step = format!("{:?}", plan(*desired, status, &observation(observed.as_ref())));
            write!(table, "{step:<15}").unwrap();
        }
    }
    let table: Vec<_> = table.lines().map(str::trim_end).collect();
    insta::assert_snapshot!(table.join("\n"));
}

#[test]
fn a_lost_spec_is_applied_again_without_waking_the_tenant() {
    let steps = PHASES.map(|phase| {
        let lost = ObservedTenant { lacks_spec: true, ..observed(phase) };
        let step = |desired| plan(desired_state(desired), &status(State::Running), &present(&lost));
        format!("{phase:?} · {:?} · {:?}", step(Desired::Running), step(Desired::Stopped))
    });
    insta::assert_snapshot!(steps.join("\n"), @r"
    Created · Run · Noop
    Starting · Update · Stop
    Ready · Update · Stop
    Frozen · Update · Stop
    Sleeping · Update · Stop
    Stopped · Run · Noop
    Exited · Run · Stop
    ");
}

#[test]
fn an_unknown_observation_plans_no_step() {
    for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
        let restart = DesiredState { restart: true, ..desired_state(desired) };
        assert_eq!(plan(restart, &status(State::Starting), &Observation::Unknown), Step::Noop);
    }
}

#[test]
fn every_state_by_desired_state_and_observation() {
    let mut table = String::new();
    for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
        writeln!(table, "wanted {}", desired.as_str()).unwrap();
        for (name, observed) in observations() {
            write!(table, "  {name:<9}").unwrap();
            for state in State::ALL {
                let next = derive_status(
                    desired_state(desired),
                    &status(state),
                    &observation(observed.as_ref()),
                    at(1),
                );
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
fn a_tenant_is_running_only_when_it_is_ready() {
    for state in State::ALL {
        for (name, observed) in observations() {
            let next = derive_status(
                desired_state(Desired::Running),
                &status(state),
                &observation(observed.as_ref()),
                at(1),
            );
            if next.state == State::Running && state != State::Running {
                assert_eq!(name, "Ready");
            }
        }
    }
}

#[test]
fn deriving_a_status_twice_changes_nothing() {
    for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
        for state in State::ALL {
            for (_, observed) in observations() {
                let once = derive_status(
                    desired_state(desired),
                    &status(state),
                    &observation(observed.as_ref()),
                    at(1),
                );
                assert_eq!(
                    derive_status(
                        desired_state(desired),
                        &once,
                        &observation(observed.as_ref()),
                        at(2)
                    ),
                    once
                );
            }
        }
    }
}

#[test]
fn an_unknown_observation_keeps_the_status_and_gives_a_reason() {
    let waiting = TenantStatus { container_id: Some("c".into()), ..status(State::Starting) };
    let next =
        derive_status(desired_state(Desired::Running), &waiting, &Observation::Unknown, at(9_999));
    assert_eq!((next.state, next.container_id.as_deref()), (State::Starting, Some("c")));
    assert!(next.reason.unwrap().contains("orchestrator"));
    let running = derive_status(
        desired_state(Desired::Running),
        &status(State::Running),
        &Observation::Unknown,
        at(1),
    );
    assert_eq!(running, status(State::Running));
}

#[test]
fn five_crashes_end_in_error_until_the_owner_starts_the_tenant() {
    let exit = Exit { at: at(5), code: 7, out_of_memory: false, was_ready: false };
    let observed = ObservedTenant { exits: 5, last_exit: Some(exit), ..observed(Phase::Starting) };
    let failed = derive_status(
        desired_state(Desired::Running),
        &status(State::Starting),
        &present(&observed),
        at(6),
    );
    assert_eq!((failed.state, failed.gave_up), (State::Error, true));
    insta::assert_snapshot!(failed.reason.clone().unwrap(), @"It ended five times in a row without getting ready, the last time with exit code 7. Look at its log, then start it again.");
    let lines = "[platform-front] cial: the hook migrate exited with 3".to_owned();
    let with_lines = ObservedTenant { last_lines: Some(lines.clone()), ..observed.clone() };
    let told = derive_status(
        desired_state(Desired::Running),
        &status(State::Starting),
        &present(&with_lines),
        at(6),
    );
    let reason = told.reason.unwrap();
    assert!(reason.ends_with(&format!("The last lines of its log:\n{lines}")), "{reason}");
    assert_eq!(plan(desired_state(Desired::Running), &failed, &present(&observed)), Step::Stop);
    let rests = ObservedTenant { phase: Phase::Stopped, ..observed.clone() };
    let rested = derive_status(desired_state(Desired::Running), &failed, &present(&rests), at(7));
    assert_eq!(rested.state, State::Error);
    assert_eq!(plan(desired_state(Desired::Running), &rested, &present(&rests)), Step::Noop);
    assert!(failed.needs_restart(OwnerAction::Start) && rested.needs_restart(OwnerAction::Start));
    assert!(!status(State::Starting).needs_restart(OwnerAction::Start));
    let requested = rested.after_action(OwnerAction::Start, at(8));
    assert_eq!((requested.state, requested.reason.as_deref()), (State::Provisioning, None));
    assert_eq!(plan(desired_state(Desired::Running), &requested, &present(&rests)), Step::Run);
    let again =
        derive_status(desired_state(Desired::Running), &requested, &present(&observed), at(9));
    assert_eq!(again.state, State::Starting, "the same five are not counted again");
}

#[test]
fn a_tenant_that_exits_after_readiness_ten_times_ends_in_error() {
    let exit = |n: u32| Exit { at: at(n.into()), code: 1, out_of_memory: false, was_ready: true };
    let observed =
        |n: u32, phase| ObservedTenant { exits: n, last_exit: Some(exit(n)), ..observed(phase) };
    let mut held = status(State::Running);
    for n in 1..=10 {
        assert!(!held.gave_up, "after {} exits", n - 1);
        for phase in [Phase::Exited, Phase::Ready] {
            let seen = observed(n, phase);
            let now = at(n.into());
            held = derive_status(desired_state(Desired::Running), &held, &present(&seen), now);
            let again = derive_status(desired_state(Desired::Running), &held, &present(&seen), now);
            assert_eq!(again, held, "a repeated observation changes nothing");
            if held.gave_up {
                assert_eq!((n, phase, held.state), (10, Phase::Exited, State::Error));
                let reason = held.reason.as_deref().unwrap();
                assert!(
                    reason.starts_with("It ended ten times within five minutes, the last"),
                    "{reason}"
                );
                assert_eq!(
                    plan(desired_state(Desired::Running), &held, &present(&seen)),
                    Step::Stop
                );
                break;
            }
        }
    }
    assert!(held.gave_up);
}

#[test]
fn an_overdue_start_is_an_error_that_readiness_ends() {
    let unready = observed(Phase::Starting);
    let starting = status(State::Starting);
    let desired = desired_state(Desired::Running);
    assert_eq!(
        derive_status(desired, &starting, &present(&unready), at(120)).state,
        State::Starting
    );
    let late = derive_status(desired, &starting, &present(&unready), at(121));
    assert_eq!((late.state, late.gave_up), (State::Error, false));
    insta::assert_snapshot!(late.reason.clone().unwrap(), @"It did not get ready within 120 s; it is still being tried. Look at its log.");
    let lines = "[platform-front] cial: the hook migrate took longer than 120 s".to_owned();
    let with_lines =
        ObservedTenant { last_lines: Some(lines.clone()), ..observed(Phase::Starting) };
    let told = derive_status(
        desired_state(Desired::Running),
        &status(State::Starting),
        &present(&with_lines),
        at(121),
    );
    let reason = told.reason.unwrap();
    assert!(reason.ends_with(&format!("The last lines of its log:\n{lines}")), "{reason}");
    let ready = derive_status(desired, &late, &present(&observed(Phase::Ready)), at(130));
    assert_eq!((ready.state, ready.reason), (State::Running, None));
}

#[test]
fn a_refusal_is_an_error_and_an_outage_is_not() {
    let refused =
        status(State::Provisioning).after_failed_step("no such image".into(), true, at(1));
    assert_eq!((refused.state, refused.reason.as_deref()), (State::Error, Some("no such image")));
    let next =
        derive_status(desired_state(Desired::Running), &refused, &Observation::Absent, at(2));
    assert_eq!(next, refused, "the reason stays while nothing runs");
    assert_eq!(plan(desired_state(Desired::Running), &refused, &Observation::Absent), Step::Run);
    let waits = status(State::Provisioning).after_failed_step(
        "the engine is unreachable".into(),
        false,
        at(1),
    );
    assert_eq!(
        (waits.state, waits.reason.as_deref()),
        (State::Provisioning, Some("the engine is unreachable"))
    );
    let going = status(State::Deleting).after_failed_step("no".into(), true, at(1));
    assert_eq!(going.state, State::Deleting);
}

#[test]
fn a_delete_is_final() {
    for state in State::ALL {
        let deleted = status(state).after_action(OwnerAction::Delete, at(1));
        assert_eq!(deleted.state, State::Deleting);
        for ask in
            [OwnerAction::Start, OwnerAction::Restart, OwnerAction::Stop, OwnerAction::Delete]
        {
            assert_eq!(deleted.after_action(ask, at(2)).state, State::Deleting);
        }
    }
}

#[test]
fn a_frozen_or_sleeping_tenant_is_woken_only_by_its_owners_start() {
    for phase in [Phase::Frozen, Phase::Sleeping] {
        let observed = observed(phase);
        let asleep = derive_status(
            desired_state(Desired::Running),
            &status(State::Running),
            &present(&observed),
            at(1),
        );
        let step = |desired| plan(desired, &asleep, &present(&observed));
        assert_eq!(step(desired_state(Desired::Running)), Step::Noop);
        let changed = DesiredState { change: true, wake: true, ..desired_state(Desired::Running) };
        assert_eq!(step(changed), Step::Update, "it wakes under what is desired now");
        let left = changed.without(Step::Update.fulfills());
        assert_eq!(step(left), Step::Wake, "an update does not meet the wish to wake");
        assert_eq!(step(left.without(Step::Wake.fulfills())), Step::Noop);
    }
}

/// Applies one step to an engine that always succeeds.
fn apply_step(step: Step, engine: &mut Option<ObservedTenant>) {
    *engine = match step {
        Step::Noop | Step::Create | Step::CreateDatabase | Step::DropDatabase => return,
        Step::Update => engine.take().map(|held| ObservedTenant { lacks_spec: false, ..held }),
        Step::Run | Step::Restart | Step::Wake => Some(observed(Phase::Starting)),
        Step::Stop => engine.take().map(|held| ObservedTenant { phase: Phase::Stopped, ..held }),
        Step::Remove => None,
    };
}

fn any_observed() -> impl Strategy<Value = Option<ObservedTenant>> {
    let phases = proptest::sample::select(PHASES.to_vec());
    let any = (phases, any::<bool>());
    proptest::option::of(
        any.prop_map(|(phase, lacks_spec)| ObservedTenant { lacks_spec, ..observed(phase) }),
    )
}

fn any_desired_state() -> impl Strategy<Value = DesiredState> {
    let desired = proptest::sample::select(vec![Desired::Running, Desired::Stopped]);
    (desired, any::<[bool; 3]>()).prop_map(|(desired, [restart, change, wake])| DesiredState {
        desired,
        generation: 1,
        restart,
        change,
        wake,
        has_database: true,
    })
}

proptest! {
    /// From every state, a few steps leave nothing to do.
    #[test]
    fn with_an_obedient_engine_the_plan_converges(
        mut desired in any_desired_state(),
        mut engine in any_observed(),
        from in proptest::sample::select(State::ALL.to_vec()),
        gave_up in any::<bool>(),
    ) {
        prop_assume!(from != State::Deleting);
        let mut held = TenantStatus { gave_up: gave_up && from == State::Error, ..status(from) };
        for second in 1..10 {
            held = derive_status(desired, &held, &observation(engine.as_ref()), at(second));
            let step = plan(desired, &held, &observation(engine.as_ref()));
            if step == Step::Noop {
                break;
            }
            apply_step(step, &mut engine);
            desired = desired.without(step.fulfills());
        }
        prop_assert_eq!(plan(desired, &held, &observation(engine.as_ref())), Step::Noop);
        if desired.desired == Desired::Stopped {
            prop_assert_eq!(held.state, State::Stopped);
        }
    }

    /// For every sequence of observations.
    #[test]
    fn a_deleted_tenant_never_comes_back(
        observations in proptest::collection::vec(any_observed(), 1..20),
        from in proptest::sample::select(State::ALL.to_vec()),
        has_database in any::<bool>(),
    ) {
        let deleted = DesiredState { has_database, ..desired_state(Desired::Deleted) };
        let mut held = status(from).after_action(OwnerAction::Delete, at(0));
        for (second, observed) in (1..).zip(&observations) {
            held = derive_status(deleted, &held, &observation(observed.as_ref()), at(second));
            prop_assert_eq!(held.state, State::Deleting);
            let step = plan(deleted, &held, &observation(observed.as_ref()));
            prop_assert!(
                matches!(step, Step::Stop | Step::DropDatabase) && has_database || step == Step::Remove
            );
        }
    }
}
