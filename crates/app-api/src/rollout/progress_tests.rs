use proptest::prelude::*;

use super::*;

fn tenant(n: u128) -> Uuid {
    Uuid::from_u128(n)
}

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_timestamp(1_800_000_000 + seconds, 0).unwrap()
}

fn member(n: u128, wave: i32, state: MemberState) -> Member {
    Member {
        tenant: tenant(n),
        wave,
        state,
        was_failing: false,
        changed_at: at(0),
        settled_at: None,
        responses: Responses::default(),
    }
}

fn observed(state: State, release: &str) -> Observation {
    Observation {
        desired: if state == State::Stopped { Desired::Stopped } else { Desired::Running },
        state,
        since: at(0),
        has_untried_variables: false,
        release: release.to_owned(),
        is_pinned: false,
        never_sleeps: false,
    }
}

fn rollout(window: Window, members: Vec<Member>) -> Progress {
    let release = "v2".to_owned();
    Progress {
        state: RolloutState::Running,
        release,
        window,
        max_failures: 0,
        max_error_percent: 10,
        watch: Duration::from_secs(5),
        members,
    }
}

fn shown(commands: Vec<Command>) -> String {
    let shown: Vec<_> = commands
        .into_iter()
        .map(|command| match command {
            Command::Move(_) => "move".to_owned(),
            Command::MoveBack(_) => "move back".to_owned(),
            Command::Mark(_, state, _) => state.to_string(),
            Command::Settle(_) => "settle".to_owned(),
            Command::Fail(_, AfterFailure::Continue) => "fail alone".to_owned(),
            Command::Fail(_, AfterFailure::RollBack) => "fail".to_owned(),
            Command::FailByErrors { tenant, wave } => {
                let Responses { all, server_errors } = wave;
                format!("fail by {server_errors} of {all}, worst {}", tenant.as_u128())
            }
            Command::Finish(state) => format!("finish {state}"),
        })
        .collect();
    if shown.is_empty() { "wait".to_owned() } else { shown.join(", ") }
}

/// The commands for one tenant.
fn decide(window: Window, member: Member, tenant: Observation, now: Timestamp) -> String {
    let tenants = BTreeMap::from([(member.tenant, tenant)]);
    shown(next(&rollout(window, vec![member]), &tenants, now))
}

#[test]
fn a_waiting_tenant_moves_by_its_state_and_the_window() {
    let daily = |text: &str| text.parse().unwrap();
    // `at` begins at 08:00.
    let windows = [Window::Always, Window::Idle, daily("07:00-09:00"), daily("09:00-10:00")];
    for (state, expected) in [
        (State::Running, ["move", "wait", "move", "wait"]),
        (State::Frozen, ["wait", "wait", "move", "wait"]),
        (State::Sleeping, ["move", "move", "move", "move"]),
        (State::Stopped, ["move", "move", "move", "move"]),
        (State::Error, ["move", "move", "move", "move"]),
        (State::Starting, ["wait", "wait", "wait", "wait"]),
        (State::Provisioning, ["wait", "wait", "wait", "wait"]),
    ] {
        let waiting = || member(1, 1, MemberState::Waiting);
        let found = windows.map(|window| decide(window, waiting(), observed(state, "v1"), at(0)));
        assert_eq!(found, expected, "{state:?}");
    }
    let never = Observation { never_sleeps: true, ..observed(State::Frozen, "v1") };
    let waiting = member(1, 1, MemberState::Waiting);
    assert_eq!(decide(Window::Always, waiting, never, at(0)), "move");
}

#[test]
fn what_becomes_of_a_tenant_decides_about_its_wave() {
    use MemberState::{Moved, Moving, Waiting};
    let later = at(5);
    for (member_state, state, now, expected) in [
        (Moving, State::Starting, later, "wait"),
        (Moving, State::Provisioning, later, "wait"),
        (Moving, State::Running, later, "moved"),
        (Moving, State::Sleeping, later, "moved"),
        (Moving, State::Stopped, later, "moved"),
        (Moving, State::Error, later, "fail"),
        (Moved, State::Running, at(4), "wait"),
        (Moved, State::Running, later, "settle"),
        (Moved, State::Starting, later, "wait"),
        (Moved, State::Sleeping, at(0), "finish done"),
        (Moved, State::Error, later, "fail"),
    ] {
        let found = decide(Window::Always, member(1, 1, member_state), observed(state, "v2"), now);
        assert_eq!(found, expected, "{member_state} {state:?}");
    }
    let settled = Member { settled_at: Some(at(5)), ..member(1, 1, Moved) };
    let found = decide(Window::Always, settled, observed(State::Running, "v2"), later);
    assert_eq!(found, "finish done");
    let pinned = Observation { is_pinned: true, ..observed(State::Sleeping, "v1") };
    let deleted = Observation { desired: Desired::Deleted, ..observed(State::Deleting, "v1") };
    for (tenant, expected) in
        [(pinned, "skipped"), (deleted, "skipped"), (observed(State::Running, "v2"), "moved")]
    {
        assert_eq!(decide(Window::Always, member(1, 1, Waiting), tenant, later), expected);
    }
    let elsewhere = observed(State::Running, "v3");
    assert_eq!(decide(Window::Always, member(1, 1, Moving), elsewhere, later), "skipped");
}

#[test]
fn a_paused_rollout_begins_nothing_and_still_finds_a_failure() {
    let members = vec![member(1, 1, MemberState::Moving), member(2, 1, MemberState::Waiting)];
    let paused = Progress { state: RolloutState::Paused, ..rollout(Window::Always, members) };
    let tenants = |state| {
        BTreeMap::from([
            (tenant(1), observed(state, "v2")),
            (tenant(2), observed(State::Sleeping, "v1")),
        ])
    };
    let moved = Command::Mark(tenant(1), MemberState::Moved, None);
    assert_eq!(next(&paused, &tenants(State::Running), at(0)), [moved]);
    let fail = Command::Fail(tenant(1), AfterFailure::RollBack);
    assert_eq!(next(&paused, &tenants(State::Error), at(0)), [fail]);
}

/// The commands when tenant 1 is in error on the release and tenant 2, of the same wave, is in the state `other` on it. A
/// tenant 2 that sleeps has never run on the release.
fn decide_on_error(member: &Member, in_error: &Observation, other: State) -> String {
    let other_member = Member {
        was_failing: other == State::Error,
        settled_at: (other != State::Sleeping).then(|| at(5)),
        ..self::member(2, 1, MemberState::Moved)
    };
    let tenants =
        BTreeMap::from([(tenant(1), in_error.clone()), (tenant(2), observed(other, "v2"))]);
    let rollout = rollout(Window::Always, vec![member.clone(), other_member]);
    shown(next(&rollout, &tenants, at(2_000)))
}

#[test]
fn an_error_that_is_the_tenants_own_excuses_the_release_where_another_tenant_runs() {
    use MemberState::{Moved, Moving};
    let late = i64::try_from(PROVEN_TIME.as_secs()).unwrap() + 5;
    let in_error = |since| Observation { since: at(since), ..observed(State::Error, "v2") };
    let of = |state| member(1, 1, state);
    let failing = |state| Member { was_failing: true, ..of(state) };
    let settled = |state| Member { settled_at: Some(at(5)), ..of(state) };
    let untried = |since| Observation { has_untried_variables: true, ..in_error(since) };
    for (why, member, tenant, expected) in [
        ("the release's fault", of(Moving), in_error(10), ["fail", "fail", "fail"]),
        ("the release's fault later", of(Moved), in_error(10), ["fail", "fail", "fail"]),
        ("in error before", failing(Moving), in_error(10), ["moved", "moved", "moved"]),
        (
            "in error before and after",
            failing(Moved),
            in_error(10),
            ["finish done", "fail", "fail"],
        ),
        ("untried variables", of(Moving), untried(10), ["moved", "moved", "moved"]),
        ("variables since the move", of(Moved), untried(10), ["finish done", "fail", "fail"]),
        ("soon after it settled", settled(Moved), in_error(late - 1), ["fail", "fail", "fail"]),
        ("long after it settled", settled(Moved), in_error(late), ["finish done", "fail", "fail"]),
    ] {
        let found = [State::Running, State::Sleeping, State::Error]
            .map(|other| decide_on_error(&member, &tenant, other));
        assert_eq!(found, expected, "{why}");
    }
}

#[test]
fn a_permitted_failure_moves_one_tenant_back_and_the_next_stops_the_rollout() {
    use MemberState::{Failed, Moved, Moving, Waiting};
    let settled = |n| Member { settled_at: Some(at(5)), ..member(n, 1, Moved) };
    let tenants = BTreeMap::from([
        (tenant(1), observed(State::Running, "v2")),
        (tenant(2), observed(State::Error, "v2")),
        (tenant(3), observed(State::Error, "v2")),
        (tenant(4), observed(State::Sleeping, "v1")),
    ]);
    let decide = |members, tenants: &BTreeMap<_, _>| {
        let rollout = Progress { max_failures: 1, ..rollout(Window::Always, members) };
        shown(next(&rollout, tenants, at(10)))
    };
    let second = |state| vec![settled(1), member(2, 2, state), member(4, 3, Waiting)];
    assert_eq!(decide(second(Moving), &tenants), "fail alone");
    assert_eq!(decide(second(Failed), &tenants), "move back");
    let mut back = tenants.clone();
    back.insert(tenant(2), observed(State::Starting, "v1"));
    assert_eq!(decide(second(Failed), &back), "move", "the next wave begins");
    let more = vec![settled(1), member(2, 2, Failed), member(3, 2, Moving)];
    assert_eq!(decide(more, &tenants), "fail");
    let canary = vec![member(2, 1, Failed), member(4, 2, Waiting)];
    assert_eq!(decide(canary, &back), "fail", "the release runs nowhere");
}

#[test]
fn earlier_failures_keep_their_waves_when_the_last_one_moves_back() {
    let failed = |n, wave, seconds| Member {
        changed_at: at(seconds),
        ..member(n, wave, MemberState::Failed)
    };
    let members = vec![
        member(1, 1, MemberState::Moved),
        failed(2, 1, 10),
        member(3, 2, MemberState::Moved),
        failed(4, 2, 20),
    ];
    let stopped = Progress { state: RolloutState::RollingBack, ..rollout(Window::Always, members) };
    let mut tenants: BTreeMap<_, _> =
        (1..=4).map(|n| (tenant(n), observed(State::Running, "v2"))).collect();
    tenants.insert(tenant(2), observed(State::Running, "v1"));
    let back = [Command::MoveBack(tenant(3)), Command::MoveBack(tenant(4))];
    assert_eq!(next(&stopped, &tenants, at(30)), back);
}

#[test]
fn a_failed_wave_moves_back_and_earlier_waves_stay() {
    let members = vec![
        member(1, 1, MemberState::Moved),
        member(2, 2, MemberState::Moved),
        member(3, 2, MemberState::Failed),
        member(4, 2, MemberState::Moving),
        member(5, 2, MemberState::Waiting),
        member(6, 3, MemberState::Waiting),
    ];
    let failed = Progress { state: RolloutState::RollingBack, ..rollout(Window::Always, members) };
    let mut tenants: BTreeMap<_, _> =
        (1..=4).map(|n| (tenant(n), observed(State::Running, "v2"))).collect();
    tenants.insert(tenant(4), observed(State::Running, "v3"));
    let commands = next(&failed, &tenants, at(0));
    let left = "The tenant follows another release by now.";
    assert_eq!(
        commands,
        [
            Command::MoveBack(tenant(2)),
            Command::MoveBack(tenant(3)),
            Command::Mark(tenant(4), MemberState::Skipped, Some(left)),
        ]
    );
}

/// The rows of a rollout and of its tenants, changed as the shell does.
struct Rows {
    rollout: Progress,
    tenants: BTreeMap<Uuid, Observation>,
    /// Tenants that do not run on the new release.
    broken: Vec<Uuid>,
    now: Timestamp,
}

impl Rows {
    fn mark(&mut self, id: Uuid, state: MemberState) {
        let now = self.now;
        let member = self.rollout.members.iter_mut().find(|m| m.tenant == id).unwrap();
        (member.state, member.changed_at) = (state, now);
    }

    fn follow(&mut self, id: Uuid, release: &str) {
        let tenant = self.tenants.get_mut(&id).unwrap();
        tenant.release = release.to_owned();
        if matches!(tenant.state, State::Running | State::Frozen | State::Error) {
            tenant.state = State::Starting;
        }
    }

    fn execute(&mut self, command: &Command) {
        match *command {
            Command::Move(id) => {
                self.follow(id, "v2");
                self.mark(id, MemberState::Moving);
            }
            Command::MoveBack(id) => {
                self.follow(id, "v1");
                let member = self.rollout.members.iter().find(|m| m.tenant == id).unwrap();
                if member.state != MemberState::Failed {
                    self.mark(id, MemberState::RolledBack);
                }
            }
            Command::Mark(id, state, _) => self.mark(id, state),
            Command::Settle(id) => {
                let now = self.now;
                let member = self.rollout.members.iter_mut().find(|m| m.tenant == id).unwrap();
                member.settled_at = Some(now);
            }
            Command::Fail(id, after) => {
                self.mark(id, MemberState::Failed);
                if after == AfterFailure::RollBack {
                    self.rollout.state = RolloutState::RollingBack;
                }
            }
            Command::FailByErrors { tenant, .. } => {
                self.mark(tenant, MemberState::Failed);
                self.rollout.state = RolloutState::RollingBack;
            }
            Command::Finish(state) => self.rollout.state = state,
        }
    }

    /// Starts that are under way end.
    fn settle(&mut self) {
        for (id, tenant) in &mut self.tenants {
            if tenant.state == State::Starting {
                let fails = tenant.release == "v2" && self.broken.contains(id);
                tenant.state = if fails { State::Error } else { State::Running };
            }
        }
    }

    fn wave_of(&self, id: Uuid) -> i32 {
        self.rollout.members.iter().find(|m| m.tenant == id).unwrap().wave
    }
}

fn states() -> impl Strategy<Value = State> {
    prop_oneof![
        Just(State::Running),
        Just(State::Sleeping),
        Just(State::Stopped),
        Just(State::Starting),
    ]
}

proptest! {
    /// Each pass executes only the first commands, as a process that is killed does.
    #[test]
    fn every_rollout_ends_and_no_wave_overtakes_another(
        states in prop::collection::vec(states(), 0..40),
        wave_size in 1..12_usize,
        broken in prop::collection::vec(0..40_u128, 0..5),
        max_failures in 0..4_usize,
        executed in prop::collection::vec(0..20_usize, 1..50),
    ) {
        let members = (0_u128..).take(states.len());
        let members = members.map(|n| {
            let wave = i32::try_from(usize::try_from(n).unwrap() / wave_size).unwrap() + 1;
            member(n, wave, MemberState::Waiting)
        });
        let mut rows = Rows {
            rollout: Progress { max_failures, ..rollout(Window::Always, members.collect()) },
            tenants: (0..).map(tenant).zip(states.iter().map(|s| observed(*s, "v1"))).collect(),
            broken: broken.into_iter().map(tenant).collect(),
            now: at(0),
        };
        for pass in 0..400_usize {
            let commands = next(&rows.rollout, &rows.tenants, rows.now);
            let killed_after = executed.get(pass).copied().unwrap_or(usize::MAX);
            for command in commands.iter().take(killed_after) {
                if let Command::Move(id) = command {
                    let wave = rows.wave_of(*id);
                    let unsettled = |m: &Member| m.wave < wave && matches!(m.state, MemberState::Waiting | MemberState::Moving);
                    prop_assert!(!rows.rollout.members.iter().any(unsettled));
                }
                rows.execute(command);
            }
            let replaced = rows.rollout.members.iter().filter(|m| {
                m.state == MemberState::Moving && rows.tenants[&m.tenant].state == State::Starting
            });
            prop_assert!(replaced.count() <= MAX_REPLACED_AT_ONCE);
            if pass % 2 == 1 {
                rows.settle();
            }
            rows.now += Duration::from_secs(3);
            if !rows.rollout.state.is_active() {
                break;
            }
        }
        let failed = rows.rollout.members.iter().filter(|m| m.state == MemberState::Failed);
        prop_assert!(failed.clone().count() <= max_failures + 1);
        let back_to = match rows.rollout.state {
            RolloutState::Done => i32::MAX,
            RolloutState::Failed => failed.max_by_key(|m| m.changed_at).unwrap().wave,
            RolloutState::Running
            | RolloutState::Paused
            | RolloutState::RollingBack
            | RolloutState::Aborted => panic!("the rollout is {}", rows.rollout.state),
        };
        for member in &rows.rollout.members {
            let release = rows.tenants[&member.tenant].release.as_str();
            let is_back = member.state == MemberState::Failed || member.wave >= back_to;
            prop_assert_eq!(release, if is_back { "v1" } else { "v2" }, "{:?}", member);
        }
    }
}

fn answered(member: Member, all: u64, server_errors: u64) -> Member {
    Member { responses: Responses { all, server_errors }, ..member }
}

#[test]
fn a_wave_with_too_many_server_errors_fails_with_its_figures() {
    use MemberState::{Failed, Moved, Moving, RolledBack};
    let of = |state, all, errors| answered(member(1, 1, state), all, errors);
    let running = || observed(State::Running, "v2");
    for (name, member, observation, percent, expected) in [
        ("too few responses", of(Moved, 19, 19), running(), 10, "finish done"),
        ("as many as permitted", of(Moved, 20, 2), running(), 10, "finish done"),
        ("one more", of(Moved, 20, 3), running(), 10, "fail by 3 of 20, worst 1"),
        ("before it is ready", of(Moving, 20, 3), running(), 10, "fail by 3 of 20, worst 1"),
        ("another bound", of(Moved, 20, 3), running(), 15, "finish done"),
        ("every error is permitted", of(Moved, 20, 20), running(), 100, "finish done"),
        ("it moved back", of(RolledBack, 20, 20), running(), 10, "finish done"),
        ("of an earlier failure", of(Failed, 20, 20), observed(State::Running, "v1"), 10, "fail"),
        (
            "it follows another release",
            of(Moved, 20, 20),
            observed(State::Running, "v3"),
            10,
            "finish done",
        ),
        (
            "it was in error before",
            Member { was_failing: true, ..of(Moved, 20, 20) },
            running(),
            10,
            "finish done",
        ),
        (
            "it had run for ten minutes",
            Member { settled_at: Some(at(-595)), ..of(Moved, 20, 20) },
            running(),
            10,
            "finish done",
        ),
        (
            "its own variables changed",
            of(Moved, 20, 20),
            Observation { has_untried_variables: true, ..running() },
            10,
            "finish done",
        ),
    ] {
        let progress = Progress {
            max_error_percent: percent,
            members: vec![Member { settled_at: member.settled_at.or(Some(at(0))), ..member }],
            ..rollout(Window::Always, Vec::new())
        };
        let tenants = BTreeMap::from([(tenant(1), observation)]);
        assert_eq!(shown(next(&progress, &tenants, at(5))), expected, "{name}");
    }
}

#[test]
fn the_responses_of_a_wave_are_added_and_the_earliest_wave_fails_first() {
    use MemberState::{Moved, Waiting};
    let settled = |member: Member| Member { settled_at: Some(at(0)), ..member };
    let mut progress = rollout(
        Window::Always,
        vec![
            settled(answered(member(1, 1, Moved), 50, 1)),
            settled(answered(member(2, 2, Moved), 15, 2)),
            settled(answered(member(3, 2, Moved), 15, 4)),
            member(4, 3, Waiting),
        ],
    );
    let release = |n| if n == 4 { "v1" } else { "v2" };
    let tenants: BTreeMap<_, _> =
        (1..=4).map(|n| (tenant(n), observed(State::Running, release(n)))).collect();
    let decided = |progress: &Progress| shown(next(progress, &tenants, at(10)));
    assert_eq!(decided(&progress), "fail by 6 of 30, worst 3", "no other wave begins");
    progress.state = RolloutState::Paused;
    assert_eq!(decided(&progress), "fail by 6 of 30, worst 3", "a pause excuses nothing");
    progress.members[0].responses.server_errors = 20;
    assert_eq!(decided(&progress), "fail by 20 of 50, worst 1");
    progress.members[0].responses.server_errors = 5;
    progress.members[2].responses.server_errors = 1;
    progress.state = RolloutState::Running;
    assert_eq!(decided(&progress), "move", "3 of 30 is no more than a tenth");
}

#[test]
fn a_tenant_is_watched_for_as_long_as_the_rollout_says() {
    let moved = Member { changed_at: at(0), ..member(1, 1, MemberState::Moved) };
    let progress =
        Progress { watch: Duration::from_secs(60), ..rollout(Window::Always, vec![moved]) };
    let tenants = BTreeMap::from([(tenant(1), observed(State::Running, "v2"))]);
    for (seconds, expected) in [(5, "wait"), (59, "wait"), (60, "settle")] {
        assert_eq!(shown(next(&progress, &tenants, at(seconds))), expected, "{seconds}");
    }
}

proptest! {
    #[test]
    fn more_errors_never_excuse_a_wave(all in 0_u64.., errors in 0_u64.., more in 0_u64.., percent in 1_u32..=100) {
        let fewer = Responses { all, server_errors: errors.min(all) };
        let many = Responses { all, server_errors: errors.saturating_add(more).min(all) };
        prop_assert!(!fewer.exceed(percent) || many.exceed(percent));
        prop_assert!(!many.exceed(100));
    }
}
