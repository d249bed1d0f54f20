use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn at(milliseconds: u64) -> Now {
    let monotonic = Duration::from_millis(milliseconds);
    Now { monotonic, wall: Timestamp::UNIX_EPOCH + monotonic }
}

fn declaration(reason: &str, ttl_seconds: u32) -> DeclareBusy {
    DeclareBusy { reason: reason.to_owned(), ttl_seconds }
}

fn id(number: u128) -> Uuid {
    Uuid::from_u128(number)
}

fn reasons(registry: &BusyRegistry, of: Option<BusyOwner>, now: Now) -> Vec<String> {
    registry.list(of, now).busy.into_iter().map(|busy| busy.reason).collect()
}

#[test]
fn the_rules_for_reason_and_ttl() {
    let (long, longer) = ("ä".repeat(200), "ä".repeat(201));
    let cases: [(&str, u32, &[&str]); 14] = [
        ("nightly backup", 1, &[]),
        ("nightly backup", 900, &[]),
        (&long, 60, &[]),
        (&longer, 60, &["reason"]),
        ("", 60, &["reason"]),
        (" ", 60, &["reason"]),
        ("\u{200b}", 60, &["reason"]),
        ("\u{3164}\u{2800}", 60, &["reason"]),
        ("👩\u{200d}💻", 60, &[]),
        ("two\nlines", 60, &["reason"]),
        ("a\u{1b}[2J", 60, &["reason"]),
        ("paid \u{202e}etelpmoc", 60, &["reason"]),
        ("x", 0, &["ttl_seconds"]),
        ("", 901, &["reason", "ttl_seconds"]),
    ];
    for (reason, ttl, faults) in cases {
        let mut registry = BusyRegistry::default();
        let outcome = registry.declare(BusyOwner::Core, id(1), declaration(reason, ttl), at(0));
        let seen = match &outcome {
            Ok(_) => Vec::new(),
            Err(BusyError::Fields(seen)) => seen.iter().map(|fault| fault.field.as_str()).collect(),
            Err(other) => panic!("{other:?}"),
        };
        assert_eq!(seen, faults, "{reason:?} {ttl}");
        assert_eq!(registry.list(None, at(0)).busy.len(), usize::from(faults.is_empty()));
    }
}

#[test]
fn a_declaration_ends_by_itself_unless_it_is_renewed() {
    let mut registry = BusyRegistry::default();
    let made = registry.declare(BusyOwner::Agent, id(1), declaration("job", 10), at(0)).unwrap();
    assert_eq!(made.busy.until, at(10_000).wall);
    assert_eq!(reasons(&registry, None, at(9_999)), ["job"]);
    let renewed = registry.renew(BusyOwner::Agent, id(1), 20, at(9_999)).unwrap();
    assert_eq!(renewed.busy.until, at(29_999).wall);
    assert_eq!(reasons(&registry, None, at(29_998)), ["job"]);
    assert_eq!(reasons(&registry, None, at(29_999)), [""; 0]);
    let late = registry.renew(BusyOwner::Agent, id(1), 20, at(29_999));
    assert_eq!(late, Err(BusyError::NotFound), "what ran out does not come back");
    assert!(matches!(
        registry.renew(BusyOwner::Agent, id(1), 901, at(0)),
        Err(BusyError::Fields(_))
    ));
}

#[test]
fn a_renewal_may_shorten() {
    let mut registry = BusyRegistry::default();
    registry.declare(BusyOwner::Core, id(1), declaration("job", 900), at(0)).unwrap();
    registry.renew(BusyOwner::Core, id(1), 1, at(0)).unwrap();
    assert_eq!(reasons(&registry, None, at(1_000)), [""; 0]);
}

#[test]
fn each_half_changes_its_own_declarations_and_agent_sees_its_own() {
    let mut registry = BusyRegistry::default();
    for (number, owner, reason) in
        [(1, BusyOwner::Core, "core's"), (2, BusyOwner::Agent, "agent's")]
    {
        registry.declare(owner, id(number), declaration(reason, 60), at(0)).unwrap();
    }
    for (owner, other) in [(BusyOwner::Agent, id(1)), (BusyOwner::Core, id(2))] {
        assert_eq!(registry.renew(owner, other, 900, at(1)), Err(BusyError::NotFound));
        registry.withdraw(owner, other);
    }
    assert_eq!(reasons(&registry, None, at(1)), ["core's", "agent's"]);
    assert_eq!(reasons(&registry, Some(BusyOwner::Agent), at(1)), ["agent's"]);
    registry.withdraw(BusyOwner::Agent, id(2));
    registry.withdraw(BusyOwner::Agent, id(2));
    assert_eq!(reasons(&registry, None, at(1)), ["core's"]);
}

#[test]
fn over_the_quota_the_wait_is_until_the_first_declaration_ends() {
    let mut registry = BusyRegistry::default();
    for number in 0..MAX_AGENT_DECLARATIONS as u128 {
        let ttl = 60 + u32::try_from(number).unwrap();
        registry.declare(BusyOwner::Agent, id(number), declaration("job", ttl), at(0)).unwrap();
    }
    let more = |registry: &mut BusyRegistry, owner, now| {
        registry.declare(owner, id(99), declaration("one more", 60), now).map(drop)
    };
    let full =
        BusyError::QuotaReached { max: MAX_AGENT_DECLARATIONS, wait: Duration::from_secs(50) };
    assert_eq!(more(&mut registry, BusyOwner::Agent, at(10_000)), Err(full));
    assert_eq!(more(&mut registry, BusyOwner::Core, at(10_000)), Ok(()));
    assert_eq!(more(&mut registry, BusyOwner::Agent, at(60_000)), Ok(()));
}

#[test]
fn agent_is_rate_limited_and_the_core_is_not() {
    let mut registry = BusyRegistry::default();
    for _ in 0..REQUEST_BURST {
        assert_eq!(registry.check_rate(BusyOwner::Agent, at(5_000)), Ok(()));
    }
    let refused = Err(BusyError::RateLimited { wait: REQUEST_INTERVAL });
    assert_eq!(registry.check_rate(BusyOwner::Agent, at(5_000)), refused);
    assert_eq!(
        registry.check_rate(BusyOwner::Agent, at(5_000)),
        refused,
        "a refusal costs nothing"
    );
    assert_eq!(registry.check_rate(BusyOwner::Core, at(5_000)), Ok(()));
    assert_eq!(registry.check_rate(BusyOwner::Agent, at(5_500)), Ok(()));
    assert!(registry.check_rate(BusyOwner::Agent, at(5_500)).is_err());
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
    /// For every sequence of requests: the list holds exactly the declarations that were granted, have not ended and
    /// were not withdrawn by their own half; and no half exceeds its quota.
    #[test]
    fn the_list_holds_exactly_the_granted_active_declarations(
        steps in prop::collection::vec((step(), 0_u64..120_000), 1..120)
    ) {
        let (mut registry, mut model) = (BusyRegistry::default(), BTreeMap::new());
        let (mut now, mut next) = (0, 0_u128);
        for (step, pause) in steps {
            now += pause;
            model.retain(|_, (_, ends)| now < *ends);
            let granted = match step {
                Step::DeclareBusy(owner, ttl) => {
                    next += 1;
                    let declaration = declaration(&next.to_string(), ttl);
                    registry.declare(owner, id(next), declaration, at(now)).ok()
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
                let most = if owner == BusyOwner::Agent { MAX_AGENT_DECLARATIONS } else { MAX_CORE_DECLARATIONS };
                prop_assert!(listed.len() <= most);
            }
        }
    }

    /// In no interval does `agent` make more requests than the burst and the rate allow.
    #[test]
    fn the_rate_limit_holds_over_every_interval(pauses in prop::collection::vec(0_u64..900, 1..300)) {
        let (mut registry, mut now, mut admitted) = (BusyRegistry::default(), 0, Vec::new());
        for pause in pauses {
            now += pause;
            if registry.check_rate(BusyOwner::Agent, at(now)).is_ok() {
                admitted.push(now);
            }
        }
        let every = u64::try_from(REQUEST_INTERVAL.as_millis()).unwrap();
        for (first, since) in admitted.iter().enumerate() {
            for (last, until) in admitted.iter().enumerate().skip(first) {
                let count = u64::try_from(last - first + 1).unwrap();
                prop_assert!(count <= u64::from(REQUEST_BURST) + (until - since) / every);
            }
        }
    }
}
