//! Ends sessions of tenants that use up what the server shares among all of its sessions. Postgres bounds none of these for
//! a role: a transaction that stays open keeps dead rows of every table and the queue of notifications, and each object
//! that it touched keeps a place in the one table of locks.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::prelude::QueryResult;
use diesel::sql_types::{BigInt, Double, Text};
use diesel_async::RunQueryDsl as _;

use super::Conn;

/// Bounds what the sessions of tenants may hold.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// Since the beginning of a transaction.
    pub transaction: Duration,
    /// Objects that all sessions of one role lock at once. A bound for each session would leave a role ten times as many.
    pub role_locks: u32,
    /// Objects that the sessions of all tenants lock at once.
    pub all_locks: u32,
    /// The part of the queue of notifications, 0 to 1, above which no tenant's transaction may stay open.
    pub notify_queue: f64,
}

impl SessionBounds {
    /// With Postgres' own settings the table of locks has 6,400 places and some more, and the queue of notifications 8 GB.
    pub const DEFAULT: Self = Self {
        transaction: Duration::from_secs(10 * 60),
        role_locks: 1_000,
        all_locks: 3_000,
        notify_queue: 0.1,
    };
}

/// A session that was ended.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct EndedSession {
    #[diesel(sql_type = Text)]
    pub user: String,
    #[diesel(sql_type = Text)]
    pub reason: String,
}

/// Ends the sessions beyond `bounds`. When all tenants together hold too many locks, the roles with the most end first.
/// `conn` is the provisioner's, which has the rights of every tenant's role and of no other.
pub async fn end_harmful(conn: &mut Conn, bounds: SessionBounds) -> QueryResult<Vec<EndedSession>> {
    let query = "
        WITH sessions AS (
            SELECT pid, usesysid, usename, xact_start FROM pg_stat_activity
            WHERE usename <> CURRENT_USER AND pg_has_role(usesysid, 'USAGE')
        ),
        held AS (SELECT pid, usesysid, count(*) AS n FROM pg_locks JOIN sessions USING (pid) GROUP BY pid, usesysid),
        by_role AS (SELECT usesysid, sum(n) AS n FROM held GROUP BY usesysid),
        -- With all roles that hold no more than this one.
        totals AS (SELECT usesysid, n, sum(n) OVER (ORDER BY n, usesysid) AS total FROM by_role),
        judged AS (
            SELECT pid, usename, CASE
                WHEN xact_start < clock_timestamp() - make_interval(secs => $1) THEN 'a transaction that stays open'
                WHEN held.n > 0 AND totals.n > $2 THEN 'too many locks'
                WHEN held.n > 0 AND totals.total > $3 THEN 'too many locks of all tenants together'
                WHEN xact_start IS NOT NULL AND pg_notification_queue_usage() > $4
                    THEN 'an open transaction while the queue of notifications fills'
            END AS reason
            FROM sessions LEFT JOIN held USING (pid, usesysid) LEFT JOIN totals USING (usesysid)
        ),
        -- Conditions have no order: this one must not be tested beside a function that ends sessions.
        harmful AS MATERIALIZED (SELECT * FROM judged WHERE reason IS NOT NULL)
        SELECT usename::text AS user, reason FROM harmful WHERE pg_terminate_backend(pid)";
    diesel::sql_query(query)
        .bind::<Double, _>(bounds.transaction.as_secs_f64())
        .bind::<BigInt, _>(i64::from(bounds.role_locks))
        .bind::<BigInt, _>(i64::from(bounds.all_locks))
        .bind::<Double, _>(bounds.notify_queue)
        .load(conn)
        .await
}
