//! `webhooks` and `webhook_deliveries`: an outbox. Deliveries are inserted by the transaction of the change.

use diesel::prelude::*;
use diesel::sql_types::{Jsonb, Text, Timestamptz};
use diesel_async::{AsyncConnection as _, RunQueryDsl};
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
#[derive(Clone, Debug)]
pub struct Claimed {
    pub id: Uuid,
    pub webhook_id: Uuid,
    pub url: String,
    pub event: String,
    pub payload: Value,
    /// This attempt included.
    pub attempts: i32,
}

/// The columns of [`Claimed`] before this attempt is counted.
type Due = (Uuid, Uuid, String, Value, i32, String);

impl From<Due> for Claimed {
    fn from((id, webhook_id, event, payload, attempts, url): Due) -> Self {
        Self { id, webhook_id, url, event, payload, attempts: attempts + 1 }
    }
}

/// Claims deliveries that are due at `now`: no other replica sends them before `until`.
pub async fn claim(
    conn: &mut Conn,
    now: Timestamp,
    until: Timestamp,
    limit: i64,
) -> QueryResult<Vec<Claimed>> {
    use deliveries_dsl::{attempts, event, next_attempt_at, payload, state, webhook_id};
    conn.transaction(async |conn| {
        let due: Vec<Due> = deliveries_dsl::webhook_deliveries
            .inner_join(webhooks::table)
            .filter(state.eq("pending").and(next_attempt_at.le(now)))
            .order(next_attempt_at)
            .limit(limit)
            .select((deliveries_dsl::id, webhook_id, event, payload, attempts, webhooks::url))
            // Not FOR UPDATE: a change that inserts a delivery refers to the webhook at the same time.
            .for_no_key_update()
            .skip_locked()
            .load(conn)
            .await?;
        let ids: Vec<Uuid> = due.iter().map(|row| row.0).collect();
        diesel::update(deliveries_dsl::webhook_deliveries.filter(deliveries_dsl::id.eq_any(&ids)))
            .set((next_attempt_at.eq(until), attempts.eq(attempts + 1)))
            .execute(conn)
            .await?;
        Ok(due.into_iter().map(Claimed::from).collect())
    })
    .await
}

/// The outcome of a delivery attempt.
#[derive(Clone, Debug)]
pub enum Outcome {
    Delivered {
        status: i32,
    },
    /// `retry_at`: `None` gives up.
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
    // A replay that came meanwhile starts over: its count of attempts differs.
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
