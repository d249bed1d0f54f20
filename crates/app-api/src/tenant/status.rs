//! The desired state of a tenant, its observed status, and how requests and failures change that status. Pure.

use protocol::orchestrator::{Phase, Upstream};
use protocol::spec::Desired;
use protocol::state::Event;
use protocol::{State, Timestamp};

use super::crashes::Crashes;

/// The owner's wishes that the engine has to fulfil, and whether the database is ready for them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DesiredState {
    pub desired: Desired,
    pub generation: i64,
    /// A requested restart is still pending.
    pub restart: bool,
    /// Changed limits or policy have not reached the orchestrator yet.
    pub change: bool,
    /// The owner started a sleeping tenant, and the orchestrator has not received the request yet.
    pub wake: bool,
    /// The tenant's schema and role exist.
    pub has_database: bool,
}

/// Pending requests that one step fulfils.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Fulfilled {
    pub restart: bool,
    pub change: bool,
    pub wake: bool,
}

/// The state of a tenant whose phase was read after its row, which follows the phase a moment later. Only between the
/// states of a tenant that is up: any other transition comes with a reason or a crash count, which the row gets with it.
#[must_use]
pub fn state_at_phase(state: State, phase: Phase) -> State {
    match (state, phase) {
        (State::Running | State::Frozen | State::Sleeping, Phase::Ready) => State::Running,
        (State::Running | State::Frozen | State::Sleeping, Phase::Frozen) => State::Frozen,
        (State::Running | State::Frozen | State::Sleeping, Phase::Sleeping) => State::Sleeping,
        (State::Sleeping, Phase::Starting) => State::Starting,
        _ => state,
    }
}

/// The status columns of a tenant: what owners and the router read.
#[derive(Clone, Debug, PartialEq)]
pub struct TenantStatus {
    pub state: State,
    pub since: Timestamp,
    pub reason: Option<String>,
    pub container_id: Option<String>,
    pub container_port: Option<u16>,
    pub upstream: Option<Upstream>,
    pub crashes: Crashes,
    /// No start is attempted until the owner requests one.
    pub gave_up: bool,
}

/// A request of an owner for one tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OwnerAction {
    Start,
    Restart,
    Stop,
    Delete,
}

impl DesiredState {
    #[must_use]
    pub fn without(self, fulfilled: Fulfilled) -> Self {
        Self {
            restart: self.restart && !fulfilled.restart,
            change: self.change && !fulfilled.change,
            wake: self.wake && !fulfilled.wake,
            ..self
        }
    }
}

impl TenantStatus {
    /// The status of a tenant that was created at `now`.
    pub fn provisioning(now: Timestamp) -> Self {
        Self {
            state: State::Provisioning,
            since: now,
            reason: None,
            container_id: None,
            container_port: None,
            upstream: None,
            crashes: Crashes::default(),
            gave_up: false,
        }
    }

    /// The status after a request of the owner, which also resets the crash count.
    #[must_use]
    pub fn after_action(&self, action: OwnerAction, now: Timestamp) -> Self {
        let mut next = self.clone();
        match action {
            OwnerAction::Start | OwnerAction::Restart => {
                next.apply_event(Event::RunRequested, now);
                if action == OwnerAction::Restart
                    && matches!(next.state, State::Running | State::Frozen | State::Sleeping)
                {
                    next.apply_event(Event::Started, now);
                }
                (next.gave_up, next.crashes) = (false, self.crashes.reset());
            }
            // The state changes when the engine shows the stopped container.
            OwnerAction::Stop => (next.gave_up, next.crashes) = (false, self.crashes.reset()),
            OwnerAction::Delete => next.apply_event(Event::DeleteRequested, now),
        }
        next
    }

    /// Whether an action must replace a container that still runs. One that was given up goes on crashing until the
    /// reconciler has stopped it: a start that comes before the stop would leave it to the engine's back-off.
    pub fn needs_restart(&self, action: OwnerAction) -> bool {
        match action {
            OwnerAction::Restart => true,
            OwnerAction::Start => self.gave_up,
            OwnerAction::Stop | OwnerAction::Delete => false,
        }
    }

    /// The status after a failed step. `is_fatal`: repeating the same step cannot succeed.
    #[must_use]
    pub fn after_failed_step(&self, reason: String, is_fatal: bool, now: Timestamp) -> Self {
        let mut next = self.clone();
        if is_fatal && self.state != State::Deleting {
            next.apply_event(Event::Failed, now);
        }
        next.reason = Some(reason);
        next
    }

    /// Applies `event` to the state machine; an event that the current state refuses changes nothing.
    pub fn apply_event(&mut self, event: Event, now: Timestamp) {
        if let Ok(state) = self.state.next(event)
            && state != self.state
        {
            (self.state, self.since) = (state, now);
            if event != Event::Overdue {
                self.reason = None;
            }
        }
    }

    /// Whether the state has outlived its deadline.
    pub fn is_overdue(&self, now: Timestamp) -> bool {
        let waited = (now - self.since).to_std().unwrap_or_default();
        self.state.deadline().is_some_and(|deadline| waited > deadline)
    }
}
