//! What holds for each core whatever it is told, in sequences longer and times finer than the model's.

use std::collections::BTreeMap;

use proptest::prelude::*;

use crate::authority::Authority;
use crate::command::{Act, Answer, Ask, Command, Outcome, Settings};
use crate::fall::Decision;
use crate::holder::{Due, Holder, Terms};
use crate::rest::{Depth, Policy, Rest, Step, Used};
use crate::time::{Millis, Moment};
use crate::wake::{Limits, Rouse, Waiter};
use crate::why::{Awake, Heard};

const LEASE: Millis = 15_000;
const START: Moment = Moment(1_000_000);

#[derive(Clone, Debug)]
enum Said {
    Pass(Millis),
    Ask,
    Granted(usize),
    Renew,
    Renewed(usize, bool),
    Release,
}

fn said() -> impl Strategy<Value = Said> {
    prop_oneof![
        3 => (0..6_000u64).prop_map(Said::Pass),
        2 => Just(Said::Ask),
        3 => any::<usize>().prop_map(Said::Granted),
        2 => Just(Said::Renew),
        2 => any::<(usize, bool)>().prop_map(|(at, kept)| Said::Renewed(at, kept)),
        1 => Just(Said::Release),
    ]
}

proptest! {
    /// A holder never goes beyond what some call that it sent can have got it, and never uses what it gave back.
    #[test]
    fn a_holder_sends_only_under_a_lease_that_it_did_not_give_back(
        story in proptest::collection::vec(said(), 1..80),
    ) {
        let terms = Terms { expires_in: LEASE, linger: 10_000 };
        let (mut holder, mut now) = (Holder::default(), START);
        let (mut asks, mut renewals) = (Vec::new(), Vec::new());
        let (mut newest, mut over) = (Moment(0), 0);
        for said in story {
            match said {
                Said::Pass(time) => now = now.plus(time),
                Said::Ask => asks.push(holder.ask(now)),
                Said::Granted(at) if !asks.is_empty() => {
                    let call = asks[at % asks.len()];
                    prop_assert_eq!(holder.granted(call, terms), call.number > over);
                    if call.number > over {
                        newest = newest.max(call.sent);
                    }
                }
                Said::Renew => renewals.extend(holder.renew(now)),
                Said::Renewed(at, kept) if !renewals.is_empty() => {
                    let call = renewals[at % renewals.len()];
                    holder.renewed(call, kept.then_some(LEASE));
                    if call.number > over {
                        newest = newest.max(call.sent);
                    }
                }
                Said::Release => {
                    if let Some(number) = holder.release() {
                        prop_assert!(number > over);
                        (over, newest) = (number, Moment(0));
                    }
                }
                Said::Granted(_) | Said::Renewed(..) => {}
            }
            prop_assert!(!holder.may_send(now) || now < newest.plus(LEASE));
            prop_assert_eq!(holder.may_send(now), now < holder.until());
        }
    }

    /// The deadline is neither late nor early: nothing is due before it, something at it.
    #[test]
    fn a_holder_is_due_at_its_deadline(
        sent in 0..20_000u64, in_use: bool, used in 0..20_000u64, linger in 100..10_000u64,
    ) {
        let mut holder = Holder::default();
        let call = holder.ask(START.plus(sent));
        holder.granted(call, Terms { expires_in: LEASE, linger });
        let used = START.plus(used);
        let at = holder.next_deadline(in_use, used);
        prop_assert!(at.is_some());
        let at = at.unwrap_or_default();
        prop_assert_eq!(holder.due(at.minus(1), in_use, used), Due::Nothing);
        let due = holder.due(at, in_use, used);
        prop_assert!(due != Due::Nothing);
        prop_assert!(!in_use || due == Due::Renew);
        // A lease in use is renewed twice before it runs out.
        prop_assert!(!in_use || at <= call.sent.plus(LEASE / 2));
    }
}

#[derive(Clone, Debug)]
enum Use {
    Pass(Millis),
    Grant(u8),
    Renew(u8, Millis),
    Release(u8),
    Heard(bool),
    Begin,
    Thawed(bool),
    Fell(bool),
    Wake,
    Policy(u16, u16, u16),
}

fn uses() -> impl Strategy<Value = Use> {
    prop_oneof![
        6 => (0..20_000u64).prop_map(Use::Pass),
        1 => (0..3u8).prop_map(Use::Grant),
        1 => (0..3u8, 0..10_000u64).prop_map(|(holder, idle)| Use::Renew(holder, idle)),
        2 => (0..3u8).prop_map(Use::Release),
        4 => prop::bool::weighted(0.2).prop_map(Use::Heard),
        4 => Just(Use::Begin),
        2 => any::<bool>().prop_map(Use::Thawed),
        4 => prop::bool::weighted(0.2).prop_map(Use::Fell),
        1 => Just(Use::Wake),
        1 => (0..60u16, 0..120u16, 0..90u16).prop_map(|(a, b, c)| Use::Policy(a, b, c)),
    ]
}

proptest! {
    #[test]
    fn a_tenant_falls_asleep_idle_and_unleased_and_never_before_the_floor(
        story in proptest::collection::vec(uses(), 1..120),
    ) {
        let (mut now, floor) = (START, START.plus(LEASE));
        let mut policy = Policy::of_seconds(20, 60, 0, false);
        let mut rest = Rest::new(now, Depth::Awake, policy, Moment(0), floor);
        let mut leases = BTreeMap::<u8, Moment>::new();
        let (mut last_use, mut asked, mut agreed, mut busy) = (Moment(0), None, None, false);
        // Since when it has said that it is busy, whoever visits it.
        let mut first = None;
        for step in story {
            match step {
                Use::Pass(time) => now = now.plus(time),
                Use::Grant(holder) if rest.is_open() => {
                    rest.grant(now, holder, 1, LEASE);
                    leases.insert(holder, now.plus(LEASE));
                    last_use = now;
                }
                Use::Renew(holder, idle) => {
                    let used = Used { number: 1, idle, ..Used::default() };
                    let live = leases.get(&holder).is_some_and(|until| *until > now);
                    let renewed = rest.renew(now, holder, used, LEASE);
                    prop_assert_eq!(renewed, live && rest.is_open());
                    if renewed {
                        leases.insert(holder, now.plus(LEASE));
                    }
                    last_use = last_use.max(now.minus(idle));
                }
                Use::Release(holder) => {
                    rest.release(now, holder, Used { number: 1, idle: 60_000, ..Used::default() });
                    leases.remove(&holder);
                    last_use = last_use.max(now.minus(60_000));
                }
                Use::Heard(is_busy) => {
                    if let Some(generation) = asked.take() {
                        let heard = if is_busy { Heard::Busy { until: now } } else { Heard::Free };
                        busy = is_busy;
                        let asks = matches!(rest.step, Step::Asking { generation: of, .. } if of == generation);
                        if asks {
                            first = is_busy.then_some(first.unwrap_or(now));
                        }
                        if let Decision::Fall { generation, fall } = rest.heard(now, generation, heard) {
                            agreed = Some((generation, fall));
                        }
                    }
                }
                Use::Begin => {
                    if let Some((generation, fall)) = agreed.take()
                        && rest.begin(now, generation)
                    {
                        prop_assert!(leases.values().all(|until| *until <= now), "a lease is live");
                        prop_assert!(now >= floor, "before the floor");
                        let after = [policy.freeze_after, policy.sleep_after].into_iter().flatten();
                        let after = after.min().unwrap_or(Millis::MAX);
                        prop_assert!(now.since(last_use) >= after, "{fall:?} of one in use");
                        prop_assert!(!busy || policy.max_awake.is_some() || rest.depth() == Depth::Frozen);
                    }
                }
                Use::Thawed(is_busy) if rest.is_falling() && rest.depth() == Depth::Frozen => {
                    let heard = if is_busy { Heard::Busy { until: now } } else { Heard::Free };
                    let stops = rest.thawed(now, heard);
                    prop_assert!(!(stops && is_busy) || policy.max_awake.is_some());
                }
                Use::Fell(refused) if rest.is_falling() => {
                    first = None;
                    let depth = if refused { Depth::Awake } else { Depth::Frozen };
                    rest.fell(now, depth, refused, 5_000);
                }
                Use::Wake => {
                    first = None;
                    rest.sees(now, Depth::Awake);
                    last_use = last_use.max(rest.last_use());
                }
                Use::Policy(freeze, sleep, awake) => {
                    policy = Policy::of_seconds(freeze.into(), sleep.into(), awake.into(), false);
                    rest.set_policy(policy);
                }
                Use::Grant(_) | Use::Thawed(_) | Use::Fell(_) => {}
            }
            for because in rest.awake_because(now) {
                if let Awake::Busy { since, .. } = because {
                    prop_assert!(first.is_none_or(|first| since <= first), "its time began anew");
                }
            }
            let deadline = rest.next_deadline();
            match rest.decide(now) {
                Decision::Nothing => prop_assert!(deadline.is_none_or(|at| at > now)
                    || rest.next_deadline().is_none_or(|at| at > now), "a deadline that spins"),
                Decision::AskBusy { generation } => {
                    prop_assert!(deadline.is_some_and(|at| at <= now), "not at its deadline");
                    asked = Some(generation);
                }
                Decision::Fall { generation, fall } => {
                    prop_assert!(deadline.is_some_and(|at| at <= now), "not at its deadline");
                    (busy, asked) = (false, None);
                    agreed = Some((generation, fall));
                }
            }
        }
    }
}

#[derive(Clone, Debug)]
enum Wish {
    Pass(Millis),
    Ask(u8, bool),
    Gone(usize),
    Begin(usize),
    Done(usize, bool),
    Ready(u8),
    Die(u8),
    Owner(u8, bool),
}

fn wishes() -> impl Strategy<Value = Wish> {
    prop_oneof![
        3 => (0..3_000u64).prop_map(Wish::Pass),
        8 => (0..6u8, prop::bool::weighted(0.8)).prop_map(|(t, visit)| Wish::Ask(t, visit)),
        1 => any::<usize>().prop_map(Wish::Gone),
        4 => any::<usize>().prop_map(Wish::Begin),
        4 => (any::<usize>(), prop::bool::weighted(0.2)).prop_map(|(at, r)| Wish::Done(at, r)),
        2 => (0..6u8).prop_map(Wish::Ready),
        1 => (0..6u8).prop_map(Wish::Die),
        1 => (0..6u8, any::<bool>()).prop_map(|(t, runs)| Wish::Owner(t, runs)),
    ]
}

const LIMITS: Limits =
    Limits { starts: 2, thaws: 2, queue: 3, waiters_each: 4, waiters: 12, boot: 5_000 };
const SETTINGS: Settings = Settings { lease: LEASE, pause: 1_000, limits: LIMITS };

proptest! {
    #[test]
    fn everybody_who_asks_is_answered_once_in_time_and_all_bounds_hold(
        story in proptest::collection::vec(wishes(), 1..200),
    ) {
        let mut now = START;
        let mut core: Authority<u8, u8, u32> = Authority::new(now, SETTINGS);
        for tenant in 0..6 {
            let depth = if tenant % 2 == 0 { Depth::Asleep } else { Depth::Frozen };
            core.add(now, tenant, depth, Policy::default(), now);
        }
        let (mut waiting, mut ids) = (BTreeMap::new(), 0..);
        let (mut acts, mut begun) = (Vec::new(), Vec::new());
        for wish in story {
            match wish {
                Wish::Pass(time) => {
                    now = now.plus(time);
                    core.tick(now);
                }
                Wish::Ask(tenant, visit) => {
                    let id = ids.next().unwrap_or_default();
                    let deadline = now.plus(4_000);
                    waiting.insert(id, (tenant, deadline));
                    let waiter = Waiter { id, holder: 1, number: 1, deadline };
                    core.ask(now, Ask { tenant, visit, waiter });
                }
                Wish::Gone(at) => {
                    if let Some((id, (tenant, _))) = waiting.iter().nth(at % 8).map(|(k, v)| (*k, *v)) {
                        waiting.remove(&id);
                        core.waiter_gone(now, tenant, id);
                    }
                }
                Wish::Begin(at) if !acts.is_empty() => {
                    let (tenant, act, ticket) = acts.swap_remove(at % acts.len());
                    if core.begin(now, tenant, ticket) {
                        begun.push((tenant, act, ticket));
                    }
                }
                Wish::Done(at, refused) if !begun.is_empty() => {
                    let (tenant, act, ticket) = begun.swap_remove(at % begun.len());
                    let (outcome, depth) = match (refused, act) {
                        (true, _) => (Outcome::Refused, Depth::Asleep),
                        (false, Act::Start) => (Outcome::Done, Depth::Booting),
                        (false, _) => (Outcome::Done, Depth::Awake),
                    };
                    core.done(now, tenant, ticket, outcome, depth);
                }
                Wish::Ready(tenant) => {
                    if core.rest(tenant).is_some_and(|rest| rest.depth() == Depth::Booting) {
                        core.sees(now, tenant, Depth::Awake);
                    }
                }
                Wish::Die(tenant) => {
                    if core.rest(tenant).is_some_and(|rest| rest.depth() == Depth::Awake) {
                        core.sees(now, tenant, Depth::Asleep);
                    }
                }
                Wish::Owner(tenant, runs) => core.owner_wants(now, tenant, runs),
                Wish::Begin(_) | Wish::Done(..) => {}
            }
            while let Some(command) = core.next_command() {
                match command {
                    Command::Act { tenant, act, ticket } => acts.push((tenant, act, ticket)),
                    Command::Answer { waiter, answer } => {
                        let asked = waiting.remove(&waiter);
                        prop_assert!(asked.is_some(), "{waiter} answered twice: {answer:?}");
                        let deadline = asked.map(|(_, deadline)| deadline).unwrap_or_default();
                        let is_late = matches!(answer, Answer::Waking { .. });
                        prop_assert!(!is_late || deadline <= now, "too early");
                    }
                    Command::AskBusy { .. } | Command::Woke { .. } => {}
                }
            }
            prop_assert!(waiting.values().all(|(_, deadline)| *deadline > now), "past a deadline");
            prop_assert!(core.next_deadline().is_none_or(|at| at > now), "a deadline that spins");
            prop_assert_eq!(core.wake().waiters(), waiting.len());
            prop_assert!(waiting.len() <= LIMITS.waiters);
            prop_assert!(core.wake().calls(Rouse::Start) <= LIMITS.starts);
            prop_assert!(core.wake().calls(Rouse::Thaw) <= LIMITS.thaws);
            for tenant in 0..6 {
                let calls = begun.iter().filter(|(of, ..)| *of == tenant).count();
                prop_assert!(calls <= 1, "two calls for {tenant}");
            }
        }
    }
}
