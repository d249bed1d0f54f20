//! `open_work`: which tenants may have executions to run, and who runs them.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::prelude::{OptionalExtension as _, QueryResult};
use diesel::sql_types::{Array, BigInt, Integer, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use protocol::Timestamp;
use uuid::Uuid;

use super::Conn;

/// A tenant whose work the holder does until the claim runs out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Claim {
    #[diesel(sql_type = SqlUuid)]
    pub tenant_id: Uuid,
    /// Grows with each request that concerns the tenant.
    #[diesel(sql_type = BigInt)]
    pub touches: i64,
    /// How often in a row the tenant's records could not be read or written.
    #[diesel(sql_type = Integer)]
    pub failures: i32,
}

/// Notes that a tenant has something to do. A claim under way stays: its holder notices.
pub async fn touch(conn: &mut Conn, tenant: Uuid, now: Timestamp) -> QueryResult<usize> {
    diesel::sql_query(
        "INSERT INTO open_work (tenant_id, touched_at, due_at) VALUES ($1, $2, $2) \
         ON CONFLICT (tenant_id) DO UPDATE SET touched_at = EXCLUDED.touched_at, touches = open_work.touches + 1, \
             due_at = CASE WHEN open_work.holder IS NULL THEN EXCLUDED.due_at ELSE open_work.due_at END",
    )
    .bind::<SqlUuid, _>(tenant)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await
}

/// Claims at most `limit` tenants that are due, also those of holders that died. None of `held`: the holder works for them,
/// even if its clock was set forward since.
pub async fn claim(
    conn: &mut Conn,
    holder: Uuid,
    held: &[Uuid],
    (now, until): (Timestamp, Timestamp),
    limit: i64,
) -> QueryResult<Vec<Claim>> {
    diesel::sql_query(
        "UPDATE open_work SET holder = $1, due_at = $3 WHERE tenant_id IN ( \
             SELECT tenant_id FROM open_work WHERE due_at <= $2 AND tenant_id <> ALL ($5) \
             ORDER BY due_at LIMIT $4 FOR UPDATE SKIP LOCKED \
         ) RETURNING tenant_id, touches, failures",
    )
    .bind::<SqlUuid, _>(holder)
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(until)
    .bind::<BigInt, _>(limit)
    .bind::<Array<SqlUuid>, _>(held)
    .load(conn)
    .await
}

/// Prolongs a claim; `None` when it is another's by now, or the tenant is gone.
pub async fn renew(
    conn: &mut Conn,
    holder: Uuid,
    tenant: Uuid,
    until: Timestamp,
) -> QueryResult<Option<Claim>> {
    diesel::sql_query(
        "UPDATE open_work SET due_at = $3 WHERE tenant_id = $1 AND holder = $2 \
         RETURNING tenant_id, touches, failures",
    )
    .bind::<SqlUuid, _>(tenant)
    .bind::<SqlUuid, _>(holder)
    .bind::<Timestamptz, _>(until)
    .get_result(conn)
    .await
    .optional()
}

/// Gives a claim back; the tenant is due again at `due_at`, or at once if it was touched since `claim`.
pub async fn release(
    conn: &mut Conn,
    holder: Uuid,
    claim: &Claim,
    due_at: Timestamp,
) -> QueryResult<usize> {
    diesel::sql_query(
        "UPDATE open_work SET holder = NULL, failures = $5, \
             due_at = CASE WHEN touches > $3 THEN touched_at ELSE $4 END \
         WHERE tenant_id = $1 AND holder = $2",
    )
    .bind::<SqlUuid, _>(claim.tenant_id)
    .bind::<SqlUuid, _>(holder)
    .bind::<BigInt, _>(claim.touches)
    .bind::<Timestamptz, _>(due_at)
    .bind::<Integer, _>(claim.failures)
    .execute(conn)
    .await
}

/// Forgets a tenant without open executions. Not one that was touched within `grace`: its execution may not be written yet.
/// Returns whether it is forgotten.
pub async fn forget(
    conn: &mut Conn,
    holder: Uuid,
    tenant: Uuid,
    now: Timestamp,
    grace: Duration,
) -> QueryResult<bool> {
    let deleted = diesel::sql_query(
        "DELETE FROM open_work WHERE tenant_id = $1 AND holder = $2 AND touched_at < $3",
    )
    .bind::<SqlUuid, _>(tenant)
    .bind::<SqlUuid, _>(holder)
    .bind::<Timestamptz, _>(now - grace)
    .execute(conn)
    .await?;
    Ok(deleted == 1)
}

/// Gives all claims of a holder back, due at once.
pub async fn release_all(conn: &mut Conn, holder: Uuid, now: Timestamp) -> QueryResult<usize> {
    diesel::sql_query("UPDATE open_work SET holder = NULL, due_at = $2 WHERE holder = $1")
        .bind::<SqlUuid, _>(holder)
        .bind::<Timestamptz, _>(now)
        .execute(conn)
        .await
}
