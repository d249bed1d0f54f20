//! The sizes of tenants' schemas: how large each is at the moment, and `database_sizes`, where the last measurement lies.

use std::collections::HashMap;

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Bool, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::{RunQueryDsl, SimpleAsyncConnection as _};
use protocol::Timestamp;
use uuid::Uuid;

use super::Conn;
use super::schema::database_sizes::dsl;
use crate::tenant::database::DatabaseNames;

/// The state of a schema and of its role.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct MeasuredSchema {
    #[diesel(sql_type = Text)]
    pub schema: String,
    /// With indexes and what is stored out of line; 0 for a schema that is locked.
    #[diesel(sql_type = BigInt)]
    pub bytes: i64,
    /// The role locks a table so that nobody can measure it.
    #[diesel(sql_type = Bool)]
    pub is_locked: bool,
    /// Whether the role may log in.
    #[diesel(sql_type = Bool)]
    pub can_login: bool,
}

/// Lets no statement of the connection take long: a tenant may lock its tables whenever it likes, and make as many as it likes.
pub async fn bound_waits(conn: &mut Conn) -> QueryResult<()> {
    conn.batch_execute("SET lock_timeout = '2s'; SET statement_timeout = '30s'").await
}

/// The roles of tenants that have a session. `conn` is the provisioner's, which has the rights of every tenant's role.
pub async fn busy_roles(conn: &mut Conn) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Role {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let query = "SELECT DISTINCT usename::text AS name FROM pg_stat_activity \
         WHERE usename <> CURRENT_USER AND pg_has_role(usesysid, 'USAGE')";
    let roles: Vec<Role> = diesel::sql_query(query).load(conn).await?;
    Ok(roles.into_iter().map(|role| role.name).collect())
}

/// Measures schemas. A table that is locked exclusively could not be measured without a wait, so the schemas of roles that hold
/// such a lock, or wait for one, are left out.
pub async fn measure(
    conn: &mut Conn,
    databases: &[DatabaseNames],
) -> QueryResult<Vec<MeasuredSchema>> {
    let query = "
        WITH wanted AS (SELECT * FROM unnest($1, $2) AS w (schema, role)),
        locking AS MATERIALIZED (
            SELECT DISTINCT usename::text AS role FROM pg_locks JOIN pg_stat_activity USING (pid)
            WHERE locktype = 'relation' AND mode = 'AccessExclusiveLock' AND usename = ANY ($2)
        ),
        states AS MATERIALIZED (
            SELECT schema, role IN (SELECT role FROM locking) AS is_locked, coalesce(rolcanlogin, false) AS can_login
            FROM wanted LEFT JOIN pg_roles ON rolname = role
        )
        SELECT schema, is_locked, can_login, coalesce(sum(pg_total_relation_size(c.oid)), 0)::bigint AS bytes
        FROM states
        LEFT JOIN pg_namespace n ON nspname = schema AND NOT is_locked
        LEFT JOIN pg_class c ON relnamespace = n.oid AND relkind IN ('r', 'm', 'S')
        GROUP BY schema, is_locked, can_login";
    let (schemas, roles): (Vec<_>, Vec<_>) =
        databases.iter().map(|names| (names.schema.as_str(), names.user.as_str())).unzip();
    let query = diesel::sql_query(query).bind::<Array<Text>, _>(schemas);
    query.bind::<Array<Text>, _>(roles).load(conn).await
}

/// Stores measurements.
pub async fn store(conn: &mut Conn, sizes: &[(Uuid, i64)], now: Timestamp) -> QueryResult<usize> {
    let (tenants, bytes): (Vec<_>, Vec<_>) = sizes.iter().copied().unzip();
    // A tenant may be gone meanwhile.
    let query = "INSERT INTO database_sizes (tenant_id, bytes, measured_at) \
         SELECT id, bytes, $3 FROM unnest($1, $2) AS s (id, bytes) JOIN tenants USING (id) \
         ON CONFLICT (tenant_id) DO UPDATE SET bytes = EXCLUDED.bytes, measured_at = EXCLUDED.measured_at";
    let query = diesel::sql_query(query).bind::<Array<SqlUuid>, _>(tenants);
    query.bind::<Array<BigInt>, _>(bytes).bind::<Timestamptz, _>(now).execute(conn).await
}

/// The last sizes of these tenants.
pub async fn of(conn: &mut Conn, tenants: &[Uuid]) -> QueryResult<HashMap<Uuid, u64>> {
    let rows: Vec<(Uuid, i64)> = dsl::database_sizes
        .filter(dsl::tenant_id.eq_any(tenants))
        .select((dsl::tenant_id, dsl::bytes))
        .load(conn)
        .await?;
    Ok(rows.into_iter().map(|(id, bytes)| (id, u64::try_from(bytes).unwrap_or_default())).collect())
}
