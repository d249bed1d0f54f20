//! What a tenant's row should say, and what should be done next. Pure: the whole behaviour is here.

use protocol::orchestrator::{ObservedTenant, Phase, Upstream};
use protocol::spec::Desired;
use protocol::state::Event;
use protocol::{State, Timestamp};

use super::crashes::Crashes;

/// What the owner wants of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    pub desired: Desired,
    pub generation: i64,
    /// A restart was asked for and not done yet.
    pub restart: bool,
    /// Limits or policy were changed and not handed over yet.
    pub change: bool,
    /// Its owner started it while it was asleep, and nobody was told yet.
    pub wake: bool,
}

/// What the engine shows of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Seen<'a> {
    /// The orchestrator is not heard. Unknown is not gone.
    Unknown,
    Nothing,
    This(&'a ObservedTenant),
}

/// What we say about it.
#[derive(Clone, Debug, PartialEq)]
pub struct Life {
    pub state: State,
    pub since: Timestamp,
    pub reason: Option<String>,
    pub container_id: Option<String>,
    pub container_port: Option<u16>,
    pub upstream: Option<Upstream>,
    pub crashes: Crashes,
    /// No more starts until its owner asks.
    pub gave_up: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    Rest,
    Run,
    /// Hand over what applies in place. Wakes nobody.
    Update,
    Wake,
    Restart,
    Stop,
    Remove,
}

/// What was asked for and is done by a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Met {
    pub restart: bool,
    pub change: bool,
    pub wake: bool,
}

impl Step {
    /// A start hands over everything; an update leaves a sleeper asleep.
    pub fn meets(self) -> Met {
        match self {
            Self::Restart => Met { restart: true, change: true, wake: true },
            Self::Run => Met { restart: false, change: true, wake: true },
            Self::Update => Met { restart: false, change: true, wake: false },
            Self::Wake => Met { restart: false, change: false, wake: true },
            Self::Rest | Self::Stop | Self::Remove => {
                Met { restart: false, change: false, wake: false }
            }
        }
    }
}

impl Want {
    #[must_use]
    pub fn without(self, met: Met) -> Self {
        Self {
            restart: self.restart && !met.restart,
            change: self.change && !met.change,
            wake: self.wake && !met.wake,
            ..self
        }
    }
}

/// What an owner may ask of a tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ask {
    Start,
    Restart,
    Stop,
    Delete,
}

const UNHEARD: &str = "The orchestrator cannot be reached. Nothing is lost; it goes on by itself.";

/// The next thing to do for one tenant.
pub fn plan(want: Want, life: &Life, seen: Seen<'_>) -> Step {
    let seen = match seen {
        Seen::Unknown => return Step::Rest,
        Seen::Nothing => None,
        Seen::This(seen) => Some(seen),
    };
    let is_old = seen.is_some_and(|s| s.generation < want.generation);
    match (want.desired, seen.map(|s| s.phase)) {
        (Desired::Deleted, _) => Step::Remove,

        (Desired::Stopped, None | Some(Phase::Created | Phase::Stopped)) => Step::Rest,
        (
            Desired::Stopped,
            Some(Phase::Starting | Phase::Ready | Phase::Frozen | Phase::Sleeping | Phase::Exited),
        ) => Step::Stop,

        (Desired::Running, _) if want.restart => Step::Restart,
        // Until it rests: a start by anyone else's hand would go on crashing.
        (Desired::Running, Some(Phase::Starting | Phase::Exited)) if life.gave_up => Step::Stop,
        (Desired::Running, _) if life.gave_up => Step::Rest,
        (Desired::Running, None | Some(Phase::Created | Phase::Stopped | Phase::Exited)) => {
            Step::Run
        }
        (Desired::Running, Some(Phase::Starting | Phase::Ready | Phase::Frozen)) if is_old => {
            Step::Run
        }
        // A sleeper is made anew when it wakes; until then it has only to be known.
        (Desired::Running, Some(Phase::Sleeping)) if is_old => Step::Update,
        // Freezing and sleeping are the orchestrator's, by who uses the tenant: a request wakes it, whoever froze it.
        (
            Desired::Running,
            Some(Phase::Starting | Phase::Ready | Phase::Frozen | Phase::Sleeping),
        ) => match want {
            Want { change: true, .. } => Step::Update,
            // One that starts is awake soon; then the wish is met.
            Want { wake: true, .. } if seen.is_some_and(|s| s.phase != Phase::Starting) => {
                Step::Wake
            }
            Want { .. } => Step::Rest,
        },
    }
}

/// What the row should say after a look at the engine.
#[must_use]
pub fn settle(want: Want, life: &Life, seen: Seen<'_>, now: Timestamp) -> Life {
    let mut next = life.clone();
    match seen {
        Seen::Unknown => {
            let waits = life.state.deadline().is_some() && life.reason.is_none();
            return Life { reason: if waits { Some(UNHEARD.into()) } else { next.reason }, ..next };
        }
        Seen::Nothing => {
            (next.container_id, next.container_port, next.upstream) = (None, None, None);
        }
        Seen::This(seen) => {
            next.container_id = Some(seen.container_id.clone());
            next.container_port = seen.container_port;
            next.upstream.clone_from(&seen.upstream);
            next.crashes = life.crashes.after(seen);
        }
    }
    let is_up = matches!(seen, Seen::This(s) if matches!(s.phase, Phase::Ready | Phase::Frozen | Phase::Sleeping));
    let crashed =
        next.crashes.are_enough() && !is_up && want.desired == Desired::Running && !life.gave_up;
    if crashed {
        next.move_on(Event::Failed, now);
        (next.gave_up, next.reason) = (true, Some(crash_report(&next.crashes, seen)));
        return next;
    }
    if let Some(event) = event(want, seen) {
        next.move_on(event, now);
    }
    next.hear(seen);
    next.gave_up &= next.state == State::Error;
    if next.is_overdue(now) {
        let told = next.reason.take();
        next.reason = Some(overdue_report(next.state, told));
        next.move_on(Event::Overdue, now);
    }
    next
}

/// What is seen, as an event of its life. Each is a level: seen again, it changes nothing.
fn event(want: Want, seen: Seen<'_>) -> Option<Event> {
    let phase = match seen {
        Seen::Unknown => return None,
        Seen::Nothing => None,
        Seen::This(seen) => Some(seen.phase),
    };
    match (want.desired, phase) {
        // Its row goes when everything else is gone; until then nothing seen matters.
        (Desired::Deleted, _) => None,
        (_, Some(Phase::Starting)) => Some(Event::Started),
        // What runs still is not what was asked for.
        (Desired::Running, Some(Phase::Ready | Phase::Frozen | Phase::Sleeping))
            if want.restart =>
        {
            Some(Event::Started)
        }
        (_, Some(Phase::Ready)) => Some(Event::Ready),
        (_, Some(Phase::Frozen)) => Some(Event::Froze),
        // On its way to being stopped.
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

impl Life {
    /// The life of a tenant that was asked for just now.
    pub fn begun(now: Timestamp) -> Self {
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

    /// The life after its owner asked for something; whatever stood in the way is forgiven.
    #[must_use]
    pub fn asked(&self, ask: Ask, now: Timestamp) -> Self {
        let mut next = self.clone();
        match ask {
            Ask::Start | Ask::Restart => {
                next.move_on(Event::RunRequested, now);
                if ask == Ask::Restart
                    && matches!(next.state, State::Running | State::Frozen | State::Sleeping)
                {
                    next.move_on(Event::Started, now);
                }
                (next.gave_up, next.crashes) = (false, self.crashes.forgiven());
            }
            // Told by what the engine shows, when it does.
            Ask::Stop => (next.gave_up, next.crashes) = (false, self.crashes.forgiven()),
            Ask::Delete => next.move_on(Event::DeleteRequested, now),
        }
        next
    }

    /// The life after a step came to nothing. `fatal`: it will not help to do it again as it is.
    #[must_use]
    pub fn set_back(&self, reason: String, fatal: bool, now: Timestamp) -> Self {
        let mut next = self.clone();
        if fatal && self.state != State::Deleting {
            next.move_on(Event::Failed, now);
        }
        next.reason = Some(reason);
        next
    }

    /// Takes over what the engine says of itself. What stood in the way stays told until something runs.
    fn hear(&mut self, seen: Seen<'_>) {
        if self.reason.as_deref() == Some(UNHEARD) {
            self.reason = None;
        }
        let Seen::This(seen) = seen else { return };
        let told = match seen.phase {
            Phase::Starting | Phase::Ready | Phase::Frozen | Phase::Sleeping => true,
            Phase::Created | Phase::Stopped | Phase::Exited => seen.reason.is_some(),
        };
        if told && !matches!(self.state, State::Error | State::Deleting) {
            self.reason.clone_from(&seen.reason);
        }
    }

    /// Moves where `event` leads; an event that makes no sense here moves nothing.
    fn move_on(&mut self, event: Event, now: Timestamp) {
        if let Ok(state) = self.state.next(event)
            && state != self.state
        {
            (self.state, self.since) = (state, now);
            if event != Event::Overdue {
                self.reason = None;
            }
        }
    }

    fn is_overdue(&self, now: Timestamp) -> bool {
        let waited = (now - self.since).to_std().unwrap_or_default();
        self.state != State::Deleting && self.state.deadline().is_some_and(|most| waited > most)
    }
}

fn crash_report(crashes: &Crashes, seen: Seen<'_>) -> String {
    let last = match seen {
        Seen::This(ObservedTenant { last_exit: Some(exit), .. }) if exit.out_of_memory => {
            ", the last time for want of memory".to_owned()
        }
        Seen::This(ObservedTenant { last_exit: Some(exit), .. }) => {
            format!(", the last time with exit code {}", exit.code)
        }
        Seen::This(_) | Seen::Nothing | Seen::Unknown => String::new(),
    };
    let how = if crashes.never_ready() {
        "five times within five minutes without getting ready"
    } else {
        "ten times within five minutes"
    };
    format!("It ended {how}{last}. Look at its log, then start it again.")
}

fn overdue_report(state: State, told: Option<String>) -> String {
    let seconds = state.deadline().unwrap_or_default().as_secs();
    let what = if state == State::Starting { "get ready" } else { "start" };
    let told = told.map_or_else(|| "Look at its log.".to_owned(), |told| format!("Last: {told}"));
    format!("It did not {what} within {seconds} s; it is still being tried. {told}")
}

#[cfg(test)]
#[path = "plan_tests.rs"]
pub(crate) mod tests;
