//! `webhooks` and `webhook_deliveries`: an outbox. Deliveries are inserted by the transaction of the change.

use diesel::prelude::*;
use diesel::sql_types::{Array, BigInt, Integer, Jsonb, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl;
use protocol::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Conn;
use super::schema::webhook_deliveries::{self, dsl as deliveries_dsl};
use super::schema::webhooks::{self, dsl};

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = webhooks, check_for_backend(diesel::pg::Pg))]
pub struct Webhook {
    pub id: Uuid,
    pub url: String,
    pub created_by: String,
    pub created_at: Timestamp,
}

/// A delivery as lists show it.
#[derive(Clone, Debug, Queryable, Selectable)]
#[diesel(table_name = webhook_deliveries, check_for_backend(diesel::pg::Pg))]
pub struct Delivery {
    pub id: Uuid,
    pub event: String,
    pub state: String,
    pub attempts: i32,
    pub next_attempt_at: Timestamp,
    pub last_status: Option<i32>,
    pub last_error: Option<String>,
    pub created_at: Timestamp,
    pub finished_at: Option<Timestamp>,
}

pub async fn insert(conn: &mut Conn, webhook: &Webhook) -> QueryResult<usize> {
    diesel::insert_into(dsl::webhooks).values(webhook).execute(conn).await
}

pub async fn all(conn: &mut Conn) -> QueryResult<Vec<Webhook>> {
    dsl::webhooks.order(dsl::id).select(Webhook::as_select()).load(conn).await
}

pub async fn count(conn: &mut Conn) -> QueryResult<i64> {
    dsl::webhooks.count().get_result(conn).await
}

pub async fn by_id(conn: &mut Conn, id: Uuid) -> QueryResult<Option<Webhook>> {
    dsl::webhooks.find(id).select(Webhook::as_select()).first(conn).await.optional()
}

/// Deletes a webhook with its deliveries.
pub async fn delete(conn: &mut Conn, id: Uuid) -> QueryResult<usize> {
    diesel::delete(dsl::webhooks.find(id)).execute(conn).await
}

/// The latest deliveries of a webhook, the latest first.
pub async fn deliveries(conn: &mut Conn, webhook: Uuid, limit: i64) -> QueryResult<Vec<Delivery>> {
    deliveries_dsl::webhook_deliveries
        .filter(deliveries_dsl::webhook_id.eq(webhook))
        .order((deliveries_dsl::created_at.desc(), deliveries_dsl::id.desc()))
        .limit(limit)
        .select(Delivery::as_select())
        .load(conn)
        .await
}

/// Inserts a delivery of an event for every webhook.
pub async fn enqueue(
    conn: &mut Conn,
    event: &str,
    payload: &Value,
    now: Timestamp,
) -> QueryResult<usize> {
    diesel::sql_query(
        "INSERT INTO webhook_deliveries (id, webhook_id, event, payload, next_attempt_at, created_at) \
         SELECT gen_random_uuid(), id, $1, $2, $3, $3 FROM webhooks",
    )
    .bind::<Text, _>(event)
    .bind::<Jsonb, _>(payload)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await
}

/// Makes a delivery due again from its first attempt on; `false` when the webhook has no such delivery.
pub async fn replay(conn: &mut Conn, webhook: Uuid, id: Uuid, now: Timestamp) -> QueryResult<bool> {
    let of_webhook =
        deliveries_dsl::webhook_deliveries.find(id).filter(deliveries_dsl::webhook_id.eq(webhook));
    let columns = (
        deliveries_dsl::state.eq("pending"),
        deliveries_dsl::attempts.eq(0),
        deliveries_dsl::next_attempt_at.eq(now),
        deliveries_dsl::finished_at.eq(None::<Timestamp>),
    );
    Ok(diesel::update(of_webhook).set(columns).execute(conn).await? == 1)
}

/// A delivery that this replica sends.
#[derive(Clone, Debug, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct Claimed {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = SqlUuid)]
    pub webhook_id: Uuid,
    #[diesel(sql_type = Text)]
    pub url: String,
    #[diesel(sql_type = Text)]
    pub event: String,
    #[diesel(sql_type = Jsonb)]
    pub payload: Value,
    /// This attempt included.
    #[diesel(sql_type = Integer)]
    pub attempts: i32,
}

/// Claims deliveries that are due at `now`, at most `limit` of each webhook and none of `busy`: no other replica sends
/// them before `until`. One query, so that many due deliveries of one webhook do not delay the others.
pub async fn claim(
    conn: &mut Conn,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
    busy: &[Uuid],
) -> QueryResult<Vec<Claimed>> {
    // Not FOR UPDATE: a change that inserts a delivery refers to the webhook at the same time.
    diesel::sql_query(
        "UPDATE webhook_deliveries SET next_attempt_at = $2, attempts = attempts + 1 \
         FROM webhooks WHERE webhooks.id = webhook_id AND webhook_deliveries.id IN ( \
             SELECT due.id FROM webhooks CROSS JOIN LATERAL ( \
                 SELECT id FROM webhook_deliveries \
                 WHERE webhook_id = webhooks.id AND state = 'pending' AND next_attempt_at <= $1 \
                 ORDER BY next_attempt_at LIMIT $3 FOR NO KEY UPDATE SKIP LOCKED) due \
             WHERE webhooks.id <> ALL ($4)) \
         RETURNING webhook_deliveries.id, webhook_id, url, event, payload, attempts",
    )
    .bind::<Timestamptz, _>(now)
    .bind::<Timestamptz, _>(until)
    .bind::<BigInt, _>(limit)
    .bind::<Array<SqlUuid>, _>(busy)
    .load(conn)
    .await
}

/// Deletes finished deliveries from before `cutoff`, and those of each webhook beyond the latest `kept`.
pub async fn prune(conn: &mut Conn, cutoff: Timestamp, kept: i64) -> QueryResult<usize> {
    diesel::sql_query(
        "DELETE FROM webhook_deliveries USING ( \
             SELECT id, row_number() OVER (PARTITION BY webhook_id ORDER BY created_at DESC, id DESC) AS place \
             FROM webhook_deliveries) placed \
         WHERE webhook_deliveries.id = placed.id AND state <> 'pending' AND (created_at < $1 OR place > $2)",
    )
    .bind::<Timestamptz, _>(cutoff)
    .bind::<BigInt, _>(kept)
    .execute(conn)
    .await
}

/// The outcome of a delivery attempt.
#[derive(Clone, Debug)]
pub enum Outcome {
    Delivered {
        status: i32,
    },
    /// `retry_at`: `None` means no further attempt.
    Failed {
        status: Option<i32>,
        error: String,
        retry_at: Option<Timestamp>,
    },
}

pub async fn finish(
    conn: &mut Conn,
    claimed: &Claimed,
    outcome: &Outcome,
    now: Timestamp,
) -> QueryResult<usize> {
    use deliveries_dsl::{finished_at, last_error, last_status, next_attempt_at, state};
    // A replay during the attempt starts over: its count of attempts differs.
    let unchanged = deliveries_dsl::webhook_deliveries
        .find(claimed.id)
        .filter(deliveries_dsl::attempts.eq(claimed.attempts));
    let update = diesel::update(unchanged);
    match outcome {
        Outcome::Delivered { status } => {
            let columns = (
                state.eq("delivered"),
                last_status.eq(Some(*status)),
                last_error.eq(None::<String>),
                finished_at.eq(Some(now)),
            );
            update.set(columns).execute(conn).await
        }
        Outcome::Failed { status, error, retry_at: Some(at) } => {
            let columns = (
                last_status.eq(*status),
                last_error.eq(Some(error.as_str())),
                next_attempt_at.eq(*at),
            );
            update.set(columns).execute(conn).await
        }
        Outcome::Failed { status, error, retry_at: None } => {
            let columns = (
                state.eq("failed"),
                last_status.eq(*status),
                last_error.eq(Some(error.as_str())),
                finished_at.eq(Some(now)),
            );
            update.set(columns).execute(conn).await
        }
    }
}
