//! Executes what [`super::progress`] decides: one transaction for each command. Makes no decision.
//!
//! Every replica executes; a command takes effect only while the rollout is in the state in which it was decided.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::body::to_bytes;
use protocol::rollouts::{MemberState, RolloutState};
use protocol::{State, TenantId};
use serde_json::json;
use service::api_error::ApiError;
use tokio::time::{MissedTickBehavior, interval, sleep};
use uuid::Uuid;

use super::progress::{self, AfterFailure, Command, Observation, Progress, Responses};
use super::window::Window;
use crate::app::App;
use crate::apps::{self, release_name};
use crate::audit::{Action, Actor, Entry, Resource};
use crate::db::change_listener::ChangeListener;
use crate::db::rollout::{self, Mark, Member, Rollout};
use crate::db::{Transaction as _, app as db_app, audit_log, tenant};
use crate::tenant::Tenant;
use crate::tenant_actions::described_release;

/// The loop runs at least this often: windows open and tenants settle without a change of the tables.
const TICK: Duration = Duration::from_secs(1);
const RECONNECT_DELAY: Duration = Duration::from_millis(500);
const LOG_TIMEOUT: Duration = Duration::from_secs(2);
const MAX_LOG_BYTES: usize = 8 << 10;

/// Drives all rollouts for as long as the future is polled.
pub async fn run(app: &App) {
    loop {
        if let Err(error) = follow_changes(app).await {
            tracing::warn!(error = format!("{error:#}"), "rollouts failed, retrying");
        }
        sleep(RECONNECT_DELAY).await;
    }
}

async fn follow_changes(app: &App) -> anyhow::Result<()> {
    let mut changes = ChangeListener::connect(&app.database).await?;
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            change = changes.next_change() => change?,
        }
        let active = rollout::active(&mut *app.database.conn().await?).await?;
        for rollout in active {
            let id = rollout.id;
            // The other rollouts go on.
            if let Err(error) = step(app, rollout).await {
                tracing::warn!(rollout = %id, error = format!("{error:#}"), "rollout step failed");
            }
        }
    }
}

/// A rollout with the rows of its tenants.
struct LoadedRollout {
    app: db_app::App,
    rollout: Rollout,
    members: BTreeMap<Uuid, Member>,
    tenants: BTreeMap<Uuid, Tenant>,
}

/// Executes the commands that are due. Its own changes wake the loop again.
async fn step(app: &App, rollout: Rollout) -> anyhow::Result<()> {
    let loaded = {
        let mut conn = app.database.conn().await?;
        let Some(of) = db_app::by_id(&mut conn, rollout.app_id).await? else { return Ok(()) };
        let members = rollout::members(&mut conn, rollout.id).await?;
        let tenants = tenant::of_app(&mut conn, of.id).await?;
        LoadedRollout {
            app: of,
            rollout,
            members: members.into_iter().map(|member| (member.tenant_id, member)).collect(),
            tenants: tenants.into_iter().map(|tenant| (tenant.id, tenant)).collect(),
        }
    };
    let progress = Progress {
        state: loaded.rollout.state,
        release: release_name(loaded.rollout.release),
        window: Window::parse(loaded.rollout.window.as_deref()).map_err(|rule| {
            anyhow::anyhow!("the window of rollout {} {rule}", loaded.rollout.id)
        })?,
        max_failures: usize::try_from(loaded.rollout.max_failures).unwrap_or_default(),
        max_error_percent: loaded.rollout.max_error_percent.unsigned_abs(),
        watch: Duration::from_secs(loaded.rollout.watch_seconds.unsigned_abs().into()),
        members: loaded.members.values().map(progress_member).collect(),
    };
    let observed = |tenant: &Tenant| Observation {
        desired: tenant.desired,
        state: tenant.state,
        since: tenant.state_since,
        has_untried_variables: tenant.has_untried_variables(),
        release: tenant.app.as_ref().map(|app| app.release.clone()).unwrap_or_default(),
        is_pinned: tenant.is_pinned(),
        never_sleeps: app.policy.under(&tenant.policy).sleep_after_seconds == 0,
    };
    let tenants = loaded.tenants.iter().map(|(id, tenant)| (*id, observed(tenant))).collect();
    for command in progress::next(&progress, &tenants, app.clock.now()) {
        execute(app, &loaded, &command).await.map_err(ApiError::into_error)?;
    }
    Ok(())
}

fn progress_member(member: &Member) -> progress::Member {
    progress::Member {
        tenant: member.tenant_id,
        wave: member.wave,
        state: member.state,
        was_failing: member.was_failing,
        changed_at: member.changed_at,
        settled_at: member.settled_at,
        responses: responses_of(member),
    }
}

fn responses_of(member: &Member) -> Responses {
    Responses {
        all: member.responses.unsigned_abs(),
        server_errors: member.server_errors.unsigned_abs(),
    }
}

async fn execute(app: &App, loaded: &LoadedRollout, command: &Command) -> Result<(), ApiError> {
    let release = loaded.rollout.release;
    match command {
        Command::Move(id) => {
            let Some((tenant, _)) = loaded.tenant(*id) else { return Ok(()) };
            let was_failing = tenant.state == State::Error;
            let mark = Mark { state: MemberState::Moving, reason: None, was_failing };
            move_tenant(app, loaded, tenant, release, Some(mark)).await
        }
        Command::MoveBack(id) => {
            let Some((tenant, member)) = loaded.tenant(*id) else { return Ok(()) };
            let Member { reason, was_failing, .. } = member;
            let back = Mark {
                state: MemberState::RolledBack,
                reason: reason.as_deref(),
                was_failing: *was_failing,
            };
            // A tenant that failed stays recorded as such.
            let mark = (member.state != MemberState::Failed).then_some(back);
            move_tenant(app, loaded, tenant, member.from_number, mark).await
        }
        Command::Mark(id, state, reason) => {
            let Some(member) = loaded.members.get(id) else { return Ok(()) };
            let mark = Mark { state: *state, reason: *reason, was_failing: member.was_failing };
            let (mut conn, now) = (app.conn().await?, app.clock.now());
            conn.transaction(async |conn| -> Result<_, ApiError> {
                if rollout::lock(conn, loaded.rollout.id).await? == Some(loaded.rollout.state) {
                    rollout::mark_member(conn, loaded.rollout.id, *id, mark, now).await?;
                }
                Ok(())
            })
            .await
        }
        Command::Settle(id) => {
            let mut conn = app.conn().await?;
            rollout::set_settled(&mut conn, loaded.rollout.id, *id, app.clock.now()).await?;
            Ok(())
        }
        Command::Fail(id, after) => {
            let Some((tenant, member)) = loaded.tenant(*id) else { return Ok(()) };
            fail(app, loaded, (tenant, member), *after).await
        }
        Command::FailByErrors { tenant, wave } => {
            let Some((tenant, member)) = loaded.tenant(*tenant) else { return Ok(()) };
            fail_by_errors(app, loaded, (tenant, member), *wave).await
        }
        Command::Finish(state) => finish(app, loaded, *state).await,
    }
}

impl LoadedRollout {
    fn tenant(&self, id: Uuid) -> Option<(&Tenant, &Member)> {
        Some((self.tenants.get(&id)?, self.members.get(&id)?))
    }

    fn resource(&self) -> Resource {
        Resource::new("app", &self.app.slug)
    }
}

/// Moves one tenant, and records it in the same transaction. A lost race needs no handling: the next step decides again from the
/// new rows.
async fn move_tenant(
    app: &App,
    loaded: &LoadedRollout,
    tenant: &Tenant,
    number: i32,
    mark: Option<Mark<'_>>,
) -> Result<(), ApiError> {
    let (rollout, now) = (&loaded.rollout, app.clock.now());
    let mut conn = app.conn().await?;
    let moved = conn
        .transaction(async |conn| -> Result<_, ApiError> {
            if rollout::lock(conn, rollout.id).await? != Some(rollout.state) {
                return Ok(false);
            }
            let name = release_name(number);
            let followed = apps::followed(conn, loaded.app.slug.as_str(), Some(&name)).await?;
            let status = tenant.status_on_other_release(now);
            if tenant::set_release(conn, tenant, &followed, &status).await?.is_none() {
                return Ok(false);
            }
            if let Some(mark) = mark {
                rollout::mark_member(conn, rollout.id, tenant.id, mark, now).await?;
            }
            let resource = Resource::tenant(&tenant.slug);
            let entry = Entry::new(Actor::command("rollout"), Action::TenantRelease, resource)
                .changed(
                    described_release(tenant.app.as_ref()),
                    described_release(Some(&followed.tenant_app)),
                );
            audit_log::append(conn, &entry, now).await?;
            Ok(true)
        })
        .await?;
    if moved {
        let release = release_name(number);
        tracing::info!(rollout = %rollout.id, tenant = %tenant.id, slug = %tenant.slug, release, "tenant moved by a rollout");
        app.reconcile.notify(tenant.tenant_id());
    }
    Ok(())
}

async fn fail(
    app: &App,
    loaded: &LoadedRollout,
    (tenant, member): (&Tenant, &Member),
    after: AfterFailure,
) -> Result<(), ApiError> {
    let rollout = &loaded.rollout;
    // A tenant that is recorded as failed runs its earlier release again.
    let is_known = member.state == MemberState::Failed;
    let why = if is_known { &member.reason } else { &tenant.state_reason };
    // The first line alone: the following lines are output of the program, which no audit entry may hold.
    let why = why.as_deref().and_then(|why| why.lines().next()).unwrap_or("It gave no reason.");
    let name = release_name(rollout.release);
    let reason = format!("{} does not run on {name}: {why}", tenant.slug);
    let log =
        if is_known { rollout.log.clone() } else { last_lines(app, tenant.tenant_id()).await };
    record_failure(app, loaded, (tenant, member), &FailureRecord { why, reason, log }, after).await
}

/// The tenant with the most server errors of its wave is recorded as failed.
async fn fail_by_errors(
    app: &App,
    loaded: &LoadedRollout,
    (tenant, member): (&Tenant, &Member),
    wave: Responses,
) -> Result<(), ApiError> {
    let (rollout, own) = (&loaded.rollout, responses_of(member));
    let why = format!(
        "{} of its {} responses on the release had a status of 5xx, or were none.",
        own.server_errors, own.all
    );
    let reason = format!(
        "{} of {} responses of wave {} on {} had a status of 5xx, or were none: more than {} %. Most of these were of {}: \
         {} of {}.",
        wave.server_errors,
        wave.all,
        member.wave,
        release_name(rollout.release),
        rollout.max_error_percent,
        tenant.slug,
        own.server_errors,
        own.all,
    );
    let log = last_lines(app, tenant.tenant_id()).await;
    let failure = FailureRecord { why: &why, reason, log };
    record_failure(app, loaded, (tenant, member), &failure, AfterFailure::RollBack).await
}

/// A failure as the rows record it.
struct FailureRecord<'a> {
    /// For the tenant.
    why: &'a str,
    /// For the rollout.
    reason: String,
    log: Option<String>,
}

async fn record_failure(
    app: &App,
    loaded: &LoadedRollout,
    (tenant, member): (&Tenant, &Member),
    FailureRecord { why, reason, log }: &FailureRecord<'_>,
    after: AfterFailure,
) -> Result<(), ApiError> {
    let rollout = &loaded.rollout;
    let state = match after {
        AfterFailure::Continue => rollout.state,
        AfterFailure::RollBack => RolloutState::RollingBack,
    };
    let mark =
        Mark { state: MemberState::Failed, reason: Some(*why), was_failing: member.was_failing };
    let name = release_name(rollout.release);
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if rollout::lock(conn, rollout.id).await? != Some(rollout.state) {
            return Ok(());
        }
        rollout::mark_member(conn, rollout.id, tenant.id, mark, now).await?;
        rollout::set_failure(conn, rollout.id, state, reason, log.as_deref()).await?;
        if after == AfterFailure::RollBack {
            let entry = Entry::new(Actor::command("rollout"), Action::RolloutFail, loaded.resource())
                .after(json!({ "id": rollout.id, "release": name, "reason": reason }));
            audit_log::append(conn, &entry, now).await?;
        }
        tracing::warn!(rollout = %rollout.id, app = %loaded.app.slug, reason, ?after, "tenant failed in a rollout");
        Ok(())
    })
    .await
}

async fn finish(app: &App, loaded: &LoadedRollout, state: RolloutState) -> Result<(), ApiError> {
    let rollout = &loaded.rollout;
    let (mut conn, now) = (app.conn().await?, app.clock.now());
    conn.transaction(async |conn| -> Result<_, ApiError> {
        if rollout::lock(conn, rollout.id).await? != Some(rollout.state) {
            return Ok(());
        }
        rollout::set_state(conn, rollout.id, state, now).await?;
        let after = json!({
            "id": rollout.id, "release": release_name(rollout.release), "state": state,
        });
        let entry = Entry::new(Actor::command("rollout"), Action::RolloutFinish, loaded.resource());
        audit_log::append(conn, &entry.after(after), now).await?;
        tracing::info!(rollout = %rollout.id, app = %loaded.app.slug, %state, "rollout ended");
        Ok(())
    })
    .await
}

/// The end of a tenant's log, unless reading takes too long.
async fn last_lines(app: &App, id: TenantId) -> Option<String> {
    let read = async {
        let body = app.orchestrator.logs(id, "tail=20").await.ok()?;
        let bytes = to_bytes(body, MAX_LOG_BYTES * 8).await.ok()?;
        let end = &bytes[bytes.len().saturating_sub(MAX_LOG_BYTES)..];
        // Postgres text cannot hold NUL.
        Some(String::from_utf8_lossy(end).replace('\0', ""))
    };
    tokio::time::timeout(LOG_TIMEOUT, read).await.ok()?
}
