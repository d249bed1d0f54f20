//! Why a tenant is awake or asleep, and until when: the part of its page that says so. Pure.

use askama::Template;
use protocol::control::EffectivePolicy;
use protocol::sleep::{IdleState, LastWake, SleepStatus, WakePhases};
use protocol::spec::{Desired, WakeOn};
use protocol::{State, Timestamp};

use super::words::{ago, lasting, millis, within};
use crate::db::tenant::Tenant;
use crate::views;

#[derive(Template)]
#[template(path = "sleep.html")]
pub struct SleepPart {
    words: String,
    /// The orchestrator was asked, and said nothing.
    silent: bool,
    awake_because: Vec<String>,
    turns: Vec<Turn>,
    asleep_because: Option<String>,
    last_wake: Option<Wake>,
}

/// What comes next if nobody uses it.
struct Turn {
    word: &'static str,
    at: String,
    within: String,
}

struct Wake {
    at: String,
    ago: String,
    from: &'static str,
    total: String,
    phases: String,
}

/// Its template escapes what it is given.
impl askama::filters::HtmlSafe for SleepPart {}

/// Where a tenant is, as far as sleep is concerned.
#[derive(Clone, Copy)]
pub struct Place {
    pub desired: Desired,
    pub state: State,
    pub since: Timestamp,
    pub waking: bool,
}

impl Place {
    pub fn of(tenant: &Tenant) -> Self {
        let (desired, state, since) = (tenant.desired, tenant.state, tenant.state_since);
        Self { desired, state, since, waking: tenant.want().wake }
    }
}

impl SleepPart {
    pub fn new(
        place: Place,
        policy: &EffectivePolicy,
        sleep: Option<SleepStatus>,
        now: Timestamp,
    ) -> Self {
        let has_rest = place.desired == Desired::Running && rests_or_runs(place.state);
        let silent = sleep.is_none() && has_rest;
        let turns = sleep.as_ref().filter(|_| has_rest).map(|s| turns(place.state, s, now));
        let (awake_because, asleep_because, last_wake) = match sleep {
            Some(sleep) => (sleep.awake_because, sleep.asleep_because, sleep.last_wake),
            None => (Vec::new(), None, None),
        };
        let is_up = place.desired == Desired::Running && place.state == State::Running;
        Self {
            words: words(place, policy, now),
            silent,
            awake_because: if is_up { awake_because } else { Vec::new() },
            turns: turns.unwrap_or_default(),
            asleep_because,
            last_wake: last_wake.map(|wake| Wake::new(&wake, now)),
        }
    }

    fn is_bare(&self) -> bool {
        self.awake_because.is_empty()
            && self.turns.is_empty()
            && self.asleep_because.is_none()
            && self.last_wake.is_none()
    }
}

fn rests_or_runs(state: State) -> bool {
    matches!(state, State::Running | State::Frozen | State::Sleeping)
}

fn words(place: Place, policy: &EffectivePolicy, now: Timestamp) -> String {
    let lasting = lasting(place.since, now);
    let who = match policy.wake_on {
        WakeOn::Visits => "A visit",
        WakeOn::AnyRequest => "Any request",
    };
    match (place.desired, place.state) {
        (Desired::Deleted, _) | (_, State::Deleting) => "It is being deleted.".to_owned(),
        (Desired::Stopped, _) => "Its owner stopped it: no request wakes it.".to_owned(),
        (Desired::Running, State::Frozen | State::Sleeping) if place.waking => {
            "It is being woken.".to_owned()
        }
        (Desired::Running, State::Running) => format!("Awake for {lasting}."),
        (Desired::Running, State::Frozen) => {
            format!(
                "Frozen for {lasting}: it keeps its memory and takes no CPU. The next request wakes it within milliseconds."
            )
        }
        (Desired::Running, State::Sleeping) => {
            format!(
                "Asleep for {lasting}: its container is stopped, its files are kept. {who} starts it."
            )
        }
        (Desired::Running, State::Provisioning | State::Starting | State::Stopped) => {
            "It is on its way.".to_owned()
        }
        (Desired::Running, State::Error) => "It does not run; the reason is above.".to_owned(),
    }
}

fn turns(state: State, sleep: &SleepStatus, now: Timestamp) -> Vec<Turn> {
    let freezes = sleep.freezes_at.filter(|_| state == State::Running);
    let sleeps = sleep.sleeps_at.filter(|_| state != State::Sleeping);
    let turn = |word, at| Turn { word, at: views::time(at), within: within(at, now) };
    let freezes = freezes.map(|at| turn("Freezes", at));
    freezes.into_iter().chain(sleeps.map(|at| turn("Sleeps", at))).collect()
}

impl Wake {
    fn new(wake: &LastWake, now: Timestamp) -> Self {
        let WakePhases { queue, engine, boot, first_byte } = wake.phases_ms;
        let first_byte = first_byte.map_or_else(|| "not told".to_owned(), millis);
        Self {
            at: views::time(wake.at),
            ago: ago(wake.at, now),
            from: match wake.from {
                IdleState::Frozen => "from being frozen",
                IdleState::Sleeping => "from sleep",
            },
            total: millis(wake.total_ms),
            phases: format!(
                "Queue {}, engine {}, boot {}, first byte {first_byte}.",
                millis(queue),
                millis(engine),
                millis(boot)
            ),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use protocol::TenantId;
    use uuid::Uuid;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    fn told() -> SleepStatus {
        let phases_ms = WakePhases { queue: 0, engine: 310, boot: 12, first_byte: Some(4) };
        let wake = LastWake { at: at(-600), from: IdleState::Sleeping, total_ms: 326, phases_ms };
        SleepStatus {
            tenant: TenantId::new(Uuid::nil()),
            awake_because: vec!["In use: 1 <request>.".into(), "Busy inside.".into()],
            asleep_because: Some("Nobody used it for 20 min.".into()),
            freezes_at: Some(at(42)),
            sleeps_at: Some(at(1_182)),
            last_wake: Some(wake),
        }
    }

    fn part(desired: Desired, state: State, sleep: Option<SleepStatus>) -> String {
        let place = Place { desired, state, since: at(-90), waking: false };
        SleepPart::new(place, &EffectivePolicy::default(), sleep, at(0)).render().unwrap()
    }

    #[test]
    fn what_a_page_says_of_sleep() {
        let parts = [State::Running, State::Frozen, State::Sleeping]
            .map(|state| part(Desired::Running, state, Some(told())));
        insta::assert_snapshot!(parts.join("\n\n"));
    }

    #[test]
    fn words_by_the_table() {
        let mut table = String::new();
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            for state in State::ALL {
                for waking in [false, true] {
                    let place = Place { desired, state, since: at(-90), waking };
                    let said = words(place, &EffectivePolicy::default(), at(0));
                    let wish = if waking { " + wake" } else { "" };
                    table += &format!("{} {state}{wish}: {said}\n", desired.as_str());
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn silence_is_said_where_something_would_be() {
        let silence = "cannot say at the moment";
        for state in State::ALL {
            let said = part(Desired::Running, state, None);
            assert_eq!(said.contains(silence), rests_or_runs(state), "{state}");
            assert!(!said.contains("<dl"), "{state}");
            assert!(!part(Desired::Running, state, Some(told())).contains(silence), "{state}");
        }
    }
}
