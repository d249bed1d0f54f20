//! Ends sessions of tenants that use up what the server shares among all of its sessions. Postgres bounds none of these for
//! a role: a transaction that stays open keeps dead rows of every table and the queue of notifications, and each object
//! that it touched keeps a place in the one table of locks.

use std::time::Duration;

use diesel::QueryableByName;
use diesel::prelude::QueryResult;
use diesel::sql_types::{BigInt, Double, Text};
use diesel_async::RunQueryDsl as _;

use super::Conn;

/// What one session may hold.
#[derive(Clone, Copy, Debug)]
pub struct SessionBounds {
    /// Since the beginning of a transaction.
    pub transaction: Duration,
    /// Objects that are locked at once.
    pub locks: u32,
    /// The part of the queue of notifications, 0 to 1, above which no tenant's transaction may stay open.
    pub notify_queue: f64,
}

impl SessionBounds {
    /// With Postgres' own settings the table of locks has 6,400 places and some more, and the queue of notifications 8 GB.
    pub const DEFAULT: Self =
        Self { transaction: Duration::from_secs(10 * 60), locks: 1_000, notify_queue: 0.1 };
}

/// A session that was ended.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
pub struct EndedSession {
    #[diesel(sql_type = Text)]
    pub user: String,
    #[diesel(sql_type = Text)]
    pub reason: String,
}

/// Ends the sessions beyond `bounds`. `conn` is the provisioner's, which has the rights of every tenant's role and of no
/// other.
pub async fn end_harmful(conn: &mut Conn, bounds: SessionBounds) -> QueryResult<Vec<EndedSession>> {
    let query = "
        WITH held AS (SELECT pid, count(*) AS locks FROM pg_locks GROUP BY pid),
        judged AS (
            SELECT pid, usename, CASE
                WHEN xact_start < clock_timestamp() - make_interval(secs => $1) THEN 'a transaction that stays open'
                WHEN locks > $2 THEN 'too many locks'
                WHEN xact_start IS NOT NULL AND pg_notification_queue_usage() > $3
                    THEN 'an open transaction while the queue of notifications fills'
            END AS reason
            FROM pg_stat_activity LEFT JOIN held USING (pid)
            WHERE usename <> CURRENT_USER AND pg_has_role(usesysid, 'USAGE')
        ),
        -- Conditions have no order: this one must not be tested beside a function that ends sessions.
        harmful AS MATERIALIZED (SELECT * FROM judged WHERE reason IS NOT NULL)
        SELECT usename::text AS user, reason FROM harmful WHERE pg_terminate_backend(pid)";
    diesel::sql_query(query)
        .bind::<Double, _>(bounds.transaction.as_secs_f64())
        .bind::<BigInt, _>(i64::from(bounds.locks))
        .bind::<Double, _>(bounds.notify_queue)
        .load(conn)
        .await
}
