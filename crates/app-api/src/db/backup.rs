//! `backups` and `backup_schedule`: the backups that the store holds, and those that are due.

use chrono::TimeDelta;
use diesel::dsl::exists;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Timestamptz};
use diesel_async::RunQueryDsl;
use protocol::backups::BackupState;
use protocol::spec::Desired;
use protocol::{Slug, Timestamp};
use uuid::Uuid;

use super::columns::TextColumn;
use super::schema::backup_schedule::dsl as schedule;
use super::schema::backups::{self, dsl};
use super::schema::{audit_log, tenant_imports, tenants};
use super::{Conn, Transaction as _};
use crate::http::paging::Window;

/// Rows of one insert: Postgres takes at most 65,535 parameters.
const INSERT_ROWS: usize = 1_000;
/// Two values of a column `state`.
const OPEN: [&str; 2] = [BackupState::Waiting.as_str(), BackupState::Running.as_str()];
const COPIED: [&str; 2] = [BackupState::Complete.as_str(), BackupState::Missing.as_str()];

#[derive(Clone, Debug, PartialEq, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = backups, check_for_backend(diesel::pg::Pg))]
pub struct BackupRow {
    pub id: Uuid,
    pub tenant_id: Uuid,
    #[diesel(deserialize_as = TextColumn<Slug>)]
    pub slug: Slug,
    #[diesel(deserialize_as = TextColumn<BackupState>)]
    pub state: BackupState,
    pub due_at: Timestamp,
    pub requested_by: Option<String>,
    /// The time before which no process copies the tenant: the end of a claim, or of the delay after a failure.
    pub not_before: Timestamp,
    pub failures: i32,
    pub failure: Option<String>,
    pub object: String,
    pub taken_at: Option<Timestamp>,
    pub current_at: Option<Timestamp>,
    pub bytes: Option<i64>,
    pub sha256: Option<Vec<u8>>,
    pub last_start: Option<String>,
}

/// A backup that waits.
#[derive(Clone, Debug, Insertable)]
#[diesel(table_name = backups)]
pub struct NewBackup {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub slug: String,
    pub state: &'static str,
    pub due_at: Timestamp,
    pub requested_by: Option<String>,
    pub not_before: Timestamp,
    pub object: String,
}

/// Returns the last time that was planned. An installation that never planned any begins at `now`.
pub async fn planned_until(conn: &mut Conn, now: Timestamp) -> QueryResult<Timestamp> {
    let first = diesel::insert_into(schedule::backup_schedule);
    first.values(schedule::planned_until.eq(now)).on_conflict_do_nothing().execute(conn).await?;
    schedule::backup_schedule.select(schedule::planned_until).first(conn).await
}

/// Plans the time `due` for each tenant that has no open backup, unless somebody did. `new` makes the row of one.
pub async fn plan(
    conn: &mut Conn,
    due: Timestamp,
    new: impl Fn(Uuid, &str) -> NewBackup + Sync,
) -> QueryResult<usize> {
    let planned = conn.transaction(async |conn| {
        let unplanned = schedule::backup_schedule.filter(schedule::planned_until.lt(due));
        let ours = diesel::update(unplanned).set(schedule::planned_until.eq(due));
        if ours.execute(conn).await? == 0 {
            return QueryResult::Ok(0);
        }
        let open =
            backups::table.filter(dsl::tenant_id.eq(tenants::id)).filter(dsl::state.eq_any(OPEN));
        let importing = tenant_imports::table.filter(tenant_imports::tenant_id.eq(tenants::id));
        let without: Vec<(Uuid, String)> = tenants::table
            .filter(tenants::desired.ne(Desired::Deleted.as_str()))
            .filter(diesel::dsl::not(exists(open)))
            .filter(diesel::dsl::not(exists(importing)))
            .select((tenants::id, tenants::slug))
            .load(conn)
            .await?;
        let rows: Vec<_> = without.iter().map(|(id, slug)| new(*id, slug)).collect();
        let mut inserted = 0;
        for rows in rows.chunks(INSERT_ROWS) {
            let insert = diesel::insert_into(dsl::backups).values(rows.to_vec());
            inserted += insert.on_conflict_do_nothing().execute(conn).await?;
        }
        Ok(inserted)
    });
    planned.await
}

/// Lowers the last time that was planned, unless somebody did.
pub async fn lower_plan(conn: &mut Conn, from: Timestamp, to: Timestamp) -> QueryResult<usize> {
    let ours = schedule::backup_schedule.filter(schedule::planned_until.eq(from));
    diesel::update(ours).set(schedule::planned_until.eq(to)).execute(conn).await
}

/// Inserts a backup that somebody requested. A backup of the tenant that waits already is due at once instead. So is one that the
/// schedule makes at the moment: its copy may be of a time before the request, and loses its claim. A requested backup that runs stays.
pub async fn request(conn: &mut Conn, new: &NewBackup) -> QueryResult<BackupRow> {
    // The open row may end, and another may be of the same time.
    const ATTEMPTS: usize = 5;
    let mut new = new.clone();
    for _ in 0..ATTEMPTS {
        let insert = diesel::insert_into(dsl::backups).values(new.clone()).on_conflict_do_nothing();
        let inserted = insert.returning(BackupRow::as_returning()).get_result(conn).await;
        if let Some(row) = inserted.optional()? {
            return Ok(row);
        }
        let is_waiting = dsl::state.eq(BackupState::Waiting.as_str());
        let is_running = dsl::state.eq(BackupState::Running.as_str());
        let ours = dsl::backups
            .filter(dsl::tenant_id.eq(new.tenant_id))
            .filter(is_waiting.or(is_running.and(dsl::requested_by.is_null())));
        let at_once = (
            dsl::state.eq(BackupState::Waiting.as_str()),
            dsl::requested_by.eq(&new.requested_by),
            dsl::not_before.eq(new.not_before),
        );
        let updated = diesel::update(ours).set(at_once).returning(BackupRow::as_returning());
        if let Some(row) = updated.get_result(conn).await.optional()? {
            return Ok(row);
        }
        if let Some(row) = open(conn, new.tenant_id).await? {
            return Ok(row);
        }
        new.due_at += TimeDelta::milliseconds(1);
    }
    Err(diesel::result::Error::NotFound)
}

/// How many backups of a tenant somebody requested.
pub async fn count_requested(conn: &mut Conn, tenant: Uuid) -> QueryResult<i64> {
    let requested = dsl::backups.filter(dsl::requested_by.is_not_null());
    requested.filter(dsl::tenant_id.eq(tenant)).count().get_result(conn).await
}

/// The times of a claim.
#[derive(Clone, Copy, Debug)]
pub struct ClaimTimes {
    pub now: Timestamp,
    /// Until this time no other process copies the tenant.
    pub until: Timestamp,
    /// A claim or a delay that reaches further than this is from before a step of the clock, and does not count.
    pub latest: Timestamp,
    /// A tenant that was frozen later may be in use still, and is left alone unless somebody requested its backup.
    pub frozen_before: Timestamp,
}

/// Claims at most `limit` backups of tenants that rest.
pub async fn claim(conn: &mut Conn, times: ClaimTimes, limit: i64) -> QueryResult<Vec<BackupRow>> {
    diesel::sql_query(CLAIM)
        .bind::<Timestamptz, _>(times.now)
        .bind::<Timestamptz, _>(times.until)
        .bind::<Timestamptz, _>(times.latest)
        .bind::<Timestamptz, _>(times.frozen_before)
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await
}

const CLAIM: &str = "UPDATE backups SET state = 'running', not_before = $2 WHERE id IN ( \
         SELECT backups.id FROM backups JOIN tenants ON tenants.id = backups.tenant_id \
         WHERE backups.state IN ('waiting', 'running') AND (not_before <= $1 OR not_before > $3) \
             AND tenants.desired <> 'deleted' \
             AND (tenants.state IN ('sleeping', 'stopped', 'error') \
                 OR tenants.state = 'frozen' AND (tenants.state_since <= $4 OR requested_by IS NOT NULL)) \
         ORDER BY due_at, backups.id LIMIT $5 FOR NO KEY UPDATE OF backups SKIP LOCKED \
     ) RETURNING backups.*";

/// Names the object of an attempt, before it is written. Returns `None` when the backup is no longer the claimant's.
pub async fn begin(
    conn: &mut Conn,
    row: &BackupRow,
    object: &str,
) -> QueryResult<Option<BackupRow>> {
    let begun = diesel::update(claimed(row)).set(dsl::object.eq(object));
    begun.returning(BackupRow::as_returning()).get_result(conn).await.optional()
}

/// Prolongs a claim. Returns `None` when the backup was deleted, or another process has claimed it.
pub async fn renew(
    conn: &mut Conn,
    row: &BackupRow,
    until: Timestamp,
) -> QueryResult<Option<Timestamp>> {
    let ours = claimed(row);
    let renewed = diesel::update(ours).set(dsl::not_before.eq(until));
    renewed.returning(dsl::not_before).get_result(conn).await.optional()
}

/// The facts about an archive that the store holds.
#[derive(Clone, Debug)]
pub struct CopiedArchive {
    pub taken_at: Timestamp,
    pub bytes: i64,
    pub sha256: Vec<u8>,
    pub last_start: Option<String>,
    /// The missing part of the archive, with the reason; `None` for a whole archive.
    pub without: Option<String>,
}

/// Returns `false` when the backup is no longer the claimant's.
pub async fn complete(
    conn: &mut Conn,
    row: &BackupRow,
    copied: &CopiedArchive,
) -> QueryResult<bool> {
    let columns = (
        dsl::state.eq(BackupState::Complete.as_str()),
        dsl::failures.eq(0),
        dsl::failure.eq(&copied.without),
        dsl::taken_at.eq(copied.taken_at),
        dsl::bytes.eq(copied.bytes),
        dsl::sha256.eq(&copied.sha256),
        dsl::last_start.eq(&copied.last_start),
    );
    Ok(diesel::update(claimed(row)).set(columns).execute(conn).await? == 1)
}

/// Ends a backup whose tenant did not change since the backup `earlier`.
pub async fn keep_earlier(
    conn: &mut Conn,
    row: &BackupRow,
    earlier: Uuid,
    at: Timestamp,
) -> QueryResult<()> {
    let kept = conn.transaction(async |conn| {
        let current = diesel::update(dsl::backups.find(earlier)).set(dsl::current_at.eq(at));
        current.execute(conn).await?;
        diesel::delete(claimed(row)).execute(conn).await?;
        QueryResult::Ok(())
    });
    kept.await
}

/// Makes a backup wait again until `not_before`. `failures`: how often in a row it has failed.
pub async fn delay(
    conn: &mut Conn,
    row: &BackupRow,
    not_before: Timestamp,
    failures: i32,
    failure: Option<&str>,
) -> QueryResult<usize> {
    let columns = (
        dsl::state.eq(BackupState::Waiting.as_str()),
        dsl::not_before.eq(not_before),
        dsl::failures.eq(failures),
        dsl::failure.eq(failure),
    );
    diesel::update(claimed(row)).set(columns).execute(conn).await
}

/// Deletes a backup that is the claimant's still.
pub async fn abandon(conn: &mut Conn, row: &BackupRow) -> QueryResult<usize> {
    diesel::delete(claimed(row)).execute(conn).await
}

#[diesel::dsl::auto_type(no_type_alias)]
fn claimed(row: &BackupRow) -> _ {
    let (id, until): (Uuid, Timestamp) = (row.id, row.not_before);
    dsl::backups
        .filter(dsl::id.eq(id))
        .filter(dsl::state.eq("running"))
        .filter(dsl::not_before.eq(until))
}

pub async fn by_id(conn: &mut Conn, id: Uuid) -> QueryResult<Option<BackupRow>> {
    dsl::backups.find(id).select(BackupRow::as_select()).first(conn).await.optional()
}

/// Deletes a backup unless it changed meanwhile: its object may be another one then, or may have been written.
pub async fn delete(conn: &mut Conn, row: &BackupRow) -> QueryResult<bool> {
    let same = dsl::backups
        .filter(dsl::id.eq(row.id))
        .filter(dsl::object.eq(&row.object))
        .filter(dsl::state.eq(row.state.as_str()));
    Ok(diesel::delete(same).execute(conn).await? == 1)
}

/// The latest backup of a tenant in the store. Backups of the future do not count: a wrong clock gave them their times.
pub async fn latest(
    conn: &mut Conn,
    tenant: Uuid,
    now: Timestamp,
) -> QueryResult<Option<BackupRow>> {
    dsl::backups
        .filter(dsl::tenant_id.eq(tenant))
        .filter(dsl::state.eq(BackupState::Complete.as_str()))
        .filter(dsl::taken_at.le(now))
        .order(dsl::taken_at.desc())
        .select(BackupRow::as_select())
        .first(conn)
        .await
        .optional()
}

/// The backup of a tenant that waits or runs.
pub async fn open(conn: &mut Conn, tenant: Uuid) -> QueryResult<Option<BackupRow>> {
    let open = dsl::backups.filter(dsl::tenant_id.eq(tenant)).filter(dsl::state.eq_any(OPEN));
    open.select(BackupRow::as_select()).first(conn).await.optional()
}

/// The backups of all tenants, or of one, the newest first.
pub async fn list(
    conn: &mut Conn,
    window: Window,
    tenant: Option<Uuid>,
) -> QueryResult<Vec<BackupRow>> {
    let mut page = dsl::backups
        .order(dsl::id.desc())
        .limit(window.rows())
        .select(BackupRow::as_select())
        .into_boxed();
    if let Some(tenant) = tenant {
        page = page.filter(dsl::tenant_id.eq(tenant));
    }
    if let Some(before) = window.before {
        page = page.filter(dsl::id.lt(before));
    }
    page.load(conn).await
}

/// The backups that were due before `overdue_before` and wait still, that failed, that lack something, or that the store has lost.
pub async fn problems(
    conn: &mut Conn,
    overdue_before: Timestamp,
    limit: i64,
) -> QueryResult<Vec<BackupRow>> {
    let is_overdue = dsl::state.eq_any(OPEN).and(dsl::due_at.lt(overdue_before));
    let is_missing = dsl::state.eq(BackupState::Missing.as_str());
    dsl::backups
        .filter(is_overdue.or(is_missing).or(dsl::failures.gt(0)).or(dsl::failure.is_not_null()))
        .order(dsl::id)
        .limit(limit)
        .select(BackupRow::as_select())
        .load(conn)
        .await
}

/// The backups that the schedule made of tenants that exist, of all or of one.
pub async fn scheduled(conn: &mut Conn, tenant: Option<Uuid>) -> QueryResult<Vec<BackupRow>> {
    let mut rows = dsl::backups
        .filter(dsl::requested_by.is_null())
        .filter(dsl::state.eq_any(COPIED))
        .filter(dsl::tenant_id.eq_any(tenants::table.select(tenants::id)))
        .order((dsl::tenant_id, dsl::taken_at))
        .select(BackupRow::as_select())
        .into_boxed();
    if let Some(tenant) = tenant {
        rows = rows.filter(dsl::tenant_id.eq(tenant));
    }
    rows.load(conn).await
}

/// The ids, objects and sizes of all backups that were copied.
pub async fn objects(conn: &mut Conn) -> QueryResult<Vec<(Uuid, String, String, Option<i64>)>> {
    let copied = dsl::backups.filter(dsl::state.eq_any(COPIED));
    copied.select((dsl::id, dsl::state, dsl::object, dsl::bytes)).load(conn).await
}

/// Moves a backup that was copied from one state to another.
pub async fn set_state(
    conn: &mut Conn,
    ids: &[Uuid],
    (from, to): (BackupState, BackupState),
) -> QueryResult<usize> {
    let rows = dsl::backups.filter(dsl::id.eq_any(ids)).filter(dsl::state.eq(from.as_str()));
    diesel::update(rows).set(dsl::state.eq(to.as_str())).execute(conn).await
}

/// The open backups of tenants that are gone.
pub async fn orphans(conn: &mut Conn) -> QueryResult<Vec<BackupRow>> {
    let living =
        tenants::table.filter(tenants::desired.ne(Desired::Deleted.as_str())).select(tenants::id);
    dsl::backups
        .filter(dsl::state.eq_any(OPEN))
        .filter(diesel::dsl::not(dsl::tenant_id.eq_any(living)))
        .select(BackupRow::as_select())
        .load(conn)
        .await
}

/// Whether the audit log has a change of the tenant at or after `since`, of itself or of its packages, workflows and triggers.
/// `ignored`: actions that change nothing that a backup holds.
pub async fn is_changed_since(
    conn: &mut Conn,
    slug: &Slug,
    since: Timestamp,
    ignored: &[&str],
) -> QueryResult<bool> {
    let below = format!("{slug}/%");
    let changes = audit_log::table
        .filter(audit_log::at.ge(since))
        .filter(audit_log::action.ne_all(ignored.to_vec()))
        .filter(audit_log::resource.eq(slug.as_str()).or(audit_log::resource.like(below)));
    diesel::select(exists(changes)).get_result(conn).await
}
