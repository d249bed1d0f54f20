//! Makes tenants due, copies those that rest, and deletes old backups. Every replica does so; a claim keeps two replicas from copying
//! one tenant at the same time.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use protocol::Timestamp;
use protocol::backups::BackupState;
use serde_json::json;
use service::api_error::ApiError;
use tokio::task::JoinSet;
use tokio::time::{MissedTickBehavior, interval};
use uuid::Uuid;

use super::copy::{ACTOR, CLAIM_LIFETIME, Outcome, copy};
use super::{Backups, delete_with_archive, new_backup, resource, rules};
use crate::app::App;
use crate::audit::{Action, Actor, Entry};
use crate::db::backup::{self, BackupRow, ClaimTimes, CopiedArchive};
use crate::db::{Transaction as _, audit_log};

/// A tenant that rests is copied at most this long after it is due.
const POLL_INTERVAL: Duration = Duration::from_secs(1);
/// The time between two comparisons of the rows with the store.
const CHECK_INTERVAL: Duration = Duration::from_secs(3_600);
/// The orchestrator does two transfers at once: one is left for people.
const MAX_COPIES: usize = 1;
/// After so many polls the plan is read again, even if no time is due: the clock may have been wrong when it was read.
const POLLS_OF_PLAN: u32 = 60;
/// Objects that a store may list besides those of the rows.
const MAX_STRAY_OBJECTS: usize = 100_000;
/// Copies under way may take so long when the process stops.
const STOP_TIMEOUT: Duration = Duration::from_secs(5);
/// Longer reasons are cut.
const MAX_FAILURE_CHARS: usize = 300;
/// Longer than any claim and any delay.
const MAX_WAIT: Duration = Duration::from_secs(2 * 3_600);
const _: () = assert!(MAX_WAIT.as_secs() > rules::MAX_RETRY_DELAY.as_secs());
const _: () = assert!(MAX_WAIT.as_secs() > CLAIM_LIFETIME.as_secs());

/// Works until the process stops.
pub async fn run(app: App) {
    let Some(backups) = &app.backups else { return };
    let mut copies = JoinSet::new();
    let work = async {
        tokio::join!(
            make_due(&app, backups),
            copy_all(&app, &mut copies),
            check_store(&app, backups)
        );
    };
    app.stop.run_until_cancelled(work).await;
    // The archives of this process break off now, and the store takes back what it has of them.
    let ended = async { while copies.join_next().await.is_some() {} };
    let _ = tokio::time::timeout(STOP_TIMEOUT, ended).await;
}

/// Plans each time of the schedule.
async fn make_due(app: &App, backups: &Backups) {
    let mut ticks = ticks(POLL_INTERVAL);
    let mut next: Option<Timestamp> = None;
    let mut polls = 0;
    loop {
        ticks.tick().await;
        let now = app.clock.now();
        polls += 1;
        let is_early = next.is_some_and(|next| next > now) && polls < POLLS_OF_PLAN;
        if !app.is_database_ready() || is_early {
            continue;
        }
        polls = 0;
        match plan(app, backups, now).await {
            Ok(planned_until) => next = backups.schedule.next_after(planned_until),
            Err(error) => warn(&error, "planning backups failed"),
        }
    }
}

async fn plan(app: &App, backups: &Backups, now: Timestamp) -> anyhow::Result<Timestamp> {
    let mut conn = app.database.conn().await?;
    let planned_until = backup::planned_until(&mut conn, now).await?;
    if rules::is_of_wrong_clock(planned_until, now) {
        tracing::warn!(%planned_until, "backups were planned ahead by a clock that was wrong");
        backup::lower_plan(&mut conn, planned_until, now).await?;
        return Ok(now);
    }
    let Some(due) = rules::last_due(&backups.schedule, planned_until, now) else {
        return Ok(planned_until);
    };
    let new = |id, slug: &str| new_backup(Uuid::now_v7(), (id, slug), due);
    let tenants = backup::plan(&mut conn, due, new).await?;
    tracing::info!(due_at = %due, tenants, "backups planned");
    Ok(due)
}

/// Copies tenants that are due and rest, a few at once.
async fn copy_all(app: &App, copies: &mut JoinSet<()>) {
    let mut ticks = ticks(POLL_INTERVAL);
    loop {
        tokio::select! {
            _ = ticks.tick() => {}
            Some(ended) = copies.join_next() => if let Err(error) = ended {
                // The claim runs out.
                tracing::error!(%error, "a backup panicked");
            }
        }
        let free = MAX_COPIES.saturating_sub(copies.len());
        if !app.is_database_ready() || free == 0 {
            continue;
        }
        match claim(app, free).await {
            Ok(claimed) => {
                for row in claimed {
                    copies.spawn(back_up(app.clone(), row));
                }
            }
            Err(error) => warn(&error, "claiming backups failed"),
        }
    }
}

async fn claim(app: &App, limit: usize) -> anyhow::Result<Vec<BackupRow>> {
    let now = app.clock.now();
    let times = ClaimTimes {
        now,
        until: now + CLAIM_LIFETIME,
        latest: now + MAX_WAIT,
        frozen_before: now - rules::FROZEN_FOR,
    };
    Ok(backup::claim(&mut *app.database.conn().await?, times, i64::try_from(limit)?).await?)
}

async fn back_up(app: App, mut row: BackupRow) {
    let Some(backups) = &app.backups else { return };
    let copied = copy(&app, backups, &mut row).await;
    // A process that stops has failed nobody: its claim runs out.
    if app.stop.is_cancelled() {
        return;
    }
    if let Err(error) = record(&app, backups, &row, copied).await {
        warn(&error.into_error(), "recording a backup failed");
    }
}

async fn record(
    app: &App,
    backups: &Backups,
    row: &BackupRow,
    copied: Result<Outcome, ApiError>,
) -> Result<(), ApiError> {
    let now = app.clock.now();
    match copied {
        Ok(Outcome::Copied(archive)) => {
            if !complete(app, row, &archive).await? {
                tracing::info!(slug = %row.slug, backup = %row.id, "backup was deleted while it was made");
                return backups.store.remove(&row.object).await.map_err(super::unavailable);
            }
            tracing::info!(tenant = %row.tenant_id, slug = %row.slug, backup = %row.id, bytes = archive.bytes, "tenant backed up");
            expire(app, backups, Some(row.tenant_id)).await?;
        }
        Ok(Outcome::Unchanged(earlier, checked_at)) => {
            let mut conn = app.conn().await?;
            backup::keep_earlier(&mut conn, row, earlier, checked_at).await?;
        }
        Ok(Outcome::NoData) => {
            backup::abandon(&mut *app.conn().await?, row).await?;
        }
        Ok(Outcome::Awake) => {
            let mut conn = app.conn().await?;
            let failure = row.failure.as_deref();
            let not_before = now + rules::awake_delay(row.due_at, now);
            backup::delay(&mut conn, row, not_before, row.failures, failure).await?;
        }
        Ok(Outcome::Lost) => {}
        Err(error) => {
            let failures = row.failures.saturating_add(1);
            let failure = shown(&error.problem.detail);
            let not_before = now + rules::retry_delay(failures);
            let error = format!("{:#}", error.into_error());
            tracing::warn!(tenant = %row.tenant_id, slug = %row.slug, backup = %row.id, error, "backup failed");
            let mut conn = app.conn().await?;
            backup::delay(&mut conn, row, not_before, failures, Some(&failure)).await?;
        }
    }
    Ok(())
}

/// Returns `false` when the backup is no longer the claimant's.
async fn complete(app: &App, row: &BackupRow, archive: &CopiedArchive) -> Result<bool, ApiError> {
    let archive =
        CopiedArchive { without: archive.without.as_deref().map(shown), ..archive.clone() };
    let entry = Entry::new(Actor::command(ACTOR), Action::BackupCreate, resource(row))
        .after(json!({ "id": row.tenant_id, "bytes": archive.bytes }));
    let now = app.clock.now();
    let mut conn = app.conn().await?;
    let completed = conn.transaction(async |conn| -> Result<_, ApiError> {
        let is_ours = backup::complete(conn, row, &archive).await?;
        if is_ours {
            audit_log::append(conn, &entry, now).await?;
        }
        Ok(is_ours)
    });
    completed.await
}

fn shown(detail: &str) -> String {
    let detail = detail.chars().filter(|c| !c.is_control());
    detail.take(MAX_FAILURE_CHARS).collect()
}

/// Deletes the backups that the retention does not keep, of one tenant or of all.
async fn expire(app: &App, backups: &Backups, tenant: Option<Uuid>) -> Result<(), ApiError> {
    let (rows, now) = (backup::scheduled(&mut *app.conn().await?, tenant).await?, app.clock.now());
    let mut groups: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let mut expired = BTreeSet::new();
    for row in &rows {
        // A wrong clock gave a backup a time of the future. As the latest backup it would displace the real ones.
        let Some(taken_at) = row.taken_at.filter(|taken_at| *taken_at <= now) else { continue };
        if row.state == BackupState::Complete {
            // The rules count backups without the schema apart, so that they displace no whole ones.
            let is_whole = row.failure.is_none();
            groups.entry((row.tenant_id, is_whole)).or_default().push((row.id, taken_at));
        } else if backups.retention.forgets(taken_at, now) {
            expired.insert(row.id);
        }
    }
    expired.extend(groups.values().flat_map(|rows| backups.retention.expired(rows)));
    for row in rows.into_iter().filter(|row| expired.contains(&row.id)) {
        let (slug, backup) = (row.slug.clone(), row.id);
        delete_with_archive(app, backups, row, Actor::command(ACTOR)).await?;
        tracing::info!(%slug, %backup, "old backup deleted");
    }
    Ok(())
}

/// Compares the rows with the store now and then.
async fn check_store(app: &App, backups: &Backups) {
    let mut ticks = ticks(CHECK_INTERVAL);
    loop {
        ticks.tick().await;
        while !app.is_database_ready() {
            tokio::time::sleep(POLL_INTERVAL).await;
        }
        if let Err(error) = check(app, backups).await {
            warn(&error, "checking the store of backups failed");
        }
        if let Err(error) = expire(app, backups, None).await {
            warn(&error.into_error(), "deleting old backups failed");
        }
    }
}

/// Marks backups whose object is gone, or has another size, and those whose object came back.
async fn check(app: &App, backups: &Backups) -> anyhow::Result<()> {
    let orphans = backup::orphans(&mut *app.database.conn().await?).await?;
    for row in orphans {
        // A backup whose object cannot be removed keeps its row; the others go.
        if let Err(error) = delete_with_archive(app, backups, row, Actor::command(ACTOR)).await {
            warn(&error.into_error(), "deleting the backup of a deleted tenant failed");
        }
    }
    // The rows first: an object that is written meanwhile is not missed.
    let rows = backup::objects(&mut *app.database.conn().await?).await?;
    let stored = backups.store.list(rows.len() + MAX_STRAY_OBJECTS).await?;
    let is_there = |object: &str, bytes: Option<i64>| {
        stored.get(object).is_some_and(|found| i64::try_from(*found).ok() == bytes)
    };
    for (from, to) in [
        (BackupState::Complete, BackupState::Missing),
        (BackupState::Missing, BackupState::Complete),
    ] {
        let is_wrong = |state: &str, there: bool| {
            state == from.as_str() && there == (to == BackupState::Complete)
        };
        let ids: Vec<_> = rows
            .iter()
            .filter(|(_, state, object, bytes)| is_wrong(state, is_there(object, *bytes)))
            .map(|(id, ..)| *id)
            .collect();
        let mut conn = app.database.conn().await?;
        let changed = backup::set_state(&mut conn, &ids, (from, to)).await?;
        if changed > 0 {
            tracing::warn!(backups = changed, state = to.as_str(), "backups changed in the store");
        }
    }
    Ok(())
}

fn ticks(period: Duration) -> tokio::time::Interval {
    let mut ticks = interval(period);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    ticks
}

fn warn(error: &anyhow::Error, message: &'static str) {
    tracing::warn!(error = format!("{error:#}"), message);
}
