//! `mails`: an outbox. Mails are inserted by the transaction of the change, and deleted once they are sent.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use uuid::Uuid;

use super::Conn;
use super::schema::mails::{self, dsl};

#[derive(Debug, Insertable)]
#[diesel(table_name = mails)]
pub struct NewMail {
    pub id: Uuid,
    pub kind: &'static str,
    pub recipient: String,
    /// Sealed.
    pub content: String,
    pub next_attempt_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Inserts a mail; nothing when a reset of the same recipient waits already.
pub async fn insert(conn: &mut Conn, mail: &NewMail) -> QueryResult<usize> {
    diesel::insert_into(dsl::mails).values(mail).on_conflict_do_nothing().execute(conn).await
}

/// A mail that this replica sends.
#[derive(Clone, Debug, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Claimed {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub kind: String,
    #[diesel(sql_type = Text)]
    pub recipient: String,
    #[diesel(sql_type = Text)]
    pub content: String,
    /// This attempt included.
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
    #[diesel(sql_type = Timestamptz)]
    pub expires_at: Timestamp,
}

/// Claims at most `limit` mails that are due at `now`: no other replica sends them before `until`. Links that reset a
/// password come first: their readers wait, and no flood of other mails delays them.
pub async fn claim(
    conn: &mut Conn,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
) -> QueryResult<Vec<Claimed>> {
    diesel::sql_query(
        "UPDATE mails SET next_attempt_at = $2, attempts = attempts + 1 WHERE id IN ( \
             SELECT id FROM mails WHERE next_attempt_at <= $1 \
             ORDER BY kind <> 'password_reset', next_attempt_at LIMIT $3 FOR UPDATE SKIP LOCKED) \
         RETURNING id, kind, recipient, content, attempts, expires_at",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(until)
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await
}

pub async fn delete(conn: &mut Conn, id: Uuid) -> QueryResult<usize> {
    diesel::delete(dsl::mails.find(id)).execute(conn).await
}

/// Makes a mail due again at `at`.
pub async fn retry(conn: &mut Conn, id: Uuid, at: Timestamp) -> QueryResult<usize> {
    diesel::update(dsl::mails.find(id)).set(dsl::next_attempt_at.eq(at)).execute(conn).await
}
