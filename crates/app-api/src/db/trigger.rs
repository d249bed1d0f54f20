//! `triggers`: what runs workflows of tenants, and when. One index finds what is due in all tenants.

use std::collections::BTreeMap;
use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use protocol::triggers::{CatchUp, TriggerKind};
use serde_json::Value;
use uuid::Uuid;

use super::Conn;
use super::columns::{JsonColumn, TextColumn};
use super::schema::triggers::{self, dsl};

#[derive(Clone, Debug, PartialEq, Queryable, QueryableByName, Selectable)]
#[diesel(table_name = triggers, check_for_backend(diesel::pg::Pg))]
pub struct TriggerRow {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub name: String,
    pub workflow: String,
    #[diesel(deserialize_as = TextColumn<TriggerKind>)]
    pub kind: TriggerKind,
    pub cron: Option<String>,
    pub time_zone: Option<String>,
    #[diesel(deserialize_as = TextColumn<CatchUp>)]
    pub catch_up: CatchUp,
    #[diesel(deserialize_as = JsonColumn<BTreeMap<String, Value>>)]
    pub context: BTreeMap<String, Value>,
    pub paused: bool,
    pub next_fire_at: Option<Timestamp>,
    /// The time before which no process fires the trigger: the end of a claim, or of the delay after a failure.
    pub not_before: Timestamp,
    /// How often in a row the fire failed.
    pub failures: i32,
    pub last_fire_at: Option<Timestamp>,
    pub last_execution_id: Option<Uuid>,
    pub last_failure: Option<String>,
    pub created_by: String,
    pub created_at: Timestamp,
}

/// The result of a fire.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FireOutcome {
    pub at: Timestamp,
    /// `None`: the fire created no execution.
    pub execution: Option<Uuid>,
    pub failure: Option<String>,
}

/// Inserts a trigger; `false` when the tenant has one of this name.
pub async fn insert(conn: &mut Conn, row: &TriggerRow) -> QueryResult<bool> {
    let columns = (
        dsl::id.eq(row.id),
        dsl::tenant_id.eq(row.tenant_id),
        dsl::name.eq(&row.name),
        dsl::workflow.eq(&row.workflow),
        dsl::kind.eq(row.kind.as_str()),
        dsl::cron.eq(&row.cron),
        dsl::time_zone.eq(&row.time_zone),
        dsl::catch_up.eq(row.catch_up.as_str()),
        dsl::context.eq(serde_json::json!(row.context)),
        dsl::next_fire_at.eq(row.next_fire_at),
        dsl::not_before.eq(row.not_before),
        dsl::created_by.eq(&row.created_by),
        dsl::created_at.eq(row.created_at),
    );
    let insert = diesel::insert_into(dsl::triggers).values(columns);
    let inserted = insert.on_conflict((dsl::tenant_id, dsl::name)).do_nothing();
    Ok(inserted.execute(conn).await? == 1)
}

pub async fn count(conn: &mut Conn, tenant: Uuid) -> QueryResult<i64> {
    dsl::triggers.filter(dsl::tenant_id.eq(tenant)).count().get_result(conn).await
}

/// The triggers of a tenant by their names, with empty contexts: hundreds of them would take much memory.
pub async fn list(conn: &mut Conn, tenant: Uuid, limit: i64) -> QueryResult<Vec<TriggerRow>> {
    let query = "SELECT id, tenant_id, name, workflow, kind, cron, time_zone, catch_up, '{}'::jsonb AS context, paused, \
             next_fire_at, not_before, failures, last_fire_at, last_execution_id, last_failure, created_by, created_at \
         FROM triggers WHERE tenant_id = $1 ORDER BY name LIMIT $2";
    let query = diesel::sql_query(query).bind::<SqlUuid, _>(tenant);
    query.bind::<BigInt, _>(limit).load(conn).await
}

/// The id alone, which can be read whatever the row holds.
pub async fn id_by_name(conn: &mut Conn, tenant: Uuid, name: &str) -> QueryResult<Option<Uuid>> {
    let named = dsl::triggers.filter(dsl::tenant_id.eq(tenant)).filter(dsl::name.eq(name));
    named.select(dsl::id).first(conn).await.optional()
}

pub async fn by_name(conn: &mut Conn, tenant: Uuid, name: &str) -> QueryResult<Option<TriggerRow>> {
    let named = dsl::triggers.filter(dsl::tenant_id.eq(tenant)).filter(dsl::name.eq(name));
    named.select(TriggerRow::as_select()).first(conn).await.optional()
}

pub async fn by_id(conn: &mut Conn, id: Uuid) -> QueryResult<Option<TriggerRow>> {
    dsl::triggers.find(id).select(TriggerRow::as_select()).first(conn).await.optional()
}

/// The names among `workflows` that triggers of a tenant run.
pub async fn used_workflows(
    conn: &mut Conn,
    tenant: Uuid,
    workflows: &[String],
) -> QueryResult<Vec<String>> {
    let used =
        dsl::triggers.filter(dsl::tenant_id.eq(tenant)).filter(dsl::workflow.eq_any(workflows));
    used.select(dsl::workflow).distinct().order(dsl::workflow).load(conn).await
}

pub async fn delete(conn: &mut Conn, id: Uuid) -> QueryResult<bool> {
    Ok(diesel::delete(dsl::triggers.find(id)).execute(conn).await? == 1)
}

/// Pauses a trigger, or resumes it with its next time. Returns whether that changed anything.
pub async fn set_paused(
    conn: &mut Conn,
    id: Uuid,
    paused: bool,
    (next_fire_at, now): (Option<Timestamp>, Timestamp),
) -> QueryResult<bool> {
    let other = dsl::triggers.find(id).filter(dsl::paused.ne(paused));
    let columns = (
        dsl::paused.eq(paused),
        dsl::next_fire_at.eq(next_fire_at),
        dsl::not_before.eq(now),
        dsl::failures.eq(0),
    );
    Ok(diesel::update(other).set(columns).execute(conn).await? == 1)
}

/// The columns of a claimed trigger from which its times follow. JSON that a tenant wrote is not among them: a value that cannot be
/// decoded would fail the claim of every tenant.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
#[diesel(table_name = triggers, check_for_backend(diesel::pg::Pg))]
pub struct ClaimedTrigger {
    pub id: Uuid,
    pub tenant_id: Uuid,
    pub cron: Option<String>,
    pub time_zone: Option<String>,
    #[diesel(deserialize_as = TextColumn<CatchUp>)]
    pub catch_up: CatchUp,
    pub next_fire_at: Option<Timestamp>,
    pub failures: i32,
}

/// Claims at most `limit` triggers that are due at `now`, a few of each tenant and none of those in `busy`: no other process claims
/// them before `until`. A claim or a delay that reaches further than `max_delay` is from before a step of the clock, and does not count.
pub async fn claim(
    conn: &mut Conn,
    (now, until): (Timestamp, Timestamp),
    max_delay: Duration,
    busy: &[Uuid],
    limit: i64,
) -> QueryResult<Vec<ClaimedTrigger>> {
    diesel::sql_query(CLAIM)
        .bind::<Timestamptz, _>(now)
        .bind::<Timestamptz, _>(until)
        .bind::<Timestamptz, _>(now + max_delay)
        .bind::<Array<SqlUuid>, _>(busy)
        .bind::<BigInt, _>(limit)
        .load(conn)
        .await
}

/// The query of [`claim`]: $1 now, $2 until, $3 the latest delay, $4 busy tenants, $5 the limit.
pub const CLAIM: &str = "UPDATE triggers SET not_before = $2 WHERE id IN ( \
         SELECT id FROM triggers WHERE next_fire_at <= $1 AND (not_before <= $1 OR not_before > $3) \
             AND id IN ( \
                 SELECT id FROM ( \
                     SELECT id, row_number() OVER (PARTITION BY tenant_id ORDER BY next_fire_at, id) AS place \
                     FROM triggers WHERE next_fire_at <= $1 AND (not_before <= $1 OR not_before > $3) \
                         AND tenant_id <> ALL ($4) \
                 ) AS due WHERE place <= 8 \
             ) \
         ORDER BY next_fire_at LIMIT $5 FOR NO KEY UPDATE SKIP LOCKED \
     ) RETURNING id, tenant_id, cron, time_zone, catch_up, next_fire_at, failures";

/// Prolongs the claim of a trigger and returns the whole row; `None` when its time is not `seen` any more: it fired, was paused or
/// was deleted meanwhile.
pub async fn renew(
    conn: &mut Conn,
    id: Uuid,
    seen: Timestamp,
    until: Timestamp,
) -> QueryResult<Option<TriggerRow>> {
    let unchanged = dsl::triggers.find(id).filter(dsl::next_fire_at.eq(seen));
    let renewed = diesel::update(unchanged).set(dsl::not_before.eq(until));
    renewed.returning(TriggerRow::as_returning()).get_result(conn).await.optional()
}

/// Moves a trigger from the time `seen` to `next`; nobody fires it before `not_before`. Returns whether its time was `seen` still.
pub async fn advance(
    conn: &mut Conn,
    id: Uuid,
    (seen, next): (Timestamp, Option<Timestamp>),
    not_before: Timestamp,
    outcome: Option<&FireOutcome>,
) -> QueryResult<bool> {
    let unchanged = dsl::triggers.find(id).filter(dsl::next_fire_at.eq(seen));
    let columns = (
        dsl::next_fire_at.eq(next),
        dsl::not_before.eq(not_before),
        dsl::failures.eq(0),
        outcome.map(|outcome| {
            (
                dsl::last_fire_at.eq(outcome.at),
                dsl::last_execution_id.eq(outcome.execution),
                dsl::last_failure.eq(&outcome.failure),
            )
        }),
    );
    Ok(diesel::update(unchanged).set(columns).execute(conn).await? == 1)
}

/// A fire that is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FireDelay<'a> {
    pub not_before: Timestamp,
    pub failures: i32,
    pub failure: &'a str,
}

/// Leaves a trigger at its time, if that is `seen` still.
pub async fn delay(
    conn: &mut Conn,
    id: Uuid,
    seen: Option<Timestamp>,
    delay: &FireDelay<'_>,
) -> QueryResult<usize> {
    let armed = dsl::triggers.find(id).filter(dsl::next_fire_at.eq(seen));
    let columns = (
        dsl::not_before.eq(delay.not_before),
        dsl::failures.eq(delay.failures),
        dsl::last_failure.eq(delay.failure),
    );
    diesel::update(armed).set(columns).execute(conn).await
}

/// Records what became of a fire that no schedule made.
pub async fn record(conn: &mut Conn, id: Uuid, outcome: &FireOutcome) -> QueryResult<usize> {
    let columns = (
        dsl::last_fire_at.eq(outcome.at),
        dsl::last_execution_id.eq(outcome.execution),
        dsl::last_failure.eq(&outcome.failure),
    );
    diesel::update(dsl::triggers.find(id)).set(columns).execute(conn).await
}
