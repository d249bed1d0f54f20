//! The state of a tenant as its owner sees it, and [`State::next`], the one function that changes the stored state.
//!
//! App-api alone stores a state, after an event from an owner or from an observation. One exception changes only what is
//! shown: `state_at_phase` in app-api moves the state of a tenant that is up to a phase that was read after the row.
//!
//! Other enums of a tenant are other concepts:
//!
//! | enum | concept | written by |
//! |---|---|---|
//! | [`Desired`](crate::spec::Desired) | the owner's wish | app-api, for an owner |
//! | [`Phase`](crate::orchestrator::Phase) | what the engine shows of the tenant | derived by the orchestrator |
//! | [`IdleState`](crate::sleep::IdleState) | the depth of a sleep: two of the phases | derived by the orchestrator |
//! | `RunState` (orchestrator) | the run state of a container, as the engine reports it | the engine |
//! | `ContainerState` (orchestrator) | how to read the run state: expected or not, responding or not | the orchestrator, in memory |
//! | `TargetState` (orchestrator) | the state that was last requested for the tenant | the orchestrator, in its state file |
//! | `RouteStatus` (lease) | whether the route table lists the tenant, and as running | derived by the router |

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The state that app-api stores and shows.
///
/// The documentation of the module distinguishes the state from the other enums of a tenant.
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// Desired; no container of the tenant is known to run yet.
    Provisioning,
    /// The container runs; not all of its services are ready.
    Starting,
    /// The tenant's health endpoint responds.
    Running,
    /// Paused by the engine: memory kept, no CPU.
    Frozen,
    /// The container is stopped because nobody uses the tenant. The volumes stay, and a request wakes the tenant.
    Sleeping,
    /// The container is stopped because its owner wants so. No request wakes the tenant.
    Stopped,
    /// The tenant does not run until a person acts; `state_reason` gives the reason.
    Error,
    /// The tenant is being deleted. No event leads out of this state.
    Deleting,
}

/// An event of a tenant: a request of its owner, or an observation of the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Event {
    /// The owner requests that the tenant runs (start, restart, or a change that may end an error).
    RunRequested,
    /// The owner requests the deletion.
    DeleteRequested,
    /// Observed: the container runs, its services are not ready.
    Started,
    /// Observed: the health endpoint responds.
    Ready,
    /// Observed: the container is paused.
    Froze,
    /// Observed: stopped because nobody uses the tenant.
    Slept,
    /// Observed: stopped as its owner wanted.
    Stopped,
    /// Observed: given up (crash loop, broken image, refused by the engine).
    Failed,
    /// Observed: the tenant has no container.
    Gone,
    /// The state outlived [`State::deadline`].
    Overdue,
}

/// An event that is impossible in the state.
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

    /// The state after `event`; `Ok(self)` when the event changes nothing.
    ///
    /// # Errors
    /// When the event is impossible in this state.
    pub fn next(self, event: Event) -> Result<Self, InvalidTransition> {
        use {Event as E, State as S};
        match (self, event) {
            (S::Deleting, E::DeleteRequested | E::Overdue) => Ok(S::Deleting),
            (S::Deleting, _) => Err(InvalidTransition { state: self, event }),
            (_, E::DeleteRequested) => Ok(S::Deleting),

            (S::Provisioning | S::Stopped | S::Error, E::RunRequested) => Ok(S::Provisioning),
            (S::Starting | S::Running | S::Frozen | S::Sleeping, E::RunRequested) => Ok(self),

            // Only readiness or the owner ends an error: each crash of a crash loop is a start as well.
            (S::Error, E::Started | E::Gone) => Ok(S::Error),
            (_, E::Started) => Ok(S::Starting),
            (_, E::Ready) => Ok(S::Running),

            // An observation is a level, not an edge: the readiness in between may have been missed. Only a tenant
            // that its owner stopped cannot freeze or fall asleep.
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

    /// How long a state may last before it is [`Event::Overdue`]; `None`: without a bound.
    pub const fn deadline(self) -> Option<Duration> {
        match self {
            Self::Provisioning => Some(Duration::from_secs(300)),
            Self::Starting => Some(Duration::from_secs(120)),
            // A deletion is repeated until it succeeds.
            Self::Deleting
            | Self::Running
            | Self::Frozen
            | Self::Sleeping
            | Self::Stopped
            | Self::Error => None,
        }
    }

    /// Whether another state follows without a request of the owner.
    pub const fn is_transient(self) -> bool {
        match self {
            Self::Provisioning | Self::Starting | Self::Deleting => true,
            Self::Running | Self::Frozen | Self::Sleeping | Self::Stopped | Self::Error => false,
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

/// A text that names no state.
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
    fn only_a_transient_state_has_a_deadline() {
        let transient: Vec<_> =
            State::ALL.into_iter().filter(|state| state.is_transient()).collect();
        assert_eq!(transient, [State::Provisioning, State::Starting, State::Deleting]);
        let bounded: Vec<_> =
            State::ALL.into_iter().filter(|state| state.deadline().is_some()).collect();
        assert_eq!(bounded, [State::Provisioning, State::Starting]);
    }

    #[test]
    fn nothing_leads_back_from_deleting() {
        for event in EVENTS {
            assert!(matches!(State::Deleting.next(event), Ok(State::Deleting) | Err(_)));
        }
    }

    #[test]
    fn the_word_of_a_state_reads_back() {
        for state in State::ALL {
            assert_eq!(state.as_str().parse(), Ok(state));
        }
        assert_eq!("awake".parse::<State>(), Err(UnknownState));
    }
}
