//! A tenant's life: one enum, one function that moves it.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// Where a tenant is in its life, as its owner sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Wanted; nothing of it is known to run yet.
    Provisioning,
    /// Its container runs; its services have not all answered.
    Starting,
    /// Its own health answers.
    Running,
    /// Paused by the engine: memory kept, no CPU.
    Frozen,
    /// Container stopped for want of use: only the volumes are kept; a request wakes it.
    Sleeping,
    /// Container stopped because its owner wants so; no request wakes it.
    Stopped,
    /// It will not run without a person; `state_reason` says why.
    Error,
    /// Going for good. Nothing leads back from here.
    Deleting,
}

/// What can happen to a tenant: asked by its owner, or seen on the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The owner asked for it to run (start, restart, or a change that may cure an error).
    RunRequested,
    /// The owner asked for it to go.
    DeleteRequested,
    /// Seen: its container runs, its services not yet.
    Started,
    /// Seen: its own health answers.
    Ready,
    /// Seen: paused.
    Froze,
    /// Seen: stopped for want of use.
    Slept,
    /// Seen: stopped as its owner wanted.
    Stopped,
    /// Seen: gave up (crash loop, broken image, refused by the engine).
    Failed,
    /// Seen: no container of it exists.
    Gone,
    /// A transient state outlived [`State::deadline`].
    Overdue,
}

/// A move that makes no sense.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct InvalidTransition {
    pub state: State,
    pub event: Event,
}

impl State {
    pub const ALL: [Self; 8] = [
        Self::Provisioning,
        Self::Starting,
        Self::Running,
        Self::Frozen,
        Self::Sleeping,
        Self::Stopped,
        Self::Error,
        Self::Deleting,
    ];

    /// Where `event` leads. A state that merely stays is `Ok(self)`; what makes no sense is refused.
    pub fn next(self, event: Event) -> Result<Self, InvalidTransition> {
        use {Event as E, State as S};
        match (self, event) {
            (S::Deleting, E::DeleteRequested | E::Overdue) => Ok(S::Deleting),
            (S::Deleting, _) => Err(InvalidTransition { state: self, event }),
            (_, E::DeleteRequested) => Ok(S::Deleting),

            (S::Provisioning | S::Stopped | S::Error, E::RunRequested) => Ok(S::Provisioning),
            (S::Starting | S::Running | S::Frozen | S::Sleeping, E::RunRequested) => Ok(self),

            // Only readiness or its owner ends an error: each crash of a crash loop is a start, too.
            (S::Error, E::Started | E::Gone) => Ok(S::Error),
            (_, E::Started) => Ok(S::Starting),
            (_, E::Ready) => Ok(S::Running),

            // What is seen is a level, not an edge: the readiness in between may have been missed. Only what
            // its owner stopped cannot have fallen asleep.
            (S::Stopped, E::Froze | E::Slept) => Err(InvalidTransition { state: self, event }),
            (_, E::Froze) => Ok(S::Frozen),
            (_, E::Slept) => Ok(S::Sleeping),
            (_, E::Stopped) => Ok(S::Stopped),
            (_, E::Failed) => Ok(S::Error),

            (S::Stopped, E::Gone) => Ok(S::Stopped),
            (_, E::Gone) => Ok(S::Provisioning),

            (S::Provisioning | S::Starting, E::Overdue) => Ok(S::Error),
            (S::Running | S::Frozen | S::Sleeping | S::Stopped | S::Error, E::Overdue) => {
                Err(InvalidTransition { state: self, event })
            }
        }
    }

    /// How long a transient state may last before it is [`Event::Overdue`]; `None` for a state that may stay.
    pub const fn deadline(self) -> Option<Duration> {
        match self {
            Self::Provisioning | Self::Deleting => Some(Duration::from_secs(300)),
            Self::Starting => Some(Duration::from_secs(120)),
            Self::Running | Self::Frozen | Self::Sleeping | Self::Stopped | Self::Error => None,
        }
    }

    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Provisioning => "provisioning",
            Self::Starting => "starting",
            Self::Running => "running",
            Self::Frozen => "frozen",
            Self::Sleeping => "sleeping",
            Self::Stopped => "stopped",
            Self::Error => "error",
            Self::Deleting => "deleting",
        }
    }
}

impl fmt::Display for State {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no state.
#[derive(Debug, PartialEq, Eq)]
pub struct UnknownState;

impl fmt::Display for UnknownState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("is not a tenant state")
    }
}

impl std::error::Error for UnknownState {}

impl FromStr for State {
    type Err = UnknownState;

    fn from_str(text: &str) -> Result<Self, UnknownState> {
        Self::ALL.into_iter().find(|s| s.as_str() == text).ok_or(UnknownState)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVENTS: [Event; 10] = [
        Event::RunRequested,
        Event::DeleteRequested,
        Event::Started,
        Event::Ready,
        Event::Froze,
        Event::Slept,
        Event::Stopped,
        Event::Failed,
        Event::Gone,
        Event::Overdue,
    ];

    #[test]
    fn the_whole_matrix() {
        let mut matrix = String::new();
        for state in State::ALL {
            matrix.push_str(&format!("{state}\n"));
            for event in EVENTS {
                let to = state.next(event).map_or("refused".to_owned(), |s| s.to_string());
                matrix.push_str(&format!("    {:<12} {to}\n", format!("{event:?}")));
            }
        }
        insta::assert_snapshot!(matrix);
    }

    #[test]
    fn nothing_leads_back_from_deleting() {
        for event in EVENTS {
            assert!(matches!(State::Deleting.next(event), Ok(State::Deleting) | Err(_)));
        }
    }

    #[test]
    fn words_read_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("awake".parse::<State>(), Err(UnknownState));
    }
}
