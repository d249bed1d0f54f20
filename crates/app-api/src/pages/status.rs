//! A tenant's state in words, an icon and a colour. Pure.

use protocol::spec::Desired;
use protocol::{State, Timestamp};

use super::words::ago;
use crate::views;

pub struct Status {
    pub word: &'static str,
    /// One of the icons and colours of the style sheet.
    pub look: &'static str,
    pub since: String,
    pub ago: String,
    /// It will be another soon.
    pub moving: bool,
}

/// `waking`: its owner asked for it while it was asleep.
pub fn status(
    (state, desired): (State, Desired),
    waking: bool,
    since: Timestamp,
    now: Timestamp,
) -> Status {
    let (word, look, moving) = match (state, desired) {
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
    Status { word, look, since: views::time(since), ago: ago(since, now), moving }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_timestamp(1_700_000_000 + second, 0).unwrap()
    }

    #[test]
    fn words_by_the_table() {
        let mut table = String::new();
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            for state in State::ALL {
                let s = status((state, desired), false, at(0), at(0));
                let moves = if s.moving { " …" } else { "" };
                table += &format!("{} {state}: {} ({}){moves}\n", desired.as_str(), s.word, s.look);
            }
        }
        insta::assert_snapshot!(table);
    }

    #[test]
    fn who_is_asked_to_wake_moves() {
        for state in State::ALL {
            let asked = status((state, Desired::Running), true, at(0), at(0));
            let before = status((state, Desired::Running), false, at(0), at(0));
            let asleep = matches!(state, State::Frozen | State::Sleeping);
            assert_eq!(asked.word, if asleep { "waking" } else { before.word }, "{state}");
        }
    }
}
