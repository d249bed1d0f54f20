//! `event_log` and `event_head`: changes, written by triggers at the commit of each change.

use diesel::QueryableByName;
use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bool, Nullable, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use protocol::api_keys::Role;
use protocol::events::{EventResource, EventTenant};
use protocol::people::MemberRole;
use uuid::Uuid;

use super::Conn;
use super::columns::JsonColumn;
use super::schema::event_log::{self, dsl};
use super::schema::memberships;

/// A change, with the tenant that it concerns right after the change.
#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable)]
#[diesel(table_name = event_log, check_for_backend(diesel::pg::Pg))]
pub struct EventRow {
    pub id: i64,
    pub at: Timestamp,
    pub kind: String,
    #[diesel(deserialize_as = JsonColumn<Option<EventTenant>>)]
    pub tenant: Option<EventTenant>,
    #[diesel(deserialize_as = JsonColumn<Option<EventResource>>)]
    pub resource: Option<EventResource>,
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
    let query = "SELECT id AS head, (SELECT min(id) FROM event_log) AS oldest FROM event_head";
    diesel::sql_query(query).get_result(conn).await
}

/// The events that a caller may see: those that any of the roles admits. The default admits none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audience {
    /// Only events of this tenant.
    pub tenant: Option<Uuid>,
    /// The role on every tenant.
    pub tenants: Option<Role>,
    /// The role on what belongs to no tenant.
    pub platform: Option<Role>,
    /// The caller's account, which also sees the events about itself, and the highest role that its memberships give.
    pub person: Option<(Uuid, Role)>,
}

/// The values of `access` that a role satisfies.
fn satisfied_by(role: Option<Role>) -> Vec<&'static str> {
    let all = [Role::Read, Role::Admin].into_iter();
    all.filter(|needed| role >= Some(*needed)).map(Role::as_str).collect()
}

/// The events after an id, the oldest first. Events appear in the order of their ids: no later read returns one with an
/// id below the last.
pub async fn after(
    conn: &mut Conn,
    audience: Audience,
    id: i64,
    limit: i64,
) -> QueryResult<Vec<EventRow>> {
    let mut query =
        dsl::event_log.order(dsl::id).limit(limit).select(EventRow::as_select()).into_boxed();
    query = query.filter(false.into_sql::<Bool>());
    let of_tenants = dsl::access.eq_any(satisfied_by(audience.tenants));
    query = query.or_filter(dsl::tenant_id.is_not_null().and(of_tenants));
    let of_platform = dsl::access.eq_any(satisfied_by(audience.platform));
    query = query.or_filter(dsl::tenant_id.is_null().and(of_platform));
    if let Some((user, limit)) = audience.person {
        let own = || memberships::table.filter(memberships::user_id.eq(user));
        let admin = own().filter(memberships::role.eq(MemberRole::Admin.as_str()));
        let of_member = dsl::tenant_id.eq_any(own().select(memberships::tenant_id.nullable()));
        let of_admin = dsl::tenant_id.eq_any(admin.select(memberships::tenant_id.nullable()));
        // Nobody sees what happened before they had the role. Ids decide, as the clocks of replicas differ. An event that is not
        // kept any more precedes all that are.
        let follows_last = |kinds: &str| {
            sql::<Bool>("NOT EXISTS (SELECT FROM event_log AS began WHERE began.person_id = ")
                .bind::<SqlUuid, _>(user)
                .sql(" AND began.tenant_id = event_log.tenant_id AND began.id > event_log.id AND began.kind IN (")
                .sql(kinds)
                .sql("))")
        };
        let of_member = of_member.and(dsl::access.eq(Role::Read.as_str()));
        let of_admin = of_admin.and(dsl::access.eq_any(satisfied_by(Some(limit))));
        query = query
            .or_filter(of_member.and(follows_last("'membership.created'")))
            .or_filter(of_admin.and(follows_last("'membership.created', 'membership.changed'")))
            .or_filter(dsl::person_id.eq(user));
    }
    query = query.filter(dsl::id.gt(id));
    if let Some(tenant) = audience.tenant {
        query = query.filter(dsl::tenant_id.eq(tenant));
    }
    query.load(conn).await
}

/// Deletes all events but the latest `kept`.
pub async fn prune(conn: &mut Conn, kept: i64) -> QueryResult<usize> {
    diesel::sql_query("DELETE FROM event_log WHERE id <= (SELECT id FROM event_head) - $1")
        .bind::<BigInt, _>(kept)
        .execute(conn)
        .await
}
