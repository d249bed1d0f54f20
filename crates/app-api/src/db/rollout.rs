//! `rollouts` and `rollout_tenants`.

use diesel::prelude::*;
use diesel::sql_types::{self, Array, BigInt, Text};
use diesel_async::RunQueryDsl;
use protocol::response_counts::ResponseCount;
use protocol::rollouts::{MemberState, RolloutState};
use protocol::{Slug, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::columns::TextColumn;
use super::schema::{releases, rollout_tenants, rollouts, tenants};

#[derive(Clone, Debug, Queryable)]
pub struct Rollout {
    pub id: Uuid,
    pub app_id: Uuid,
    #[diesel(deserialize_as = TextColumn<RolloutState>)]
    pub state: RolloutState,
    pub window: Option<String>,
    pub reason: Option<String>,
    pub log: Option<String>,
    pub created_by: String,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
    pub max_failures: i32,
    pub max_error_percent: i32,
    pub watch_seconds: i32,
    /// The number of the release.
    pub release: i32,
}

/// A tenant of a rollout.
#[derive(Clone, Debug, Queryable)]
pub struct Member {
    pub tenant_id: Uuid,
    #[diesel(deserialize_as = TextColumn<Slug>)]
    pub slug: Slug,
    pub wave: i32,
    #[diesel(deserialize_as = TextColumn<MemberState>)]
    pub state: MemberState,
    /// The number of the release before the rollout.
    pub from_number: i32,
    pub was_failing: bool,
    pub reason: Option<String>,
    pub changed_at: Timestamp,
    pub settled_at: Option<Timestamp>,
    /// Since the move, as the routers counted them.
    pub responses: i64,
    pub server_errors: i64,
}

pub struct NewRollout<'a> {
    pub id: Uuid,
    pub app_id: Uuid,
    pub release_id: Uuid,
    pub window: Option<&'a str>,
    pub max_failures: i32,
    pub max_error_percent: i32,
    pub watch_seconds: i32,
    pub created_by: &'a str,
    pub now: Timestamp,
}

#[derive(Insertable)]
#[diesel(table_name = rollout_tenants)]
pub struct NewMember {
    pub rollout_id: Uuid,
    pub tenant_id: Uuid,
    pub wave: i32,
    pub state: &'static str,
    pub from_number: i32,
    pub changed_at: Timestamp,
}

const ACTIVE: [&str; 3] = [
    RolloutState::Running.as_str(),
    RolloutState::Paused.as_str(),
    RolloutState::RollingBack.as_str(),
];

#[diesel::dsl::auto_type]
fn with_release() -> _ {
    rollouts::table.inner_join(releases::table).select((
        rollouts::id,
        rollouts::app_id,
        rollouts::state,
        rollouts::time_window,
        rollouts::reason,
        rollouts::log,
        rollouts::created_by,
        rollouts::created_at,
        rollouts::finished_at,
        rollouts::max_failures,
        rollouts::max_error_percent,
        rollouts::watch_seconds,
        releases::number,
    ))
}

pub async fn insert(
    conn: &mut Conn,
    new: &NewRollout<'_>,
    members: &[NewMember],
) -> QueryResult<usize> {
    let row = (
        rollouts::id.eq(new.id),
        rollouts::app_id.eq(new.app_id),
        rollouts::release_id.eq(new.release_id),
        rollouts::state.eq(RolloutState::Running.as_str()),
        rollouts::time_window.eq(new.window),
        rollouts::max_failures.eq(new.max_failures),
        rollouts::max_error_percent.eq(new.max_error_percent),
        rollouts::watch_seconds.eq(new.watch_seconds),
        rollouts::created_by.eq(new.created_by),
        rollouts::created_at.eq(new.now),
    );
    diesel::insert_into(rollouts::table).values(row).execute(conn).await?;
    let mut inserted = 0;
    // A statement has at most 65,535 parameters.
    for some in members.chunks(5_000) {
        inserted += diesel::insert_into(rollout_tenants::table).values(some).execute(conn).await?;
    }
    Ok(inserted)
}

/// The rollout of the app that may still change tenants.
pub async fn active_of(conn: &mut Conn, app: Uuid) -> QueryResult<Option<Rollout>> {
    let of_app = with_release().filter(rollouts::app_id.eq(app));
    of_app.filter(rollouts::state.eq_any(ACTIVE)).first(conn).await.optional()
}

/// All rollouts that may still change tenants.
pub async fn active(conn: &mut Conn) -> QueryResult<Vec<Rollout>> {
    let query = with_release().filter(rollouts::state.eq_any(ACTIVE));
    query.order(rollouts::created_at).load(conn).await
}

/// The rollouts of an app, the latest first.
pub async fn of_app(conn: &mut Conn, app: Uuid, limit: i64) -> QueryResult<Vec<Rollout>> {
    let query = with_release().filter(rollouts::app_id.eq(app));
    query.order((rollouts::created_at.desc(), rollouts::id.desc())).limit(limit).load(conn).await
}

pub async fn by_id(conn: &mut Conn, app: Uuid, id: Uuid) -> QueryResult<Option<Rollout>> {
    let query = with_release().filter(rollouts::app_id.eq(app)).filter(rollouts::id.eq(id));
    query.first(conn).await.optional()
}

/// Reads the state of a rollout and holds its row until the transaction ends.
pub async fn lock(conn: &mut Conn, id: Uuid) -> QueryResult<Option<RolloutState>> {
    let query = rollouts::table.find(id).select(rollouts::state).for_update();
    let state: Option<TextColumn<RolloutState>> = query.first(conn).await.optional()?;
    Ok(state.map(RolloutState::from))
}

/// Holds the rows of all rollouts of an app until the transaction ends.
pub async fn lock_of_app(conn: &mut Conn, app: Uuid) -> QueryResult<()> {
    let rows = rollouts::table.filter(rollouts::app_id.eq(app)).order(rollouts::id);
    rows.select(rollouts::id).for_update().load::<Uuid>(conn).await.map(drop)
}

/// The tenants of a rollout by wave, in the order in which they move.
pub async fn members(conn: &mut Conn, id: Uuid) -> QueryResult<Vec<Member>> {
    rollout_tenants::table
        .inner_join(tenants::table)
        .filter(rollout_tenants::rollout_id.eq(id))
        .order((rollout_tenants::wave, tenants::slug))
        .select((
            rollout_tenants::tenant_id,
            tenants::slug,
            rollout_tenants::wave,
            rollout_tenants::state,
            rollout_tenants::from_number,
            rollout_tenants::was_failing,
            rollout_tenants::reason,
            rollout_tenants::changed_at,
            rollout_tenants::settled_at,
            rollout_tenants::responses,
            rollout_tenants::server_errors,
        ))
        .load(conn)
        .await
}

/// The new state of a tenant of a rollout.
#[derive(Clone, Copy, Debug)]
pub struct Mark<'a> {
    pub state: MemberState,
    pub reason: Option<&'a str>,
    pub was_failing: bool,
}

pub async fn mark_member(
    conn: &mut Conn,
    rollout: Uuid,
    tenant: Uuid,
    mark: Mark<'_>,
    now: Timestamp,
) -> QueryResult<usize> {
    let columns = (
        rollout_tenants::state.eq(mark.state.as_str()),
        rollout_tenants::reason.eq(mark.reason),
        rollout_tenants::was_failing.eq(mark.was_failing),
        rollout_tenants::changed_at.eq(now),
    );
    diesel::update(rollout_tenants::table.find((rollout, tenant))).set(columns).execute(conn).await
}

const COUNTED: [&str; 2] = [MemberState::Moving.as_str(), MemberState::Moved.as_str()];

/// Adds what a router counted to the tenants that active rollouts have moved. Responses of another generation are of
/// another release.
pub async fn add_responses(conn: &mut Conn, counts: &[ResponseCount]) -> QueryResult<usize> {
    let number = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let query = diesel::sql_query(
        "UPDATE rollout_tenants AS member \
         SET responses = member.responses + seen.responses, \
             server_errors = member.server_errors + seen.server_errors \
         FROM unnest($1, $2, $3, $4) AS seen (tenant, generation, responses, server_errors), \
              rollouts, tenants \
         WHERE member.tenant_id = seen.tenant AND rollouts.id = member.rollout_id \
           AND tenants.id = seen.tenant AND tenants.generation = seen.generation \
           AND rollouts.state = ANY($5) AND member.state = ANY($6)",
    );
    query
        .bind::<Array<sql_types::Uuid>, _>(each(counts, |count| count.tenant.uuid()))
        .bind::<Array<BigInt>, _>(each(counts, |count| count.generation))
        .bind::<Array<BigInt>, _>(each(counts, |count| number(count.responses)))
        .bind::<Array<BigInt>, _>(each(counts, |count| number(count.server_errors)))
        .bind::<Array<Text>, _>(ACTIVE.to_vec())
        .bind::<Array<Text>, _>(COUNTED.to_vec())
        .execute(conn)
        .await
}

fn each<T>(counts: &[ResponseCount], field: impl Fn(&ResponseCount) -> T) -> Vec<T> {
    counts.iter().map(field).collect()
}

/// The tenants that active rollouts have moved.
pub async fn counted_tenants(conn: &mut Conn) -> QueryResult<Vec<Uuid>> {
    rollout_tenants::table
        .inner_join(rollouts::table)
        .filter(rollouts::state.eq_any(ACTIVE))
        .filter(rollout_tenants::state.eq_any(COUNTED))
        .order(rollout_tenants::tenant_id)
        .select(rollout_tenants::tenant_id)
        .load(conn)
        .await
}

/// Records that a tenant stayed ready on the release of the rollout.
pub async fn set_settled(
    conn: &mut Conn,
    rollout: Uuid,
    tenant: Uuid,
    now: Timestamp,
) -> QueryResult<usize> {
    let row = rollout_tenants::table.find((rollout, tenant));
    diesel::update(row).set(rollout_tenants::settled_at.eq(now)).execute(conn).await
}

/// Sets the state of a rollout. A state that is not active ends the rollout.
pub async fn set_state(
    conn: &mut Conn,
    id: Uuid,
    state: RolloutState,
    now: Timestamp,
) -> QueryResult<usize> {
    let finished_at = (!state.is_active()).then_some(now);
    let columns = (rollouts::state.eq(state.as_str()), rollouts::finished_at.eq(finished_at));
    diesel::update(rollouts::table.find(id)).set(columns).execute(conn).await
}

/// Records the failure of a tenant, and the state of the rollout from then on.
pub async fn set_failure(
    conn: &mut Conn,
    id: Uuid,
    state: RolloutState,
    reason: &str,
    log: Option<&str>,
) -> QueryResult<usize> {
    let columns =
        (rollouts::state.eq(state.as_str()), rollouts::reason.eq(reason), rollouts::log.eq(log));
    diesel::update(rollouts::table.find(id)).set(columns).execute(conn).await
}
