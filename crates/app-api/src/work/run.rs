//! Runs the executions of tenants. Every replica does; a claim keeps two from working for one tenant at the same time.
//!
//! A claim has a lifetime and is renewed while it is held. A replica that lost its claim stops at once: the connection to the task
//! closes, which ends the task. The next holder finds the attempt without a recorded end.

use std::collections::HashMap;
use std::time::Duration;

use package::{Task, Workflow};
use protocol::executions::{ExecutionState, TaskState};
use protocol::spec::Desired;
use protocol::{TenantId, Timestamp};
use service::api_error::ApiError;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::attempt::{self, Attempt, Outcome};
use super::progress::{self, DAMAGED, NOT_STARTED_DELAY, NOT_STARTED_LIMIT, Step, TaskProgress};
use super::{WorkError, open, signatures};
use crate::app::App;
use crate::db::open_work::{self, Claim};
use crate::db::tenant_executions::{self, AttemptEnd, ExecutionRow, TaskRow};
use crate::db::{Conn, QueryResult, tenant, tenant_workflows};
use crate::tenant::Tenant;

/// The longest time for which due work waits.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Tenants for which one replica works at once: as many as the orchestrator runs tasks.
pub const MAX_TENANTS: usize = 128;
/// A replica that died keeps its claims for this long.
const CLAIM_LIFETIME: Duration = Duration::from_secs(30);
const RENEW_INTERVAL: Duration = Duration::from_secs(2);
/// A replica that could not renew its claim for this long stops, before another replica may begin.
const CLAIM_VALIDITY: Duration = Duration::from_secs(20);
/// A tenant without open executions is forgotten once it was not touched for so long. Longer than the transaction of a run takes.
const FORGET_AFTER: Duration = Duration::from_secs(180);
const IDLE_DELAY: Duration = Duration::from_secs(60);
/// The delay after a failure. It doubles with each failure in a row.
const ERROR_DELAY: Duration = Duration::from_secs(10);
const MAX_ERROR_DOUBLINGS: u32 = 5;
/// The most further tries to record the end of an attempt in a schema that is open.
const MAX_RECORD_RETRIES: usize = 5;
/// The most steps for one tenant in a row: a tenant that keeps changing its records must not keep its place.
const MAX_STEPS: usize = 1_000;

/// Works until the process stops. Attempts under way then end, and count as lost.
pub async fn run(app: App) {
    let holder = Uuid::new_v4();
    let mut drivers = JoinSet::new();
    let mut held: HashMap<Id, Uuid> = HashMap::new();
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = app.stop.cancelled() => break,
            _ = ticks.tick() => {}
            () = app.work.notified() => {}
            Some(ended) = drivers.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    // The claim expires.
                    Err(error) => {
                        tracing::error!(%error, "work of a tenant panicked");
                        error.id()
                    }
                };
                held.remove(&id);
            }
        }
        if !app.is_database_ready() {
            continue;
        }
        let tenants: Vec<_> = held.values().copied().collect();
        match claim(&app, holder, &tenants).await {
            Ok(claims) => {
                for claim in claims {
                    let driver = drivers.spawn(drive(app.clone(), holder, claim));
                    held.insert(driver.id(), claim.tenant_id);
                }
            }
            Err(error) => {
                tracing::warn!(error = format!("{error:#}"), "claiming tenants' work failed");
                ticks.reset_after(ERROR_DELAY);
            }
        }
    }
    drivers.shutdown().await;
    if let Ok(mut conn) = app.database.conn().await {
        // Claims that are not released expire.
        let _ = open_work::release_all(&mut conn, holder, app.clock.now()).await;
    }
}

async fn claim(app: &App, holder: Uuid, held: &[Uuid]) -> anyhow::Result<Vec<Claim>> {
    let free = MAX_TENANTS.saturating_sub(held.len());
    if free == 0 {
        return Ok(Vec::new());
    }
    let now = app.clock.now();
    let mut conn = app.database.conn().await?;
    let times = (now, now + CLAIM_LIFETIME);
    Ok(open_work::claim(&mut conn, holder, held, times, i64::try_from(free)?).await?)
}

/// When a tenant is due again.
enum Next {
    /// There is no open execution.
    Idle,
    At(Timestamp),
}

async fn drive(app: App, holder: Uuid, mut claim: Claim) {
    let id = claim.tenant_id;
    let (sender, mut touches) = watch::channel(claim.touches);
    let next = tokio::select! {
        next = work(&app, id, &mut touches, &mut claim.touches) => next,
        () = keep_claim(&app, holder, id, &sender) => {
            tracing::warn!(tenant = %id, "claim of a tenant's work lost");
            return;
        }
    };
    let now = app.clock.now();
    let due_at = match next {
        Ok(Next::At(due_at)) => {
            claim.failures = 0;
            Some(due_at)
        }
        Ok(Next::Idle) => {
            claim.failures = 0;
            None
        }
        Err(error) => {
            let delay = error_delay(claim.failures);
            // A tenant that damaged or filled its schema is tried ever less often, so that it delays nobody else. A fault of
            // the platform does not count against the tenant.
            if counts_against_tenant(&error) {
                claim.failures = claim.failures.saturating_add(1);
            }
            let error = error.into_text();
            tracing::warn!(tenant = %id, error, "work of a tenant failed");
            Some(now + delay)
        }
    };
    if let Err(error) = release(&app, holder, &claim, due_at, now).await {
        // The claim runs out.
        tracing::warn!(tenant = %id, error = format!("{error:#}"), "claim of a tenant's work not released");
    }
}

/// `due_at`: `None` for a tenant without open executions.
async fn release(
    app: &App,
    holder: Uuid,
    claim: &Claim,
    due_at: Option<Timestamp>,
    now: Timestamp,
) -> anyhow::Result<()> {
    let mut conn = app.database.conn().await?;
    let id = claim.tenant_id;
    if due_at.is_none() && open_work::forget(&mut conn, holder, id, now, FORGET_AFTER).await? {
        return Ok(());
    }
    open_work::release(&mut conn, holder, claim, due_at.unwrap_or(now + IDLE_DELAY)).await?;
    Ok(())
}

fn counts_against_tenant(error: &WorkError) -> bool {
    matches!(error, WorkError::Schema(_)) || error.is_of_closed_schema()
}

fn error_delay(failures: i32) -> Duration {
    let doublings = u32::try_from(failures).unwrap_or_default().min(MAX_ERROR_DOUBLINGS);
    ERROR_DELAY * (1 << doublings)
}

/// Renews a claim until it is lost.
#[expect(clippy::disallowed_methods, reason = "the wall clock may step while a claim runs out")]
async fn keep_claim(app: &App, holder: Uuid, tenant: Uuid, touches: &watch::Sender<i64>) {
    let mut valid_until = Instant::now() + CLAIM_VALIDITY;
    while Instant::now() < valid_until {
        tokio::time::sleep(RENEW_INTERVAL).await;
        let begun = Instant::now();
        let renewed = async {
            let mut conn = app.database.conn().await?;
            let until = app.clock.now() + CLAIM_LIFETIME;
            anyhow::Ok(open_work::renew(&mut conn, holder, tenant, until).await?)
        };
        match tokio::time::timeout_at(valid_until, renewed).await {
            Ok(Ok(Some(claim))) => {
                valid_until = begun + CLAIM_VALIDITY;
                touches.send_if_modified(|seen| {
                    std::mem::replace(seen, claim.touches) != claim.touches
                });
            }
            Ok(Ok(None)) | Err(_) => return,
            Ok(Err(_)) => {}
        }
    }
}

/// Works for one tenant until nothing is due. `seen`: the requests that were looked at.
async fn work(
    app: &App,
    id: Uuid,
    touches: &mut watch::Receiver<i64>,
    seen: &mut i64,
) -> Result<Next, WorkError> {
    let mut place: Option<OwnedSemaphorePermit> = None;
    for _ in 0..MAX_STEPS {
        // Before the records are read: what is requested from here on counts as new.
        *seen = *touches.borrow_and_update();
        let found = tenant::by_id(&mut *app.conn().await?, TenantId::new(id)).await;
        let Some(tenant) = found.map_err(ApiError::from)? else { return Ok(Next::Idle) };
        if tenant.desired == Desired::Deleted {
            return Ok(Next::Idle);
        }
        let mut conn = open(app, &tenant).await?;
        let Some(execution) = tenant_executions::first_open(&mut conn).await? else {
            return Ok(Next::Idle);
        };
        let rows = tenant_executions::tasks(&mut conn, execution.id).await?;
        let now = app.clock.now();
        let step = read(&execution, &rows);
        let step = step.as_ref().map(|(workflow, progress)| {
            progress::next_step(workflow, progress, execution.cancel_requested, now)
        });
        let damaged =
            Step::Finish { state: ExecutionState::Failed, reason: Some(DAMAGED.to_owned()) };
        let changed = match step.unwrap_or(damaged) {
            Step::WaitUntil(at) => return Ok(Next::At(at)),
            Step::Finish { state, reason } => {
                tracing::info!(tenant = %id, slug = %tenant.slug, execution = %execution.id, state = state.as_str(), "execution ended");
                finish(app, &mut conn, &execution, state, reason.as_deref()).await?
            }
            Step::Lost { task, attempt } => {
                let reason = "Its end is unknown: the platform or the tenant ended while it ran.";
                let end = after_failure(task, attempt, reason, now);
                let of = (task.name.as_str(), attempt);
                tenant_executions::end_attempt(&mut conn, execution.id, of, &end).await?
            }
            Step::Start { task, attempt } => {
                let Some(place) = place.take() else {
                    // The wait holds no connection.
                    drop(conn);
                    let free = app.task_starts.clone().acquire_owned().await;
                    place = Some(free.map_err(ApiError::internal)?);
                    continue;
                };
                let number = attempt;
                let attempt = Attempt { app, tenant: &tenant, execution: &execution, task, number };
                match begin(&mut conn, &attempt, now).await? {
                    Begun::Yes(results) => {
                        drop(conn);
                        let outcome = tokio::select! {
                            outcome = attempt.run(results, place) => Some(outcome),
                            () = cancelled(app, &tenant, execution.id, touches) => None,
                        };
                        let row = rows.iter().find(|row| row.name == task.name);
                        record(&attempt, row, outcome).await?
                    }
                    Begun::Never(reason) => {
                        let state = ExecutionState::Failed;
                        finish(app, &mut conn, &execution, state, Some(&reason)).await?
                    }
                    Begun::No => 0,
                }
            }
        };
        if changed == 0 {
            // Another writer changed the records, or the tenant's tables keep no rows.
            return Ok(Next::At(now + ERROR_DELAY));
        }
    }
    Ok(Next::At(app.clock.now() + ERROR_DELAY))
}

enum Begun {
    /// The attempt begins, with the results of the earlier tasks.
    Yes(attempt::Results),
    /// The execution fails for this reason.
    Never(String),
    /// The task is no longer waiting.
    No,
}

/// Records that an attempt begins.
async fn begin(conn: &mut Conn, attempt: &Attempt<'_>, now: Timestamp) -> Result<Begun, WorkError> {
    let Attempt { app, tenant, execution, task, number } = *attempt;
    if tenant_workflows::package_piece(conn, execution.package_id, 0).await?.is_none() {
        return Ok(Begun::Never(format!("Package {} was deleted.", execution.package)));
    }
    if !signatures::may_run(app, tenant, execution.package_id).await? {
        return Ok(Begun::Never(signatures::untrusted(&execution.package)));
    }
    let Some(results) = tenant_executions::results(conn, execution.id, &task.after).await? else {
        return Ok(Begun::Never(DAMAGED.to_owned()));
    };
    let begun = tenant_executions::begin_attempt(conn, execution.id, &task.name, number, now);
    Ok(if begun.await? { Begun::Yes(results) } else { Begun::No })
}

/// Parses the records. `None` when the tenant changed them so that they cannot be read.
fn read(execution: &ExecutionRow, rows: &[TaskRow]) -> Option<(Workflow, Vec<TaskProgress>)> {
    // Each execution has a context. Without it the tasks would miss their inputs.
    execution.context.as_ref()?;
    let workflow = serde_json::from_value(execution.definition.clone()?).ok()?;
    let progress = |row: &TaskRow| {
        Some(TaskProgress {
            name: row.name.clone(),
            state: serde_json::from_value(row.state.clone().into()).ok()?,
            attempts: row.attempts,
            next_attempt_at: row.next_attempt_at,
            reason: row.reason.clone(),
        })
    };
    Some((workflow, rows.iter().map(progress).collect::<Option<_>>()?))
}

async fn finish(
    app: &App,
    conn: &mut Conn,
    execution: &ExecutionRow,
    state: ExecutionState,
    reason: Option<&str>,
) -> QueryResult<usize> {
    tenant_executions::finish(conn, execution.id, state.as_str(), reason, app.clock.now()).await
}

/// Resolves when the end of the execution is requested.
async fn cancelled(
    app: &App,
    tenant: &Tenant,
    execution: Uuid,
    touches: &mut watch::Receiver<i64>,
) {
    while touches.changed().await.is_ok() {
        loop {
            let row = async {
                let mut conn = open(app, tenant).await?;
                Ok::<_, WorkError>(tenant_executions::by_id(&mut conn, execution).await?)
            };
            match row.await {
                Ok(Some(row)) if !row.cancel_requested => break,
                Ok(_) => return,
                Err(error) => {
                    let error = error.into_text();
                    tracing::warn!(tenant = %tenant.id, error, "reading an execution failed");
                    tokio::time::sleep(ERROR_DELAY).await;
                }
            }
        }
    }
    std::future::pending().await
}

/// Records the end of an attempt. `row`: the task before it began; `outcome`: `None` after a cancellation.
async fn record(
    attempt: &Attempt<'_>,
    row: Option<&TaskRow>,
    outcome: Option<Outcome>,
) -> Result<usize, WorkError> {
    let Attempt { app, tenant, execution, task, number } = *attempt;
    let now = app.clock.now();
    let since = row.and_then(|row| row.not_started_since);
    let end = end_of(task, number, since, outcome, now);
    let of = (task.name.as_str(), number);
    let try_record = async || {
        // Read anew: the schema may have been closed or opened since the attempt began.
        let found = tenant::by_id(&mut *app.conn().await?, tenant.tenant_id()).await;
        let Some(tenant) = found.map_err(ApiError::from)? else { return Ok(0) };
        let mut conn = open(app, &tenant).await?;
        Ok::<_, WorkError>(tenant_executions::end_attempt(&mut conn, execution.id, of, &end).await?)
    };
    // A success without a record counts as lost: the task would fail, or run a second time. While the schema is closed the record
    // waits, and the claim is renewed.
    let mut retries = MAX_RECORD_RETRIES;
    loop {
        match try_record().await {
            Ok(changed) => return Ok(changed),
            Err(error) => {
                let Some(left) = retries_after(&error, retries) else { return Err(error) };
                retries = left;
                let error = error.into_text();
                tracing::warn!(tenant = %tenant.id, error, "recording an attempt failed");
                tokio::time::sleep(ERROR_DELAY).await;
            }
        }
    }
}

/// The further tries to record an end after this error, of `retries` so far; `None` when there is no further one.
fn retries_after(error: &WorkError, retries: usize) -> Option<usize> {
    if error.is_of_closed_schema() { Some(retries) } else { retries.checked_sub(1) }
}

/// Returns the columns of a task after an attempt. `since`: the time of the first attempt in a row that could not begin, if there was one.
fn end_of(
    task: &Task,
    number: i32,
    since: Option<Timestamp>,
    outcome: Option<Outcome>,
    now: Timestamp,
) -> AttemptEnd {
    let ended = |state: TaskState, output| AttemptEnd {
        state: state.as_str(),
        attempts: number,
        next_attempt_at: now,
        not_started_since: None,
        reason: None,
        output,
        at: now,
    };
    let not_started = |reason: &str, since| AttemptEnd {
        attempts: number - 1,
        next_attempt_at: now + NOT_STARTED_DELAY,
        not_started_since: since,
        reason: Some(reason.to_owned()),
        ..ended(TaskState::Waiting, None)
    };
    match outcome {
        Some(Outcome::Succeeded(output)) => ended(TaskState::Succeeded, output),
        Some(Outcome::Failed(reason)) => after_failure(task, number, &reason, now),
        Some(Outcome::NotStarted(reason)) => {
            let since = since.unwrap_or(now);
            if since + NOT_STARTED_LIMIT < now {
                return after_failure(task, number, &reason, now);
            }
            not_started(&reason, Some(since))
        }
        Some(Outcome::Queued) => not_started("It waits: as many tasks run as may.", None),
        None => ended(TaskState::Cancelled, None),
    }
}

fn after_failure(task: &Task, attempt: i32, reason: &str, now: Timestamp) -> AttemptEnd {
    let retry_at = progress::retry_at(task, attempt, now);
    AttemptEnd {
        state: if retry_at.is_some() { TaskState::Waiting } else { TaskState::Failed }.as_str(),
        attempts: attempt,
        next_attempt_at: retry_at.unwrap_or(now),
        not_started_since: None,
        reason: Some(attempt::bounded(reason)),
        output: None,
        at: now,
    }
}

#[cfg(test)]
mod tests {
    use protocol::problem::Code;

    use super::*;

    #[test]
    fn the_end_of_an_attempt_outlasts_a_closed_schema_which_is_tried_ever_less_often() {
        let refused = |code| WorkError::Refused(ApiError::new(code, "no"));
        let closed = refused(Code::TenantDatabaseFull);
        assert_eq!(retries_after(&closed, 0), Some(0));
        assert!(counts_against_tenant(&closed));
        let unavailable = refused(Code::DatabaseUnavailable);
        assert_eq!(retries_after(&unavailable, 1), Some(0));
        assert_eq!(retries_after(&unavailable, 0), None);
        assert!(!counts_against_tenant(&unavailable));
    }
}
