//! Waiting for a tenant: calls with growing pauses, a line for each step, a reason when it comes to nothing.

use std::time::{Duration, Instant};

use protocol::State;
use serde_json::Value;

use crate::args::WaitFor;
use crate::clock;
use crate::context::Context;
use crate::error::{CliError, Exit};
use crate::http::{Request, segment};
use crate::interrupt;

pub(crate) const FIRST_PAUSE: Duration = Duration::from_millis(100);
const MAX_PAUSE: Duration = Duration::from_secs(2);

/// The end of a wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Goal {
    State(State),
    Deleted,
}

impl From<WaitFor> for Goal {
    fn from(wait_for: WaitFor) -> Self {
        match wait_for {
            WaitFor::Running => Self::State(State::Running),
            WaitFor::Frozen => Self::State(State::Frozen),
            WaitFor::Sleeping => Self::State(State::Sleeping),
            WaitFor::Stopped => Self::State(State::Stopped),
            WaitFor::Deleted => Self::Deleted,
        }
    }
}

impl Goal {
    fn as_str(self) -> &'static str {
        match self {
            Self::State(state) => state.as_str(),
            Self::Deleted => "deleted",
        }
    }
}

/// The decision of a wait after reading the tenant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Verdict {
    Pending,
    Reached,
    Failed,
}

/// Compares the state that the API shows with the goal; `None` is a tenant that does not exist.
///
/// An error ends a wait for a tenant that shall run. It does not end a stop or a deletion, which go on.
fn judge(goal: Goal, state: Option<&str>) -> Verdict {
    let Some(state) = state else {
        return if goal == Goal::Deleted { Verdict::Reached } else { Verdict::Failed };
    };
    // An unknown state of a later release is a state on the way.
    let Ok(state) = state.parse::<State>() else { return Verdict::Pending };
    match goal {
        Goal::State(wanted) if state == wanted => Verdict::Reached,
        Goal::State(State::Stopped) | Goal::Deleted => Verdict::Pending,
        Goal::State(_) if matches!(state, State::Error | State::Deleting) => Verdict::Failed,
        Goal::State(_) => Verdict::Pending,
    }
}

/// The pause after one of `pause`.
pub(crate) fn longer(pause: Duration) -> Duration {
    (pause * 3 / 2).min(MAX_PAUSE)
}

/// Waits for a tenant that the API last showed as `seen`, and returns the tenant as it then is.
///
/// # Errors
/// The goal cannot be reached, the time is over (exit code 3), or the server refuses.
pub(crate) fn wait(
    context: &Context<'_>,
    slug: &str,
    goal: Goal,
    timeout: Duration,
    mut seen: Option<Value>,
) -> Result<Option<Value>, CliError> {
    let again = format!("cial tenants wait {slug} --for {}", goal.as_str());
    interrupt::explain(format!("interrupted: the server goes on; wait again: {again}"));
    let begin = clock::instant();
    let mut steps = Steps { context, slug, shown: None, since: begin };
    let mut pause = FIRST_PAUSE;
    let mut trouble: Option<CliError> = None;
    loop {
        let state = seen.as_ref().map(state_of);
        match judge(goal, state) {
            Verdict::Reached => {
                steps.reached(goal);
                return Ok(seen);
            }
            Verdict::Failed => {
                steps.failed(state);
                return Err(failure(slug, goal, seen.as_ref()));
            }
            Verdict::Pending => steps.observe(state),
        }
        if begin.elapsed() + pause > timeout {
            return Err(too_late(slug, goal, timeout, seen.as_ref(), trouble.as_ref(), &again));
        }
        std::thread::sleep(pause);
        pause = longer(pause);
        match look(context, slug) {
            Ok(look) => (seen, trouble) = (look, None),
            Err(error) if error.is_transient() => trouble = Some(error),
            Err(error) => return Err(error),
        }
    }
}

/// The tenant; `None` when it does not exist.
pub(crate) fn look(context: &Context<'_>, slug: &str) -> Result<Option<Value>, CliError> {
    let request =
        Request::get(format!("/v1/tenants/{}", segment(slug)), format!("look at tenant {slug}"));
    match context.call(&request) {
        Ok(tenant) => Ok(Some(tenant)),
        Err(error) if error.status() == Some(404) => Ok(None),
        Err(error) => Err(error),
    }
}

fn state_of(tenant: &Value) -> &str {
    tenant["state"].as_str().unwrap_or_default()
}

pub(crate) fn missing(slug: &str) -> CliError {
    CliError::failed(format!("tenant {slug} does not exist"))
        .next("list the tenants: cial tenants list")
}

fn failure(slug: &str, goal: Goal, seen: Option<&Value>) -> CliError {
    let Some(tenant) = seen else { return missing(slug) };
    let error = CliError::failed(format!("tenant {slug} does not become {}", goal.as_str()))
        .because(format!("its state is {}", state_of(tenant)));
    let error = match tenant["state_reason"].as_str() {
        Some(reason) => error.because(reason.trim_end_matches('.')),
        None => error,
    };
    error.next(format!("read its log: cial tenants logs {slug}"))
}

fn too_late(
    slug: &str,
    goal: Goal,
    timeout: Duration,
    seen: Option<&Value>,
    trouble: Option<&CliError>,
    again: &str,
) -> CliError {
    let seconds = timeout.as_secs_f32();
    let what = format!("tenant {slug} is not {} after {seconds} s", goal.as_str());
    let mut error = CliError::new(Exit::Cancelled, what);
    if let Some(tenant) = seen {
        error = error.because(format!("its state is {}", state_of(tenant)));
        if let Some(reason) = tenant["state_reason"].as_str() {
            error = error.because(reason.trim_end_matches('.'));
        }
    }
    if let Some(trouble) = trouble {
        error = error.because(trouble);
    }
    error.next(format!("the server goes on; wait again: {again}"))
}

/// Prints a line for each state that was left.
struct Steps<'a> {
    context: &'a Context<'a>,
    slug: &'a str,
    shown: Option<String>,
    since: Instant,
}

impl Steps<'_> {
    fn observe(&mut self, state: Option<&str>) {
        let state = state.unwrap_or_default();
        if self.shown.as_deref() == Some(state) {
            return;
        }
        self.finish();
        (self.shown, self.since) = (Some(state.to_owned()), clock::instant());
    }

    fn finish(&mut self) {
        if let Some(state) = self.shown.take() {
            self.context.output.progress().done(&state, self.since.elapsed());
        }
    }

    fn reached(&mut self, goal: Goal) {
        self.finish();
        self.context.output.note(&format!("tenant {} is {}", self.slug, goal.as_str()));
    }

    fn failed(&mut self, state: Option<&str>) {
        self.finish();
        let state = state.unwrap_or("does not exist");
        self.context.output.progress().failed(state, self.since.elapsed());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_has_a_verdict_for_every_goal() {
        use Verdict::{Failed, Pending, Reached};
        let goals = [Goal::State(State::Running), Goal::State(State::Stopped), Goal::Deleted];
        for (state, verdicts) in [
            (Some("provisioning"), [Pending, Pending, Pending]),
            (Some("starting"), [Pending, Pending, Pending]),
            (Some("running"), [Reached, Pending, Pending]),
            (Some("frozen"), [Pending, Pending, Pending]),
            (Some("sleeping"), [Pending, Pending, Pending]),
            (Some("stopped"), [Pending, Reached, Pending]),
            (Some("error"), [Failed, Pending, Pending]),
            (Some("deleting"), [Failed, Pending, Pending]),
            (Some("a later state"), [Pending, Pending, Pending]),
            (None, [Failed, Failed, Reached]),
        ] {
            assert_eq!(goals.map(|goal| judge(goal, state)), verdicts, "{state:?}");
        }
    }

    #[test]
    fn pauses_grow_to_their_bound() {
        let pauses: Vec<_> = std::iter::successors(Some(FIRST_PAUSE), |pause| Some(longer(*pause)))
            .take(12)
            .collect();
        assert!(pauses.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(pauses.last(), Some(&MAX_PAUSE));
    }
}
