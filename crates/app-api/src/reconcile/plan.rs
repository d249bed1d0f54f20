//! Derives a tenant's status from an observation and plans the next step. Pure: all decisions of the reconciler are here.

use protocol::orchestrator::{ObservedTenant, Phase};
use protocol::spec::Desired;
use protocol::state::Event;
use protocol::{State, Timestamp};

use crate::tenant::crashes::Crashes;
use crate::tenant::status::{DesiredState, Fulfilled, TenantStatus};

/// The last information about one tenant's container.
#[derive(Clone, Debug, PartialEq)]
pub enum Observation {
    /// The orchestrator cannot be reached. Unknown does not mean absent.
    Unknown,
    /// The orchestrator is connected and has no container for the tenant.
    Absent,
    Present(Box<ObservedTenant>),
}

impl Observation {
    /// The phase of the container, unless the observation is unknown or absent.
    fn phase(&self) -> Option<Phase> {
        self.observed().map(|observed| observed.phase)
    }

    /// The container was made from an earlier generation of the spec.
    fn is_older_than(&self, desired: DesiredState) -> bool {
        self.observed().is_some_and(|observed| observed.generation < desired.generation)
    }

    fn lacks_spec(&self) -> bool {
        self.observed().is_some_and(|observed| observed.lacks_spec)
    }

    fn observed(&self) -> Option<&ObservedTenant> {
        match self {
            Self::Unknown | Self::Absent => None,
            Self::Present(observed) => Some(observed),
        }
    }
}

/// One call to the orchestrator, or one change of the tenant's database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Noop,
    Run,
    /// Sends limits and policy that apply in place. Does not wake a sleeping tenant.
    Update,
    Wake,
    Restart,
    Stop,
    Remove,
    /// Creates the database and, beside it, the first container, which is not started.
    Create,
    CreateDatabase,
    DropDatabase,
}

impl Step {
    /// The pending requests that a successful step fulfils. A start fulfils all of them; an update does not wake.
    pub fn fulfills(self) -> Fulfilled {
        match self {
            Self::Restart => Fulfilled { restart: true, change: true, wake: true },
            Self::Run => Fulfilled { restart: false, change: true, wake: true },
            Self::Update => Fulfilled { restart: false, change: true, wake: false },
            Self::Wake => Fulfilled { restart: false, change: false, wake: true },
            Self::Noop
            | Self::Stop
            | Self::Remove
            | Self::Create
            | Self::CreateDatabase
            | Self::DropDatabase => Fulfilled::default(),
        }
    }
}

const ORCHESTRATOR_UNREACHABLE: &str =
    "The orchestrator cannot be reached. Nothing is lost; work continues when it is back.";

/// Returns the next step for one tenant.
pub fn plan(desired: DesiredState, status: &TenantStatus, observation: &Observation) -> Step {
    let step = plan_container(desired, status, observation);
    if desired.has_database || desired.desired == Desired::Deleted {
        return step;
    }
    // A program may connect at once, so the database comes before the first start. A tenant that was started without a
    // database works: a server that refuses must not keep the owner from stopping or moving the tenant.
    match (step, observation.phase()) {
        (Step::Run, None) => Step::Create,
        (Step::Noop, _) | (Step::Run, Some(Phase::Created)) => Step::CreateDatabase,
        _ => step,
    }
}

/// The next step for the container; for a deleted tenant, for its database, too.
fn plan_container(desired: DesiredState, status: &TenantStatus, observation: &Observation) -> Step {
    if *observation == Observation::Unknown {
        return Step::Noop;
    }
    let is_old = observation.is_older_than(desired);
    let phase = observation.phase();
    match (desired.desired, phase) {
        // The program that uses the database ends first. Volumes and network go last, with the container.
        (
            Desired::Deleted,
            Some(Phase::Starting | Phase::Ready | Phase::Frozen | Phase::Sleeping | Phase::Exited),
        ) if desired.has_database => Step::Stop,
        (Desired::Deleted, _) if desired.has_database => Step::DropDatabase,
        (Desired::Deleted, _) => Step::Remove,

        (Desired::Stopped, None | Some(Phase::Created | Phase::Stopped)) => Step::Noop,
        (
            Desired::Stopped,
            Some(Phase::Starting | Phase::Ready | Phase::Frozen | Phase::Sleeping | Phase::Exited),
        ) => Step::Stop,

        (Desired::Running, _) if desired.restart => Step::Restart,
        // A container that was started from outside would continue to crash: stop the container.
        (Desired::Running, Some(Phase::Starting | Phase::Exited)) if status.gave_up => Step::Stop,
        (Desired::Running, _) if status.gave_up => Step::Noop,
        (Desired::Running, None | Some(Phase::Created | Phase::Stopped | Phase::Exited)) => {
            Step::Run
        }
        (Desired::Running, Some(Phase::Starting | Phase::Ready | Phase::Frozen)) if is_old => {
            Step::Run
        }
        // A sleeping container is recreated at its next wake; the orchestrator only needs the new spec.
        (Desired::Running, Some(Phase::Sleeping)) if is_old => Step::Update,
        // The orchestrator alone freezes and sleeps tenants, by their use. The reconciler must not undo that.
        (
            Desired::Running,
            Some(Phase::Starting | Phase::Ready | Phase::Frozen | Phase::Sleeping),
        ) => match desired {
            DesiredState { change: true, .. } => Step::Update,
            // Without its spec, the orchestrator cannot start the tenant again.
            DesiredState { .. } if observation.lacks_spec() => Step::Update,
            // A starting tenant is awake soon, which fulfils the wake request.
            DesiredState { wake: true, .. } if phase != Some(Phase::Starting) => Step::Wake,
            DesiredState { .. } => Step::Noop,
        },
    }
}

/// Returns the status that the row should show after an observation.
#[must_use]
pub fn derive_status(
    desired: DesiredState,
    status: &TenantStatus,
    observation: &Observation,
    now: Timestamp,
) -> TenantStatus {
    let mut next = status.clone();
    match observation {
        Observation::Unknown => {
            let is_waiting = status.state.is_transient() && status.reason.is_none();
            if is_waiting {
                next.reason = Some(ORCHESTRATOR_UNREACHABLE.into());
            }
            return next;
        }
        Observation::Absent => {
            (next.container_id, next.container_port, next.upstream) = (None, None, None);
        }
        Observation::Present(observed) => {
            next.container_id = Some(observed.container_id.clone());
            next.container_port = observed.container_port;
            next.upstream.clone_from(&observed.upstream);
            next.crashes = status.crashes.observe(observed);
        }
    }
    let is_up = matches!(observation.phase(), Some(Phase::Ready | Phase::Frozen | Phase::Sleeping));
    let is_crash_loop = next.crashes.is_crash_loop()
        && !is_up
        && desired.desired == Desired::Running
        && !status.gave_up;
    if is_crash_loop {
        next.apply_event(Event::Failed, now);
        (next.gave_up, next.reason) = (true, Some(crash_reason(&next.crashes, observation)));
        return next;
    }
    if let Some(event) = observed_event(desired, observation) {
        next.apply_event(event, now);
    }
    adopt_reason(&mut next, observation);
    next.gave_up &= next.state == State::Error;
    if next.is_overdue(now) {
        let last_reason = next.reason.take();
        next.reason = Some(overdue_reason(next.state, last_reason, observation));
        next.apply_event(Event::Overdue, now);
    }
    next
}

/// The observation as an event of the state machine. Each event is a level: applied twice, it changes nothing more.
fn observed_event(desired: DesiredState, observation: &Observation) -> Option<Event> {
    if *observation == Observation::Unknown {
        return None;
    }
    match (desired.desired, observation.phase()) {
        // The row of a deleted tenant goes once everything else is gone; no observation matters until then.
        (Desired::Deleted, _) => None,
        (_, Some(Phase::Starting)) => Some(Event::Started),
        // The container still runs from before the requested restart.
        (Desired::Running, Some(Phase::Ready | Phase::Frozen | Phase::Sleeping))
            if desired.restart =>
        {
            Some(Event::Started)
        }
        // The container of an earlier release is about to be replaced.
        (Desired::Running, Some(Phase::Ready | Phase::Frozen))
            if observation.is_older_than(desired) =>
        {
            Some(Event::Started)
        }
        (_, Some(Phase::Ready)) => Some(Event::Ready),
        (_, Some(Phase::Frozen)) => Some(Event::Froze),
        // The stop is still under way.
        (Desired::Stopped, Some(Phase::Sleeping)) => None,
        (Desired::Running, Some(Phase::Sleeping)) => Some(Event::Slept),
        (Desired::Stopped, None | Some(Phase::Created | Phase::Stopped | Phase::Exited)) => {
            Some(Event::Stopped)
        }
        (Desired::Running, None | Some(Phase::Created | Phase::Stopped | Phase::Exited)) => {
            Some(Event::Gone)
        }
    }
}

/// Takes the reason over from the engine. The reason of a failure stays until a container runs.
fn adopt_reason(status: &mut TenantStatus, observation: &Observation) {
    if status.reason.as_deref() == Some(ORCHESTRATOR_UNREACHABLE) {
        status.reason = None;
    }
    let Some(observed) = observation.observed() else { return };
    let replaces_reason = match observed.phase {
        Phase::Starting | Phase::Ready | Phase::Frozen | Phase::Sleeping => true,
        Phase::Created | Phase::Stopped | Phase::Exited => observed.reason.is_some(),
    };
    if replaces_reason && !matches!(status.state, State::Error | State::Deleting) {
        status.reason.clone_from(&observed.reason);
    }
}

fn crash_reason(crashes: &Crashes, observation: &Observation) -> String {
    let last_exit = observation.observed().and_then(|observed| observed.last_exit.as_ref());
    let last = match last_exit {
        Some(exit) if exit.out_of_memory => ", the last time for want of memory".to_owned(),
        Some(exit) => format!(", the last time with exit code {}", exit.code),
        None => String::new(),
    };
    let count = if crashes.is_never_ready() {
        "five times in a row without getting ready"
    } else {
        "ten times within five minutes"
    };
    let what = format!("It ended {count}{last}. Look at its log, then start it again.");
    if crashes.is_never_ready() { with_last_lines(what, observation) } else { what }
}

/// Adds the end of the log of the last container that ended without getting ready, where it is known.
fn with_last_lines(what: String, observation: &Observation) -> String {
    match observation.observed().and_then(|observed| observed.last_lines.as_deref()) {
        Some(lines) => format!("{what}\nThe last lines of its log:\n{lines}"),
        None => what,
    }
}

fn overdue_reason(state: State, last_reason: Option<String>, observation: &Observation) -> String {
    let seconds = state.deadline().unwrap_or_default().as_secs();
    let goal = if state == State::Starting { "get ready" } else { "start" };
    let last =
        last_reason.map_or_else(|| "Look at its log.".to_owned(), |last| format!("Last: {last}"));
    let what = format!("It did not {goal} within {seconds} s; it is still being tried. {last}");
    with_last_lines(what, observation)
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(crate) mod tests;
