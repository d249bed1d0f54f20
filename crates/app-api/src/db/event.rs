//! `events` and `event_head`: changes of tenants, written by triggers at the commit of the change.

use diesel::QueryableByName;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Nullable};
use diesel_async::RunQueryDsl;
use protocol::spec::Desired;
use protocol::{Slug, State, Timestamp};
use uuid::Uuid;

use super::Conn;
use super::columns::TextColumn;
use super::schema::events::{self, dsl};
use super::schema::memberships;

/// A change of a tenant, with the tenant right after the change.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = events, check_for_backend(diesel::pg::Pg))]
pub struct EventRow {
    pub id: i64,
    pub at: Timestamp,
    pub kind: String,
    pub tenant_id: Uuid,
    #[diesel(deserialize_as = TextColumn<Slug>)]
    pub slug: Slug,
    pub name: String,
    #[diesel(deserialize_as = TextColumn<Desired>)]
    pub desired: Desired,
    #[diesel(deserialize_as = TextColumn<State>)]
    pub state: State,
    pub state_since: Timestamp,
    pub state_reason: Option<String>,
    pub revision: i64,
}

/// The ids of the stored events. Ids have no gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Bounds {
    /// The id of the last event; 0 before the first.
    #[diesel(sql_type = BigInt)]
    pub head: i64,
    /// The id of the oldest event that is kept; `None` when none is.
    #[diesel(sql_type = Nullable<BigInt>)]
    pub oldest: Option<i64>,
}

pub async fn bounds(conn: &mut Conn) -> QueryResult<Bounds> {
    let query = "SELECT id AS head, (SELECT min(id) FROM events) AS oldest FROM event_head";
    diesel::sql_query(query).get_result(conn).await
}

/// The tenants whose events a caller may see: all, narrowed by each bound that is set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Only this tenant.
    pub tenant: Option<Uuid>,
    /// Only tenants with a membership of this user.
    pub member: Option<Uuid>,
}

/// The events after an id, the oldest first. Events appear in the order of their ids: no later read returns one with an
/// id below the last.
pub async fn after(
    conn: &mut Conn,
    audience: Audience,
    id: i64,
    limit: i64,
) -> QueryResult<Vec<EventRow>> {
    let mut query = dsl::events
        .filter(dsl::id.gt(id))
        .order(dsl::id)
        .limit(limit)
        .select(EventRow::as_select())
        .into_boxed();
    if let Some(tenant) = audience.tenant {
        query = query.filter(dsl::tenant_id.eq(tenant));
    }
    if let Some(user) = audience.member {
        let of_user = memberships::table.filter(memberships::user_id.eq(user));
        query = query.filter(dsl::tenant_id.eq_any(of_user.select(memberships::tenant_id)));
    }
    query.load(conn).await
}

/// Deletes all events but the latest `kept`.
pub async fn prune(conn: &mut Conn, kept: i64) -> QueryResult<usize> {
    diesel::sql_query("DELETE FROM events WHERE id <= (SELECT id FROM event_head) - $1")
        .bind::<BigInt, _>(kept)
        .execute(conn)
        .await
}
