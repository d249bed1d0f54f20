use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(milliseconds: u64) -> Moment {
    let steady = Duration::from_millis(milliseconds);
    Moment { steady, wall: Timestamp::UNIX_EPOCH + steady }
}

fn wish(reason: &str, ttl_seconds: u32) -> DeclareBusy {
    DeclareBusy { reason: reason.to_owned(), ttl_seconds }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn reasons(registry: &Registry, of: Option<BusyOwner>, now: Moment) -> Vec<String> {
    registry.list(of, now).busy.into_iter().map(|busy| busy.reason).collect()
}

#[test]
fn what_may_be_said_and_for_how_long() {
    let (long, longer) = ("ä".repeat(200), "ä".repeat(201));
    let cases: [(&str, u32, &[&str]); 10] = [
        ("nightly backup", 1, &[]),
        ("nightly backup", 900, &[]),
        (&long, 60, &[]),
        (&longer, 60, &["reason"]),
        ("", 60, &["reason"]),
        ("two\nlines", 60, &["reason"]),
        ("a\u{1b}[2J", 60, &["reason"]),
        ("paid \u{202e}etelpmoc", 60, &["reason"]),
        ("x", 0, &["ttl_seconds"]),
        ("", 901, &["reason", "ttl_seconds"]),
    ];
    for (reason, ttl, faults) in cases {
        let mut registry = Registry::default();
        let outcome = registry.declare(BusyOwner::Core, id(1), wish(reason, ttl), at(0));
        let seen = match &outcome {
            Ok(_) => Vec::new(),
            Err(Refused::Fields(seen)) => seen.iter().map(|fault| fault.field.as_str()).collect(),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(seen, faults, "{reason:?} {ttl}");
        assert_eq!(registry.list(None, at(0)).busy.len(), usize::from(faults.is_empty()));
    }
}

#[test]
fn it_ends_by_itself_unless_it_is_renewed() {
    let mut registry = Registry::default();
    let made = registry.declare(BusyOwner::Agent, id(1), wish("job", 10), at(0)).unwrap();
    assert_eq!(made.busy.until, at(10_000).wall);
    assert_eq!(reasons(&registry, None, at(9_999)), ["job"]);
    let renewed = registry.renew(BusyOwner::Agent, id(1), 20, at(9_999)).unwrap();
    assert_eq!(renewed.busy.until, at(29_999).wall);
    assert_eq!(reasons(&registry, None, at(29_998)), ["job"]);
    assert_eq!(reasons(&registry, None, at(29_999)), [""; 0]);
    let late = registry.renew(BusyOwner::Agent, id(1), 20, at(29_999));
    assert_eq!(late, Err(Refused::Ended), "what ran out does not come back");
    assert!(matches!(registry.renew(BusyOwner::Agent, id(1), 901, at(0)), Err(Refused::Fields(_))));
}

#[test]
fn a_renewal_may_shorten() {
    let mut registry = Registry::default();
    registry.declare(BusyOwner::Core, id(1), wish("job", 900), at(0)).unwrap();
    registry.renew(BusyOwner::Core, id(1), 1, at(0)).unwrap();
    assert_eq!(reasons(&registry, None, at(1_000)), [""; 0]);
}

#[test]
fn no_half_touches_the_others_and_agent_sees_its_own() {
    let mut registry = Registry::default();
    for (number, owner, reason) in
        [(1, BusyOwner::Core, "core's"), (2, BusyOwner::Agent, "agent's")]
    {
        registry.declare(owner, id(number), wish(reason, 60), at(0)).unwrap();
    }
    for (owner, other) in [(BusyOwner::Agent, id(1)), (BusyOwner::Core, id(2))] {
        assert_eq!(registry.renew(owner, other, 900, at(1)), Err(Refused::Ended));
        registry.withdraw(owner, other);
    }
    assert_eq!(reasons(&registry, None, at(1)), ["core's", "agent's"]);
    assert_eq!(reasons(&registry, Some(BusyOwner::Agent), at(1)), ["agent's"]);
    registry.withdraw(BusyOwner::Agent, id(2));
    registry.withdraw(BusyOwner::Agent, id(2));
    assert_eq!(reasons(&registry, None, at(1)), ["core's"]);
}

#[test]
fn a_half_with_too_many_waits_for_the_first_to_end() {
    let mut registry = Registry::default();
    for number in 0..MOST_OF_AGENT as u128 {
        let ttl = 60 + u32::try_from(number).unwrap();
        registry.declare(BusyOwner::Agent, id(number), wish("job", ttl), at(0)).unwrap();
    }
    let more = |registry: &mut Registry, owner, now| {
        registry.declare(owner, id(99), wish("one more", 60), now).map(drop)
    };
    let full = Refused::Full { most: MOST_OF_AGENT, wait: Duration::from_secs(50) };
    assert_eq!(more(&mut registry, BusyOwner::Agent, at(10_000)), Err(full));
    assert_eq!(more(&mut registry, BusyOwner::Core, at(10_000)), Ok(()));
    assert_eq!(more(&mut registry, BusyOwner::Agent, at(60_000)), Ok(()));
}

#[test]
fn agent_may_ask_in_bursts_and_the_core_always() {
    let mut registry = Registry::default();
    for _ in 0..BURST {
        assert_eq!(registry.admit(BusyOwner::Agent, at(5_000)), Ok(()));
    }
    let refused = Err(Refused::TooOften { wait: EVERY });
    assert_eq!(registry.admit(BusyOwner::Agent, at(5_000)), refused);
    assert_eq!(registry.admit(BusyOwner::Agent, at(5_000)), refused, "a refusal costs nothing");
    assert_eq!(registry.admit(BusyOwner::Core, at(5_000)), Ok(()));
    assert_eq!(registry.admit(BusyOwner::Agent, at(5_500)), Ok(()));
    assert!(registry.admit(BusyOwner::Agent, at(5_500)).is_err());
}

#[derive(Clone, Debug)]
enum Step {
    DeclareBusy(BusyOwner, u32),
    Renew(BusyOwner, u128, u32),
    Withdraw(BusyOwner, u128),
}

fn step() -> impl Strategy<Value = Step> {
    let owner = || prop_oneof![Just(BusyOwner::Core), Just(BusyOwner::Agent)];
    let (ttl, known) = (|| 0_u32..1_000, || 0_u128..60);
    prop_oneof![
        3 => (owner(), ttl()).prop_map(|(o, t)| Step::DeclareBusy(o, t)),
        2 => (owner(), known(), ttl()).prop_map(|(o, i, t)| Step::Renew(o, i, t)),
        1 => (owner(), known()).prop_map(|(o, i)| Step::Withdraw(o, i)),
    ]
}

proptest! {
    /// Whatever is asked, whenever: what is listed is exactly what was granted, has not ended, and was not
    /// withdrawn by its own half; and nobody has more than its share.
    #[test]
    fn what_is_listed_is_what_was_granted(
        steps in prop::collection::vec((step(), 0_u64..120_000), 1..120)
    ) {
        let (mut registry, mut model) = (Registry::default(), BTreeMap::new());
        let (mut now, mut next) = (0, 0_u128);
        for (step, pause) in steps {
            now += pause;
            model.retain(|_, (_, ends)| now < *ends);
            let granted = match step {
                Step::DeclareBusy(owner, ttl) => {
                    next += 1;
                    let wish = wish(&next.to_string(), ttl);
                    registry.declare(owner, id(next), wish, at(now)).ok()
                }
                Step::Renew(owner, which, ttl) => {
                    let renewed = registry.renew(owner, id(which), ttl, at(now)).ok();
                    let known = model.get(&which).is_some_and(|(own, _)| *own == owner);
                    prop_assert_eq!(renewed.is_some(), known && (1..=900).contains(&ttl));
                    renewed
                }
                Step::Withdraw(owner, which) => {
                    registry.withdraw(owner, id(which));
                    if model.get(&which).is_some_and(|(own, _)| *own == owner) {
                        model.remove(&which);
                    }
                    None
                }
            };
            if let Some(BusyLease { id, busy }) = granted {
                let ends = u64::try_from(busy.until.timestamp_millis()).unwrap();
                prop_assert!(now < ends && ends <= now + 900_000);
                model.insert(id.as_u128(), (busy.owner, ends));
            }
            for owner in [BusyOwner::Core, BusyOwner::Agent] {
                let listed = reasons(&registry, Some(owner), at(now));
                let own = model.iter().filter(|(_, (whose, _))| *whose == owner);
                let expected: Vec<_> = own.map(|(id, _)| id.to_string()).collect();
                prop_assert_eq!(&listed, &expected);
                let most = if owner == BusyOwner::Agent { MOST_OF_AGENT } else { MOST_OF_CORE };
                prop_assert!(listed.len() <= most);
            }
        }
    }

    /// In no stretch of time is `agent` let in more often than its burst and what the time earns.
    #[test]
    fn the_rate_holds_over_every_stretch(pauses in prop::collection::vec(0_u64..900, 1..300)) {
        let (mut registry, mut now, mut admitted) = (Registry::default(), 0, Vec::new());
        for pause in pauses {
            now += pause;
            if registry.admit(BusyOwner::Agent, at(now)).is_ok() {
                admitted.push(now);
            }
        }
        let every = u64::try_from(EVERY.as_millis()).unwrap();
        for (first, since) in admitted.iter().enumerate() {
            for (last, until) in admitted.iter().enumerate().skip(first) {
                let count = u64::try_from(last - first + 1).unwrap();
                prop_assert!(count <= u64::from(BURST) + (until - since) / every);
            }
        }
    }
}
