//! The state of a tenant as a label, an icon and a colour. Pure.

use protocol::spec::Desired;
use protocol::{State, Timestamp};

use super::format::ago;
use crate::views;

pub struct StatusBadge {
    pub label: &'static str,
    /// The name of an icon and a class of the style sheet.
    pub look: &'static str,
    pub since: String,
    pub ago: String,
    /// The state is transient.
    pub is_transient: bool,
}

/// `waking`: the owner requested a wake, and the tenant still sleeps.
pub fn status_badge(
    (state, desired): (State, Desired),
    waking: bool,
    since: Timestamp,
    now: Timestamp,
) -> StatusBadge {
    let (label, look, is_transient) = match (state, desired) {
        (State::Deleting, _) | (_, Desired::Deleted) => ("deleting", "moving", true),
        (State::Stopped, Desired::Stopped) => ("stopped", "stopped", false),
        (_, Desired::Stopped) => ("stopping", "moving", true),
        (State::Provisioning | State::Stopped, Desired::Running) => {
            ("provisioning", "moving", true)
        }
        (State::Starting, Desired::Running) => ("starting", "moving", true),
        (State::Running, Desired::Running) => ("running", "running", false),
        (State::Frozen | State::Sleeping, Desired::Running) if waking => ("waking", "moving", true),
        (State::Frozen, Desired::Running) => ("frozen", "asleep", false),
        (State::Sleeping, Desired::Running) => ("sleeping", "asleep", false),
        (State::Error, Desired::Running) => ("error", "error", false),
    };
    StatusBadge { label, look, since: views::time(since), ago: ago(since, now), is_transient }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    #[test]
    fn each_state_has_a_label_and_a_look() {
        let mut table = String::new();
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            for state in State::ALL {
                let s = status_badge((state, desired), false, at(0), at(0));
                let moves = if s.is_transient { " …" } else { "" };
                table +=
                    &format!("{} {state}: {} ({}){moves}\n", desired.as_str(), s.label, s.look);
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn a_requested_wake_is_shown_as_waking() {
        for state in State::ALL {
            let requested = status_badge((state, Desired::Running), true, at(0), at(0));
            let before = status_badge((state, Desired::Running), false, at(0), at(0));
            let asleep = matches!(state, State::Frozen | State::Sleeping);
            assert_eq!(requested.label, if asleep { "waking" } else { before.label }, "{state}");
        }
    }
}
