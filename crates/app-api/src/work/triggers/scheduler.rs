//! Fires triggers at their times, in every replica. A claim keeps two replicas from firing one trigger at the same time. The unique
//! key of a time keeps a replica that lost its claim from firing the time again.
//!
//! A fire only creates an execution. Waking the tenant is up to the runner of executions, which starts as many at once as it may.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use protocol::TenantId;
use protocol::Timestamp;
use protocol::problem::Code;
use protocol::spec::Desired;
use service::api_error::ApiError;
use tokio::task::{Id, JoinSet};
use tokio::time::{Instant, MissedTickBehavior};
use uuid::Uuid;

use super::schedule::{Write, plan};
use super::{actor_of, bounded, run_of, stored_schedule};
use crate::app::App;
use crate::db::trigger::{self, ClaimedTrigger, FireDelay, FireOutcome, TriggerRow};
use crate::db::{QueryError, tenant};
use crate::tenant::Tenant;
use crate::work::{WorkError, executions};

/// The longest time for which a due trigger waits.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// Tenants for which one replica fires at once; a claim is of so many triggers at most, of each tenant a few.
const MAX_TENANTS: usize = 64;
/// Bounds the work for the claimed triggers of one tenant: a tenant whose database is slow must not keep its place.
const FIRE_TIMEOUT: Duration = Duration::from_secs(20);
const _: () = assert!(FIRE_TIMEOUT.as_secs() < CLAIM_LIFETIME.as_secs());
/// Longer than the work for all triggers of one claim usually takes; the key of a time covers the rest.
const CLAIM_LIFETIME: Duration = Duration::from_secs(60);
/// The delay after a failure. It doubles with each failure in a row.
const ERROR_DELAY: Duration = Duration::from_secs(10);
const MAX_ERROR_DOUBLINGS: u32 = 5;
/// The longest claim and the longest delay.
const MAX_DELAY: Duration = Duration::from_secs(10 << MAX_ERROR_DOUBLINGS);
const _: () = assert!(MAX_DELAY.as_secs() > CLAIM_LIFETIME.as_secs());
/// How long the process waits for fires under way when it stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// The failure of a fire for which the platform is the reason.
const PLATFORM_FAILURE: &str = "The platform could not run the workflow. It is tried again.";
const SLOW_FAILURE: &str = "The tenant's database took too long. It is tried again.";
const UNREADABLE_TIMES: &str =
    "The platform cannot read the expression or its time zone. It is tried again.";
const UNREADABLE_VALUES: &str =
    "The values of the trigger cannot be read. Delete it, and create it again.";

/// The tenants for which triggers are being fired, one task each: a tenant whose schema hangs holds up nobody else.
#[derive(Default)]
struct Busy(HashMap<Id, Uuid>);

impl Busy {
    fn tenants(&self) -> Vec<Uuid> {
        self.0.values().copied().collect()
    }
}

/// Fires until the process stops.
pub async fn run(app: App) {
    let mut fires = JoinSet::new();
    let mut busy = Busy::default();
    let mut ticks = tokio::time::interval(POLL_INTERVAL);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // The last claim found triggers: more may be due, also of the tenants that it found.
    let mut are_more_due = false;
    loop {
        let has_ticked = tokio::select! {
            () = app.stop.cancelled() => break,
            _ = ticks.tick() => true,
            Some(ended) = fires.join_next_with_id() => {
                let id = match ended {
                    Ok((id, ())) => id,
                    // The claims expire.
                    Err(error) => {
                        tracing::error!(%error, "triggers of a tenant panicked");
                        error.id()
                    }
                };
                busy.0.remove(&id);
                false
            }
        };
        let free = MAX_TENANTS.saturating_sub(busy.0.len());
        if !app.is_database_ready() || free == 0 || !(has_ticked || are_more_due) {
            continue;
        }
        match claim(&app, &busy.tenants(), free).await {
            Ok(claimed) => {
                are_more_due = !claimed.is_empty();
                for (tenant, rows) in by_tenant(claimed) {
                    let fire = fires.spawn(fire_all(app.clone(), tenant, rows));
                    busy.0.insert(fire.id(), tenant);
                }
            }
            Err(error) => {
                are_more_due = false;
                tracing::warn!(error = format!("{error:#}"), "claiming triggers failed");
                ticks.reset_after(ERROR_DELAY);
            }
        }
    }
    // Fires under way keep their claims, and are repeated when these expire.
    let rest = async { while fires.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(STOP_TIMEOUT, rest).await;
}

async fn claim(app: &App, busy: &[Uuid], limit: usize) -> anyhow::Result<Vec<ClaimedTrigger>> {
    let now = app.clock.now();
    let mut conn = app.database.conn().await?;
    let times = (now, now + CLAIM_LIFETIME);
    Ok(trigger::claim(&mut conn, times, MAX_DELAY, busy, i64::try_from(limit)?).await?)
}

fn by_tenant(rows: Vec<ClaimedTrigger>) -> BTreeMap<Uuid, Vec<ClaimedTrigger>> {
    let mut tenants: BTreeMap<_, Vec<_>> = BTreeMap::new();
    for row in rows {
        tenants.entry(row.tenant_id).or_default().push(row);
    }
    tenants
}

/// Fires what is due of one tenant. After a failure of the tenant or the platform the rest is not tried: it would fail likewise.
#[expect(clippy::disallowed_methods, reason = "the shell bounds what it waits for")]
async fn fire_all(app: App, tenant: Uuid, claimed: Vec<ClaimedTrigger>) {
    let deadline = Instant::now() + FIRE_TIMEOUT;
    let mut failure: Option<String> = None;
    for mut row in claimed {
        if let Some(failure) = &failure {
            delay(&app, &row, failure).await;
            continue;
        }
        match tokio::time::timeout_at(deadline, fire_due(&app, &mut row)).await {
            Ok(Ok(())) => {}
            Ok(Err(FireError::Unreadable(what))) => {
                tracing::error!(%tenant, trigger = %row.id, what, "a trigger cannot be read");
                delay(&app, &row, what).await;
            }
            Ok(Err(FireError::Work(error))) => {
                let shown = shown(&error);
                let error = error.into_text();
                tracing::warn!(%tenant, trigger = %row.id, error, "firing a trigger failed");
                delay(&app, &row, &shown).await;
                failure = Some(shown);
            }
            Err(_) => {
                tracing::warn!(%tenant, trigger = %row.id, "firing triggers takes too long");
                delay(&app, &row, SLOW_FAILURE).await;
                failure = Some(SLOW_FAILURE.to_owned());
            }
        }
    }
}

/// Leaves a trigger at its time, and delays the next attempt.
async fn delay(app: &App, row: &ClaimedTrigger, failure: &str) {
    let delay = FireDelay {
        not_before: app.clock.now() + error_delay(row.failures),
        failures: row.failures.saturating_add(1),
        failure,
    };
    let delayed = async {
        let mut conn = app.database.conn().await?;
        anyhow::Ok(trigger::delay(&mut conn, row.id, row.next_fire_at, &delay).await?)
    };
    if let Err(error) = delayed.await {
        // The claim expires.
        tracing::warn!(tenant = %row.tenant_id, trigger = %row.id, error = format!("{error:#}"), "delaying a trigger failed");
    }
}

fn error_delay(failures: i32) -> Duration {
    let doublings = u32::try_from(failures).unwrap_or_default().min(MAX_ERROR_DOUBLINGS);
    ERROR_DELAY * (1 << doublings)
}

/// The reason why a fire is retried.
enum FireError {
    Work(WorkError),
    /// This row alone cannot be read; the text is shown to the tenant.
    Unreadable(&'static str),
}

impl<E: Into<WorkError>> From<E> for FireError {
    fn from(error: E) -> Self {
        Self::Work(error.into())
    }
}

/// Makes the writes of one trigger's plan in their order. `row` keeps the time that was reached.
async fn fire_due(app: &App, row: &mut ClaimedTrigger) -> Result<(), FireError> {
    let (Some(due), now) = (row.next_fire_at, app.clock.now()) else { return Ok(()) };
    let found = tenant::by_id(&mut *app.conn().await?, TenantId::new(row.tenant_id)).await;
    let found = found.map_err(ApiError::from)?;
    let Some(tenant) = found.filter(|tenant| tenant.desired != Desired::Deleted) else {
        // The tenant is being deleted, with its triggers.
        return Ok(advance(app, row, None, now, None).await.map(drop)?);
    };
    let schedule = stored_schedule(row.cron.as_deref(), row.time_zone.as_deref());
    let schedule = schedule.ok_or(FireError::Unreadable(UNREADABLE_TIMES))?;
    let writes = plan(&schedule, row.catch_up, (due, row.failures > 0), now);
    if writes.is_empty() {
        // The clock stepped back since the claim.
        return Ok(advance(app, row, Some(due), now, None).await.map(drop)?);
    }
    let mut outcome = None;
    for write in writes {
        match write {
            Write::Fire(at) => {
                let Some(current) = renew(app, row).await? else { return Ok(()) };
                outcome = Some(fire_at(app, &tenant, &current, at).await?);
            }
            Write::Advance(next) => {
                // The claim ends with the last write: its time is in the future.
                let is_last = next.is_none_or(|next| next > now);
                let not_before = if is_last { now } else { now + CLAIM_LIFETIME };
                if !advance(app, row, next, not_before, outcome.take().as_ref()).await? {
                    return Ok(());
                }
            }
        }
    }
    Ok(())
}

/// Reads the trigger again; `None` when another replica advanced it, or somebody paused or deleted it.
async fn renew(app: &App, row: &ClaimedTrigger) -> Result<Option<TriggerRow>, FireError> {
    let Some(seen) = row.next_fire_at else { return Ok(None) };
    let mut conn = app.conn().await?;
    let until = app.clock.now() + CLAIM_LIFETIME;
    match trigger::renew(&mut conn, row.id, seen, until).await {
        Ok(current) => Ok(current),
        Err(QueryError::DeserializationError(_)) => Err(FireError::Unreadable(UNREADABLE_VALUES)),
        Err(error) => Err(ApiError::from(error).into()),
    }
}

/// Advances a trigger. Returns `false` when another replica advanced it, or somebody paused or deleted it.
async fn advance(
    app: &App,
    row: &mut ClaimedTrigger,
    next: Option<Timestamp>,
    not_before: Timestamp,
    outcome: Option<&FireOutcome>,
) -> Result<bool, ApiError> {
    let Some(seen) = row.next_fire_at else { return Ok(false) };
    let mut conn = app.conn().await?;
    let times = (seen, next);
    let is_advanced = trigger::advance(&mut conn, row.id, times, not_before, outcome).await?;
    if is_advanced {
        (row.next_fire_at, row.failures) = (next, 0);
    }
    Ok(is_advanced)
}

/// Creates the execution of one time. A time that can run nothing, because its workflow is paused or gone, is over.
///
/// # Errors
/// When the fire should be retried.
async fn fire_at(
    app: &App,
    tenant: &Tenant,
    row: &TriggerRow,
    at: Timestamp,
) -> Result<FireOutcome, WorkError> {
    let run = run_of(tenant, row, Some(at), actor_of(row), None);
    match executions::schedule(app, tenant, run).await {
        Ok(execution) => Ok(FireOutcome { at, execution: Some(execution.id), failure: None }),
        Err(WorkError::Refused(error)) if is_final(&error) => {
            let failure = Some(bounded(&error.problem.detail));
            Ok(FireOutcome { at, execution: None, failure })
        }
        Err(error) => Err(error),
    }
}

/// Whether every replica would refuse the same fire again.
fn is_final(error: &ApiError) -> bool {
    let codes = [
        Code::WorkflowPaused,
        Code::PackageUntrusted,
        Code::ResourceNotFound,
        Code::InvalidFields,
        Code::TenantSchemaDamaged,
    ];
    codes.into_iter().any(|code| error.has_code(code))
}

/// The failure as the tenant reads it.
fn shown(error: &WorkError) -> String {
    match error {
        WorkError::Refused(error)
            if error.has_code(Code::TooManyExecutions)
                || error.has_code(Code::TenantDatabaseFull) =>
        {
            bounded(&error.problem.detail)
        }
        WorkError::Schema(_) => {
            "The tables cial_… of the tenant's schema cannot be used.".to_owned()
        }
        WorkError::Refused(_) => PLATFORM_FAILURE.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delay_doubles_up_to_a_bound() {
        let seconds = [0, 1, 4, 5, 6, i32::MAX, -1].map(|failures| error_delay(failures).as_secs());
        assert_eq!(seconds, [10, 20, 160, 320, 320, 320, 10]);
        assert_eq!(error_delay(i32::MAX), MAX_DELAY);
    }
}
