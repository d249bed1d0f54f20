//! Decides the next step of an execution, and whether a failed task is tried again. Pure.
//!
//! Tasks run one after the other. An attempt that was recorded as successful is never repeated. An attempt whose end is unknown,
//! because its replica died, counts as failed: the task runs again only if it has retries left.

use std::time::Duration;

use package::{Task, Workflow};
use protocol::Timestamp;
use protocol::executions::{ExecutionState, TaskState};

/// The first delay before another attempt; it doubles with each.
const RETRY_DELAY: Duration = Duration::from_secs(1);
const MAX_RETRY_DELAY: Duration = Duration::from_secs(60);
/// The first attempt and the most retries that a task may have.
const MAX_ATTEMPTS: i32 = 11;
/// The delay after an attempt that could not begin, for example because the engine is unreachable. Such an attempt does not count.
pub const NOT_STARTED_DELAY: Duration = Duration::from_secs(5);
/// An execution fails when its task could not begin for this long.
pub const NOT_STARTED_LIMIT: Duration = Duration::from_secs(600);

/// The reason of a failed execution whose rows cannot be read: the tenant can write them.
pub const DAMAGED: &str = "The record of the execution is damaged.";

/// A task as its row shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TaskProgress {
    pub name: String,
    pub state: TaskState,
    pub attempts: i32,
    pub next_attempt_at: Timestamp,
    pub reason: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<'a> {
    /// Begin this attempt.
    Start {
        task: &'a Task,
        attempt: i32,
    },
    /// The end of this attempt is unknown: no replica runs it.
    Lost {
        task: &'a Task,
        attempt: i32,
    },
    WaitUntil(Timestamp),
    Finish {
        state: ExecutionState,
        reason: Option<String>,
    },
}

/// Returns the next step of an execution under the caller's claim.
pub fn next_step<'a>(
    workflow: &'a Workflow,
    rows: &[TaskProgress],
    is_cancelled: bool,
    now: Timestamp,
) -> Step<'a> {
    if is_cancelled {
        return Step::Finish { state: ExecutionState::Cancelled, reason: None };
    }
    let failed =
        |reason: String| Step::Finish { state: ExecutionState::Failed, reason: Some(reason) };
    let damaged = || failed(DAMAGED.to_owned());
    if !workflow.is_within_limits() || workflow.tasks.len() != rows.len() {
        return damaged();
    }
    let order = workflow.in_order();
    if order.len() != rows.len() {
        return damaged();
    }
    for task in order {
        let Some(row) = rows.iter().find(|row| row.name == task.name) else {
            return damaged();
        };
        let attempt = row.attempts;
        if !(0..=MAX_ATTEMPTS).contains(&attempt) {
            return damaged();
        }
        match row.state {
            TaskState::Succeeded => {}
            TaskState::Running => return Step::Lost { task, attempt },
            // A time later than any delay leads to is ignored: the clock stepped, or the tenant wrote it.
            TaskState::Waiting
                if row.next_attempt_at > now && row.next_attempt_at <= now + MAX_RETRY_DELAY =>
            {
                return Step::WaitUntil(row.next_attempt_at);
            }
            TaskState::Waiting => return Step::Start { task, attempt: attempt + 1 },
            TaskState::Failed | TaskState::Cancelled => {
                let reason = row.reason.as_deref().unwrap_or("It was cancelled.");
                return failed(format!("Task {} failed. {reason}", task.name));
            }
        }
    }
    Step::Finish { state: ExecutionState::Succeeded, reason: None }
}

/// Returns the time of the next attempt after the failed attempt number `attempt`; `None` when the task has no retries left.
pub fn retry_at(task: &Task, attempt: i32, now: Timestamp) -> Option<Timestamp> {
    let made = u32::try_from(attempt).unwrap_or(u32::MAX);
    if made > task.retries {
        return None;
    }
    let doubled = RETRY_DELAY.saturating_mul(1 << made.saturating_sub(1).min(10));
    Some(now + doubled.min(MAX_RETRY_DELAY))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn task(name: &str, after: &[&str], retries: u32) -> Task {
        Task {
            name: name.to_owned(),
            command: vec!["bin/x".to_owned()],
            inputs: Vec::new(),
            after: after.iter().map(|name| (*name).to_owned()).collect(),
            retries,
            timeout_seconds: 1,
        }
    }

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_timestamp(seconds, 0).unwrap()
    }

    fn row(name: &str, state: TaskState, attempts: i32) -> TaskProgress {
        let reason = (state == TaskState::Failed).then(|| "It exited with code 1.".to_owned());
        TaskProgress { name: name.to_owned(), state, attempts, next_attempt_at: at(100), reason }
    }

    fn shown(rows: &[TaskProgress], is_cancelled: bool, now: i64) -> String {
        let tasks = vec![task("sum", &["fetch"], 0), task("fetch", &[], 2)];
        let workflow = Workflow { name: "w".to_owned(), about: String::new(), tasks };
        match next_step(&workflow, rows, is_cancelled, at(now)) {
            Step::Start { task, attempt } => format!("start {} {attempt}", task.name),
            Step::Lost { task, attempt } => format!("lost {} {attempt}", task.name),
            Step::WaitUntil(time) => format!("wait until {}", time.timestamp()),
            Step::Finish { state, reason } => {
                format!("{} {}", state.as_str(), reason.unwrap_or_default())
            }
        }
    }

    #[test]
    fn tasks_run_in_order_and_none_that_succeeded_runs_again() {
        use TaskState::{Cancelled, Failed, Running, Succeeded, Waiting};
        let table = [
            ((Waiting, 0), (Waiting, 0), "start fetch 1"),
            ((Waiting, 0), (Running, 1), "lost fetch 1"),
            ((Waiting, 0), (Waiting, 1), "start fetch 2"),
            ((Waiting, 0), (Succeeded, 1), "start sum 1"),
            ((Running, 1), (Succeeded, 1), "lost sum 1"),
            ((Succeeded, 1), (Succeeded, 3), "succeeded "),
            ((Waiting, 0), (Failed, 3), "failed Task fetch failed. It exited with code 1."),
            ((Failed, 1), (Succeeded, 1), "failed Task sum failed. It exited with code 1."),
            ((Cancelled, 0), (Succeeded, 1), "failed Task sum failed. It was cancelled."),
        ];
        for ((sum, sum_attempts), (fetch, fetch_attempts), expected) in table {
            let rows = [row("sum", sum, sum_attempts), row("fetch", fetch, fetch_attempts)];
            assert_eq!(shown(&rows, false, 100), expected);
            assert_eq!(shown(&rows, true, 100), "cancelled ");
        }
        let rows = [row("sum", Waiting, 0), row("fetch", Waiting, 1)];
        assert_eq!(shown(&rows, false, 99), "wait until 100");
        assert_eq!(shown(&rows, false, 39), "start fetch 2", "no delay is so long");
        let damaged = [
            vec![row("fetch", Waiting, 0)],
            vec![row("sum", Waiting, 0), row("other", Waiting, 0)],
            vec![row("sum", Waiting, 0), row("fetch", Waiting, -1)],
            vec![row("sum", Waiting, 0), row("fetch", Waiting, i32::MAX)],
        ];
        for rows in damaged {
            assert_eq!(shown(&rows, false, 100), format!("failed {DAMAGED}"));
        }
    }

    #[test]
    fn retries_are_bounded_and_their_delay_doubles() {
        let delays = |retries, attempt| {
            retry_at(&task("x", &[], retries), attempt, at(0)).map(|time| time.timestamp())
        };
        assert_eq!([0, 1, 2].map(|attempt| delays(0, attempt)), [Some(1), None, None]);
        let ten: Vec<_> = (1..=11).map(|attempt| delays(10, attempt)).collect();
        let expected = [1, 2, 4, 8, 16, 32, 60, 60, 60, 60].map(Some);
        assert_eq!((&ten[..10], ten[10]), (&expected[..], None));
        assert_eq!(delays(10, i32::MIN), None);
    }
}
