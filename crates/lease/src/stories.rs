//! The keeper's core, told as single stories.

use crate::authority::Authority;
use crate::command::{
    Act, Answer, Ask, Command, Failure, Grant, Outcome, Progress, Settings, Ticket,
};
use crate::rest::{Depth, Policy, Used};
use crate::time::{Millis, Moment};
use crate::wake::{Limits, Waiter, Woke};
use crate::why::{Awake, Heard};

const START: Moment = Moment(1_000_000);
const LEASE: Millis = 15_000;

struct Story {
    core: Authority<u8, u8, u32>,
    now: Moment,
}

impl Story {
    /// Tenant 1, after the floor of a keeper that started with it.
    fn of(depth: Depth, policy: Policy) -> Self {
        let limits = Limits {
            starts: 1,
            thaws: 2,
            queue: 2,
            waiters_each: 2_000,
            waiters: 2_000,
            boot: 30_000,
        };
        let mut core = Authority::new(START, Settings { lease: LEASE, pause: 5_000, limits });
        core.add(START, 1, depth, policy, START);
        let mut story = Self { core, now: START.plus(LEASE) };
        story.core.tick(story.now);
        story
    }

    fn ask(&mut self, tenant: u8, id: u32, visit: bool) {
        let deadline = self.now.plus(45_000);
        let waiter = Waiter { id, holder: 1, number: u64::from(id), deadline };
        self.core.ask(self.now, Ask { tenant, visit, waiter });
    }

    fn pass(&mut self, time: Millis) {
        self.now = self.now.plus(time);
        self.core.tick(self.now);
    }

    fn said(&mut self) -> Vec<Command<u8, u32>> {
        std::iter::from_fn(|| self.core.next_command()).collect()
    }

    /// The only act that is wanted.
    fn act(&mut self) -> (Act, Ticket) {
        let said = self.said();
        let acts = said.iter().filter_map(|command| match command {
            Command::Act { act, ticket, .. } => Some((*act, *ticket)),
            Command::AskBusy { .. } | Command::Answer { .. } | Command::Woke { .. } => None,
        });
        let acts: Vec<_> = acts.collect();
        assert_eq!(acts.len(), 1, "{said:?}");
        acts[0]
    }

    fn busy(&mut self) -> u64 {
        let said = self.said();
        match said[..] {
            [Command::AskBusy { generation, .. }] => generation,
            _ => panic!("{said:?}"),
        }
    }

    fn answers(&mut self) -> Vec<Answer> {
        let said = self.said().into_iter();
        said.filter_map(|command| match command {
            Command::Answer { answer, .. } => Some(answer),
            Command::AskBusy { .. } | Command::Act { .. } | Command::Woke { .. } => None,
        })
        .collect()
    }
}

fn freezes() -> Policy {
    Policy::of_seconds(60, 0, 0, false)
}

#[test]
fn a_thousand_who_ask_at_once_are_one_start() {
    let mut story = Story::of(Depth::Asleep, Policy::default());
    (0..1_000).for_each(|id| story.ask(1, id, true));
    let (act, ticket) = story.act();
    assert_eq!(act, Act::Start);
    assert!(story.core.begin(story.now.plus(7), 1, ticket));
    story.core.done(story.now.plus(300), 1, ticket, Outcome::Done, Depth::Booting);
    story.core.sees(story.now.plus(320), 1, Depth::Awake);
    let said = story.said();
    let woke = Woke {
        at: story.now.plus(320),
        from: Depth::Asleep,
        total: 320,
        queue: 7,
        engine: 293,
        boot: 20,
    };
    assert_eq!(said[0], Command::Woke { tenant: 1, woke });
    assert_eq!(said.len(), 1_001);
    let granted = Answer::Granted(Grant { expires_in: LEASE, linger: 10_000, woke: true });
    assert!(
        said[1..].iter().all(|c| matches!(c, Command::Answer { answer, .. } if *answer == granted))
    );
}

#[test]
fn whoever_asks_beyond_a_bound_is_told_so_with_another_seed_each_time() {
    let mut story = Story::of(Depth::Asleep, Policy::default());
    for tenant in 2..=5 {
        story.core.add(story.now, tenant, Depth::Asleep, Policy::default(), START);
    }
    (1..=3).for_each(|tenant| story.ask(tenant, tenant.into(), true));
    story.said();
    let place = story.core.progress(story.now, 3);
    assert_eq!(place, Some(Progress::Queued { ahead: 1, elapsed: 0 }));
    story.ask(4, 4, true);
    story.ask(5, 5, true);
    assert_eq!(story.answers(), [Answer::QueueFull { seed: 1 }, Answer::QueueFull { seed: 2 }]);
}

#[test]
fn a_wake_that_waits_for_its_tenants_turn_takes_nobodys_place() {
    let mut story = Story::of(Depth::Asleep, Policy::default());
    story.core.add(story.now, 2, Depth::Asleep, Policy::default(), START);
    story.ask(1, 1, true);
    let (_, first) = story.act();
    story.ask(2, 2, true);
    assert_eq!(story.said(), []);
    story.core.put_off(story.now, 1, first);
    let (_, second) = story.act();
    assert!(story.core.begin(story.now, 2, second) && story.core.begin(story.now, 1, first));
    story.core.done(story.now, 1, first, Outcome::Done, Depth::Awake);
    assert!(matches!(story.answers()[..], [Answer::Granted(_)]));
}

#[test]
fn who_wakes_it_depends_on_its_depth_and_policy() {
    let any = Policy { wake_on_any: true, ..Policy::default() };
    let table = [
        (Depth::Asleep, Policy::default(), false, vec![Answer::WakeRequired]),
        (Depth::Asleep, Policy::default(), true, vec![]),
        (Depth::Asleep, any, false, vec![]),
        (Depth::Frozen, Policy::default(), false, vec![]),
        (Depth::Stopped, any, true, vec![Answer::Stopped]),
        (Depth::Down, any, true, vec![Answer::NotRunning]),
        (Depth::Booting, any, true, vec![Answer::NotRunning]),
    ];
    for (depth, policy, visit, answers) in table {
        let mut story = Story::of(depth, policy);
        story.ask(1, 1, visit);
        assert_eq!(story.answers(), answers, "{depth:?} {policy:?} {visit}");
    }
    let mut story = Story::of(Depth::Asleep, any);
    story.ask(9, 1, true);
    assert_eq!(story.answers(), [Answer::Unknown]);
}

#[test]
fn an_ask_before_the_recheck_keeps_it_awake_and_a_late_begin_comes_to_nothing() {
    let mut story = Story::of(Depth::Awake, freezes());
    story.pass(60_000);
    let generation = story.busy();
    story.core.heard(story.now, 1, generation, Heard::Free);
    let (act, ticket) = story.act();
    assert_eq!(act, Act::Freeze);
    story.ask(1, 1, false);
    assert!(matches!(story.answers()[..], [Answer::Granted(Grant { woke: false, .. })]));
    assert!(!story.core.begin(story.now, 1, ticket));
}

#[test]
fn an_ask_after_the_recheck_waits_for_the_freeze_and_the_thaw() {
    let mut story = Story::of(Depth::Awake, freezes());
    story.pass(60_000);
    let generation = story.busy();
    story.core.heard(story.now, 1, generation, Heard::Silent);
    let (_, freeze) = story.act();
    assert!(story.core.begin(story.now, 1, freeze));
    story.ask(1, 1, false);
    assert_eq!(story.answers(), []);
    story.core.done(story.now, 1, freeze, Outcome::Done, Depth::Frozen);
    let slept = story.core.rest(1).and_then(|rest| rest.slept()).unwrap();
    assert_eq!((slept.depth, slept.heard), (Depth::Frozen, Heard::Silent));
    let (act, thaw) = story.act();
    assert_eq!(act, Act::Thaw);
    assert!(story.core.begin(story.now, 1, thaw));
    story.core.done(story.now, 1, thaw, Outcome::Done, Depth::Awake);
    assert!(matches!(story.answers()[..], [Answer::Granted(Grant { woke: true, .. })]));
}

#[test]
fn an_ask_during_the_thaw_before_a_stop_is_served_without_the_stop() {
    let mut story = Story::of(Depth::Frozen, Policy::of_seconds(60, 120, 0, false));
    story.pass(120_000);
    let (act, ticket) = story.act();
    assert_eq!(act, Act::ThawThenStop);
    assert!(story.core.begin(story.now, 1, ticket));
    assert!(story.core.rest(1).unwrap().still_unwanted());
    story.ask(1, 1, true);
    assert!(!story.core.rest(1).unwrap().still_unwanted());
    assert!(!story.core.goes_on(story.now, 1, Heard::Free));
    story.core.done(story.now, 1, ticket, Outcome::Done, Depth::Awake);
    assert!(matches!(story.answers()[..], [Answer::Granted(_)]));
}

#[test]
fn work_that_was_declared_right_before_the_freeze_is_met_by_the_question_after_the_thaw() {
    let mut story = Story::of(Depth::Frozen, Policy::of_seconds(60, 120, 0, false));
    story.pass(120_000);
    let (_, ticket) = story.act();
    assert!(story.core.begin(story.now, 1, ticket));
    let until = story.now.plus(900_000);
    assert!(!story.core.goes_on(story.now, 1, Heard::Busy { until }));
    story.core.done(story.now, 1, ticket, Outcome::Done, Depth::Awake);
    let rest = story.core.rest(1).unwrap();
    assert_eq!(rest.awake_because(story.now), [Awake::Busy { since: story.now, until }]);
    story.pass(60_000);
    let generation = story.busy();
    story.core.heard(story.now, 1, generation, Heard::Free);
    assert_eq!(story.act().0, Act::Freeze);
}

/// Asked and answered until it is put to sleep: how, and when.
fn sleeps_however_busy(story: &mut Story) -> (Act, Ticket) {
    loop {
        let said = story.said();
        match said[..] {
            [] => story.pass(1_000),
            [Command::AskBusy { generation, .. }] => {
                let until = story.now.plus(900_000);
                story.core.heard(story.now, 1, generation, Heard::Busy { until });
            }
            [Command::Act { act, ticket, .. }] => return (act, ticket),
            _ => panic!("{said:?}"),
        }
    }
}

#[test]
fn a_visit_now_and_then_gives_busy_work_no_more_time() {
    let mut story = Story::of(Depth::Awake, Policy::of_seconds(60, 0, 600, false));
    for minute in 0..10 {
        story.pass(60_000);
        if let [Command::AskBusy { generation, .. }] = story.said()[..] {
            let until = story.now.plus(900_000);
            story.core.heard(story.now, 1, generation, Heard::Busy { until });
        }
        if [1, 5].contains(&minute) {
            story.pass(1_000);
            story.ask(1, minute, false);
            story.said();
            let used = Used { number: minute.into(), ..Used::default() };
            story.core.release(story.now, 1, 1, used);
            let rest = story.core.rest(1).unwrap();
            assert_eq!(rest.freezes_at(story.now), Some(story.now.plus(60_000)));
        }
    }
    let (act, _) = sleeps_however_busy(&mut story);
    // It first said so after the floor's 15 s and 60 s of idleness.
    assert_eq!((act, story.now.since(START)), (Act::Freeze, 75_000 + 600_000));
}

#[test]
fn what_was_frozen_for_being_busy_too_long_is_stopped_without_more_time_and_a_visit_gives_it_some()
{
    for visited in [false, true] {
        let mut story = Story::of(Depth::Awake, Policy::of_seconds(60, 1_200, 600, false));
        let (act, ticket) = sleeps_however_busy(&mut story);
        assert_eq!(act, Act::Freeze);
        assert!(story.core.begin(story.now, 1, ticket));
        if visited {
            story.ask(1, 1, true);
        }
        story.core.done(story.now, 1, ticket, Outcome::Done, Depth::Frozen);
        let (act, ticket) = sleeps_however_busy(&mut story);
        assert!(story.core.begin(story.now, 1, ticket));
        if visited {
            assert_eq!(act, Act::Thaw);
            story.core.done(story.now, 1, ticket, Outcome::Done, Depth::Awake);
            story.said();
            let thawed = story.now;
            let used = Used { number: 1, ..Used::default() };
            story.core.release(story.now, 1, 1, used);
            sleeps_however_busy(&mut story);
            assert!(story.now.since(thawed) >= 600_000);
        } else {
            assert_eq!(act, Act::ThawThenStop);
            let until = story.now.plus(900_000);
            assert!(story.core.goes_on(story.now, 1, Heard::Busy { until }));
            story.core.done(story.now, 1, ticket, Outcome::Done, Depth::Asleep);
            let slept = story.core.rest(1).unwrap().slept().unwrap();
            assert!(matches!(slept.heard, Heard::TooLong { .. }), "{slept:?}");
        }
    }
}

#[test]
fn work_inside_keeps_it_awake_as_long_as_its_owner_allows() {
    let mut story = Story::of(Depth::Awake, Policy::of_seconds(60, 0, 150, false));
    let mut asked = 0;
    let (act, _) = loop {
        story.pass(1_000);
        let said = story.said();
        match said[..] {
            [] => {}
            [Command::AskBusy { generation, .. }] => {
                asked += 1;
                let until = story.now.plus(900_000);
                story.core.heard(story.now, 1, generation, Heard::Busy { until });
                if asked < 4 {
                    let rest = story.core.rest(1).unwrap();
                    assert!(matches!(rest.awake_because(story.now)[..], [Awake::Busy { .. }]));
                    assert_eq!(rest.freezes_at(story.now), None);
                } else {
                    break story.act();
                }
            }
            _ => panic!("{said:?}"),
        }
    };
    // Idle since 0, asked at 60, 120, 180; from 60 on it was kept awake for 150 s.
    assert_eq!((act, story.now.since(START)), (Act::Freeze, 210_000));
}

#[test]
fn a_tenant_in_use_says_so_and_one_that_is_idle_says_when_it_freezes() {
    let mut story = Story::of(Depth::Awake, Policy::of_seconds(60, 1_200, 0, false));
    story.ask(1, 1, true);
    let used = Used { number: 1, idle: 0, requests: 2, streams: 1 };
    assert_eq!(story.core.renew(story.now, 1, 1, used), Some(LEASE));
    let rest = story.core.rest(1).unwrap();
    let until = story.now.plus(LEASE);
    let because = rest.awake_because(story.now);
    assert_eq!(because, [Awake::Leased { holders: 1, requests: 2, streams: 1, until }]);
    assert_eq!((rest.freezes_at(story.now), rest.sleeps_at(story.now)), (None, None));
    story.core.release(story.now, 1, 1, Used { idle: 500, ..used });
    let rest = story.core.rest(1).unwrap();
    let used = story.now;
    assert_eq!(rest.freezes_at(story.now), Some(used.plus(60_000)));
    assert_eq!(rest.sleeps_at(story.now), Some(used.plus(1_200_000)));
}

#[test]
fn a_failed_wake_tells_all_who_wait_and_the_next_ask_tries_again() {
    let mut story = Story::of(Depth::Asleep, Policy::default());
    story.ask(1, 1, true);
    story.ask(1, 2, false);
    let (_, ticket) = story.act();
    assert!(story.core.begin(story.now, 1, ticket));
    story.core.done(story.now, 1, ticket, Outcome::Refused, Depth::Asleep);
    assert_eq!(story.answers(), [Answer::Failed(Failure::Refused); 2]);
    story.ask(1, 3, true);
    let (_, ticket) = story.act();
    assert!(story.core.begin(story.now, 1, ticket));
    story.core.done(story.now, 1, ticket, Outcome::Done, Depth::Booting);
    story.pass(30_000);
    assert_eq!(story.answers(), [Answer::Failed(Failure::Slow)]);
}

#[test]
fn a_start_of_before_the_keepers_own_is_waited_for() {
    let mut story = Story::of(Depth::Asleep, Policy::default());
    let limits = story.core.settings.limits;
    story.core = Authority::new(story.now, Settings { lease: LEASE, pause: 5_000, limits });
    story.core.add(story.now, 1, Depth::Booting, Policy::default(), story.now);
    story.ask(1, 1, true);
    assert_eq!(story.said(), []);
    story.core.sees(story.now, 1, Depth::Awake);
    assert!(matches!(story.answers()[..], [Answer::Granted(Grant { woke: true, .. })]));
}

#[test]
fn that_one_which_was_found_running_answers_is_no_use_of_it() {
    let mut story = Story::of(Depth::Asleep, Policy::default());
    let used = story.now.minus(5_000);
    for (tenant, depth, last) in [(2, Depth::Booting, used), (3, Depth::Down, story.now)] {
        story.core.add(story.now, tenant, depth, freezes(), used);
        story.core.sees(story.now, tenant, Depth::Booting);
        story.core.sees(story.now, tenant, Depth::Awake);
        let rest = story.core.rest(tenant).unwrap();
        assert_eq!(rest.last_use(), last, "{depth:?}");
    }
}

#[test]
fn an_engine_that_refuses_gives_busy_work_no_more_time() {
    let mut story = Story::of(Depth::Awake, Policy::of_seconds(60, 0, 100, false));
    let until = story.now.plus(900_000);
    story.pass(60_000);
    let generation = story.busy();
    story.core.heard(story.now, 1, generation, Heard::Busy { until });
    story.pass(100_000);
    for _ in 0..2 {
        let generation = story.busy();
        story.core.heard(story.now, 1, generation, Heard::Busy { until });
        let (_, ticket) = story.act();
        assert!(story.core.begin(story.now, 1, ticket));
        story.core.done(story.now, 1, ticket, Outcome::Refused, Depth::Awake);
        story.pass(5_000);
    }
}

#[test]
fn what_was_refused_on_the_way_up_keeps_nothing_awake_once_it_is_up() {
    let mut story = Story::of(Depth::Asleep, freezes());
    story.ask(1, 1, true);
    let (_, ticket) = story.act();
    assert!(story.core.begin(story.now, 1, ticket));
    story.core.done(story.now, 1, ticket, Outcome::Refused, Depth::Asleep);
    story.ask(1, 2, true);
    story.said();
    story.core.sees(story.now, 1, Depth::Awake);
    let because = story.core.rest(1).unwrap().awake_because(story.now);
    assert!(matches!(because[..], [Awake::Leased { .. }]), "{because:?}");
}

#[test]
fn one_that_somebody_else_froze_under_a_live_lease_is_thawed() {
    let mut story = Story::of(Depth::Awake, Policy::default());
    story.ask(1, 1, true);
    story.said();
    story.core.sees(story.now, 1, Depth::Frozen);
    assert_eq!(story.act().0, Act::Thaw);
}

#[test]
fn the_owners_stop_answers_whoever_waits_and_nothing_wakes_it() {
    let mut story = Story::of(Depth::Asleep, Policy::default());
    story.ask(1, 1, true);
    let (_, ticket) = story.act();
    story.core.owner_wants(story.now, 1, false);
    assert_eq!(story.answers(), [Answer::Stopped]);
    assert!(!story.core.begin(story.now, 1, ticket));
    story.core.sees(story.now, 1, Depth::Stopped);
    story.ask(1, 2, true);
    assert_eq!(story.answers(), [Answer::Stopped]);
}
