//! A tenant's container, and the operation that holds the tenant's lock.

use crate::authority::command::{CallId, EngineCall};
use crate::holder::command::RouteStatus;
use protocol::orchestrator::Phase;

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Container {
    pub(super) run: Run,
    /// The orchestrator suspended the tenant for lack of use, or is about to.
    pub(super) is_suspended_by_orchestrator: bool,
    /// The operation that holds the tenant's lock.
    pub(super) operation: Option<Operation>,
    /// The owner's operation, while it waits for the lock.
    pub(super) queued: Option<Operation>,
    /// The tenant's last busy report.
    pub(super) is_busy: bool,
    /// The state that the orchestrator persists, which survives a crash.
    pub(super) intent: Intent,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Run {
    Stopped,
    Booting,
    Ready,
    Paused,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Intent {
    Running,
    Sleeping,
    Stopped,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Operation {
    Ours { call: EngineCall, call_id: CallId, part: Part },
    OwnerStops,
    OwnerStarts,
}

/// The part of a call that is in progress: all kinds but [`EngineCall::ThawThenStop`] have one
/// part.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) enum Part {
    First,
    /// Thawed, with a busy query in flight: no engine call is running.
    Queried,
    Last,
}

impl Operation {
    /// Whether the engine is being called.
    pub(super) const fn is_call(self) -> bool {
        !matches!(self, Self::Ours { part: Part::Queried, .. })
    }
}

impl Container {
    pub(super) const READY: Self = Self {
        run: Run::Ready,
        is_suspended_by_orchestrator: false,
        operation: None,
        queued: None,
        is_busy: false,
        intent: Intent::Running,
    };
    pub(super) const SLEEPING: Self =
        Self { run: Run::Stopped, intent: Intent::Sleeping, ..Self::READY };

    pub(super) fn phase(&self) -> Phase {
        match (self.run, self.intent) {
            (Run::Ready, _) => Phase::Ready,
            (Run::Booting, _) => Phase::Starting,
            (Run::Paused, _) => Phase::Frozen,
            (Run::Stopped, Intent::Sleeping) => Phase::Sleeping,
            (Run::Stopped, Intent::Stopped) => Phase::Stopped,
            (Run::Stopped, Intent::Running) => Phase::Exited,
        }
    }

    /// Returns what an up-to-date route table shows.
    pub(super) fn route(&self) -> RouteStatus {
        match (self.run, self.intent) {
            (Run::Ready, Intent::Running | Intent::Sleeping) => RouteStatus::Running,
            _ => RouteStatus::NotRunning,
        }
    }

    pub(super) fn is_waking(&self) -> bool {
        let wakes = |call| matches!(call, EngineCall::Thaw | EngineCall::Start);
        matches!(self.operation, Some(Operation::Ours { call, .. }) if wakes(call))
    }

    /// Applies a call to the container. Returns `false` when the container is not in the state that
    /// the caller expected.
    pub(super) fn apply(&mut self, operation: Operation) -> bool {
        let (run, works) = match (operation, self.run) {
            (Operation::OwnerStops, _) => {
                self.is_suspended_by_orchestrator = false;
                (Run::Stopped, true)
            }
            (Operation::OwnerStarts, Run::Stopped) => (Run::Booting, true),
            (Operation::OwnerStarts, Run::Paused) => (Run::Ready, true),
            (Operation::OwnerStarts, run) => (run, true),
            (Operation::Ours { call, part, .. }, run) => match (call, part, run) {
                (EngineCall::Freeze, _, Run::Ready | Run::Booting) => (Run::Paused, true),
                (EngineCall::Thaw, _, Run::Paused)
                | (EngineCall::ThawThenStop, Part::First, Run::Paused) => (Run::Ready, true),
                (EngineCall::ThawThenStop, Part::Last, _) | (EngineCall::Stop, ..) => {
                    (Run::Stopped, true)
                }
                (EngineCall::Start, _, Run::Stopped) => (Run::Booting, true),
                (
                    EngineCall::Freeze
                    | EngineCall::Thaw
                    | EngineCall::Start
                    | EngineCall::ThawThenStop,
                    ..,
                ) => (run, false),
            },
        };
        self.run = run;
        works
    }
}
