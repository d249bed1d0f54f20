//! `mails`: an outbox. Mails are inserted by the transaction of the change, and deleted once they are sent.

use std::time::Duration;

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Integer, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use uuid::Uuid;

use super::Conn;
use super::schema::mails::{self, dsl};
use crate::http::paging::Window;

/// A replica that died keeps its claims for this long. Longer than any attempt takes.
pub const CLAIM_LIFETIME: Duration = Duration::from_secs(60);

#[derive(Debug)]
pub struct NewMail {
    pub id: Uuid,
    pub kind: &'static str,
    pub recipient: String,
    /// Sealed.
    pub content: String,
    pub next_attempt_at: Timestamp,
    pub expires_at: Timestamp,
}

/// Inserts a mail. A password reset of the same recipient that waits for a later attempt is due at once instead, as if it
/// were new; one that is being sent, or due within [`CLAIM_LIFETIME`], stays as it is. So does a waiting alert of a sign-in.
pub async fn insert(conn: &mut Conn, mail: &NewMail) -> QueryResult<usize> {
    // A claim made until now ends before this.
    let unclaimed_after = mail.next_attempt_at + CLAIM_LIFETIME;
    diesel::sql_query(
        "INSERT INTO mails (id, kind, recipient, content, next_attempt_at, queued_at, expires_at) \
         VALUES ($1, $2, $3, $4, $5, $5, $6) \
         ON CONFLICT (recipient, kind) WHERE kind IN ('password_reset', 'sign_in') DO UPDATE SET attempts = 0, last_error = NULL, \
             next_attempt_at = excluded.next_attempt_at, queued_at = excluded.queued_at, expires_at = excluded.expires_at \
             WHERE mails.kind = 'password_reset' AND mails.next_attempt_at > $7",
    )
    .bind::<SqlUuid, _>(mail.id)
    .bind::<Text, _>(mail.kind)
    .bind::<Text, _>(&mail.recipient)
    .bind::<Text, _>(&mail.content)
    .bind::<Timestamptz, _>(mail.next_attempt_at)
    .bind::<Timestamptz, _>(mail.expires_at)
    .bind::<Timestamptz, _>(unclaimed_after)
    .execute(conn)
    .await
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

/// Makes a mail due again at `at`, after an attempt that failed.
pub async fn retry(conn: &mut Conn, id: Uuid, at: Timestamp, error: &str) -> QueryResult<usize> {
    let columns = (dsl::next_attempt_at.eq(at), dsl::last_error.eq(error));
    diesel::update(dsl::mails.find(id)).set(columns).execute(conn).await
}

/// A mail as lists show it: without what it holds.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = mails, check_for_backend(diesel::pg::Pg))]
pub struct Waiting {
    pub id: Uuid,
    pub kind: String,
    pub recipient: String,
    pub attempts: i32,
    pub next_attempt_at: Timestamp,
    pub expires_at: Timestamp,
    pub queued_at: Timestamp,
    pub last_error: Option<String>,
}

/// The mails that wait, the newest first.
pub async fn list(conn: &mut Conn, window: Window) -> QueryResult<Vec<Waiting>> {
    let mut page = dsl::mails
        .order(dsl::id.desc())
        .limit(window.rows())
        .select(Waiting::as_select())
        .into_boxed();
    if let Some(before) = window.before {
        page = page.filter(dsl::id.lt(before));
    }
    page.load(conn).await
}
