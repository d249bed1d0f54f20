//! The section of a tenant's page that shows why the tenant is awake or asleep, and what happens next. Pure.

use askama::Template;
use protocol::control::EffectivePolicy;
use protocol::sleep::{IdleState, LastWake, SleepStatus, WakePhases};
use protocol::spec::{Desired, WakeOn};
use protocol::{State, Timestamp};

use super::format::{ago, elapsed, millis, within};
use crate::tenant::Tenant;
use crate::views;

#[derive(Template)]
#[template(path = "sleep.html")]
pub struct SleepSection {
    summary: String,
    /// The orchestrator did not answer.
    is_unavailable: bool,
    awake_because: Vec<String>,
    upcoming: Vec<Upcoming>,
    asleep_because: Option<String>,
    last_wake: Option<Wake>,
}

/// A change that follows if no visitor uses the tenant.
struct Upcoming {
    label: &'static str,
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

/// The template escapes its values.
impl askama::filters::HtmlSafe for SleepSection {}

/// The facts about a tenant on which this section depends.
#[derive(Clone, Copy)]
pub struct SleepContext {
    pub desired: Desired,
    pub state: State,
    pub since: Timestamp,
    pub waking: bool,
}

impl SleepContext {
    pub fn of(tenant: &Tenant) -> Self {
        let (desired, state, since) = (tenant.desired, tenant.state, tenant.state_since);
        Self { desired, state, since, waking: tenant.desired_state().wake }
    }
}

impl SleepSection {
    pub fn new(
        context: SleepContext,
        policy: &EffectivePolicy,
        sleep: Option<SleepStatus>,
        now: Timestamp,
    ) -> Self {
        let can_sleep = context.desired == Desired::Running && is_up(context.state);
        let is_unavailable = sleep.is_none() && can_sleep;
        let upcoming =
            sleep.as_ref().filter(|_| can_sleep).map(|s| upcoming(context.state, s, now));
        let (awake_because, asleep_because, last_wake) = match sleep {
            Some(sleep) => (sleep.awake_because, sleep.asleep_because, sleep.last_wake),
            None => (Vec::new(), None, None),
        };
        let is_awake = context.desired == Desired::Running && context.state == State::Running;
        Self {
            summary: summary(context, policy, now),
            is_unavailable,
            awake_because: if is_awake { awake_because } else { Vec::new() },
            upcoming: upcoming.unwrap_or_default(),
            asleep_because,
            last_wake: last_wake.map(|wake| Wake::new(&wake, now)),
        }
    }

    fn is_empty(&self) -> bool {
        self.awake_because.is_empty()
            && self.upcoming.is_empty()
            && self.asleep_because.is_none()
            && self.last_wake.is_none()
    }
}

fn is_up(state: State) -> bool {
    matches!(state, State::Running | State::Frozen | State::Sleeping)
}

fn summary(context: SleepContext, policy: &EffectivePolicy, now: Timestamp) -> String {
    let elapsed = elapsed(context.since, now);
    let waker = match policy.wake_on {
        WakeOn::Visits => "A visit",
        WakeOn::AnyRequest => "Any request",
    };
    match (context.desired, context.state) {
        (Desired::Deleted, _) | (_, State::Deleting) => "It is being deleted.".to_owned(),
        (Desired::Stopped, _) => "Its owner stopped it: no request wakes it.".to_owned(),
        (Desired::Running, State::Frozen | State::Sleeping) if context.waking => {
            "It is being woken.".to_owned()
        }
        (Desired::Running, State::Running) => format!("Awake for {elapsed}."),
        (Desired::Running, State::Frozen) => {
            format!(
                "Frozen for {elapsed}: it keeps its memory and takes no CPU. The next request wakes it within milliseconds."
            )
        }
        (Desired::Running, State::Sleeping) => {
            format!(
                "Asleep for {elapsed}: its container is stopped, its files are kept. {waker} starts it."
            )
        }
        (Desired::Running, State::Provisioning | State::Starting | State::Stopped) => {
            "It is on its way.".to_owned()
        }
        (Desired::Running, State::Error) => "It does not run; the reason is above.".to_owned(),
    }
}

fn upcoming(state: State, sleep: &SleepStatus, now: Timestamp) -> Vec<Upcoming> {
    let freezes = sleep.freezes_at.filter(|_| state == State::Running);
    let sleeps = sleep.sleeps_at.filter(|_| state != State::Sleeping);
    let change = |label, at| Upcoming { label, at: views::time(at), within: within(at, now) };
    let freezes = freezes.map(|at| change("Freezes", at));
    freezes.into_iter().chain(sleeps.map(|at| change("Sleeps", at))).collect()
}

impl Wake {
    fn new(wake: &LastWake, now: Timestamp) -> Self {
        let WakePhases { queue, engine, boot, first_byte } = wake.phases_ms;
        let first_byte = first_byte.map_or_else(|| "unknown".to_owned(), millis);
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

    fn status() -> SleepStatus {
        let phases_ms = WakePhases { queue: 0, engine: 310, boot: 12, first_byte: Some(4) };
        let wake = LastWake { at: at(-600), from: IdleState::Sleeping, total_ms: 326, phases_ms };
        SleepStatus {
            tenant: TenantId::new(Uuid::nil()),
            phase: None,
            awake_because: vec!["In use: 1 <request>.".into(), "Busy inside.".into()],
            asleep_because: Some("Nobody used it for 20 min.".into()),
            freezes_at: Some(at(42)),
            sleeps_at: Some(at(1_182)),
            last_wake: Some(wake),
        }
    }

    fn section(desired: Desired, state: State, sleep: Option<SleepStatus>) -> String {
        let context = SleepContext { desired, state, since: at(-90), waking: false };
        SleepSection::new(context, &EffectivePolicy::default(), sleep, at(0)).render().unwrap()
    }

    #[test]
    fn the_section_of_each_state() {
        let sections = [State::Running, State::Frozen, State::Sleeping]
            .map(|state| section(Desired::Running, state, Some(status())));
        insta::assert_snapshot!(sections.join("\n\n"));
    }

    #[test]
    fn the_summary_of_each_state() {
        let mut table = String::new();
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            for state in State::ALL {
                for waking in [false, true] {
                    let context = SleepContext { desired, state, since: at(-90), waking };
                    let text = summary(context, &EffectivePolicy::default(), at(0));
                    let suffix = if waking { " + wake" } else { "" };
                    table += &format!("{} {state}{suffix}: {text}\n", desired.as_str());
                }
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_missing_status_is_shown_where_a_status_is_expected() {
        let notice = "does not answer at the moment";
        for state in State::ALL {
            let text = section(Desired::Running, state, None);
            assert_eq!(text.contains(notice), is_up(state), "{state}");
            assert!(!text.contains("<dl"), "{state}");
            assert!(!section(Desired::Running, state, Some(status())).contains(notice), "{state}");
        }
    }
}
