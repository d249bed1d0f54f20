//! `idempotency_keys`: the response of each create, for a retry with the same key.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::Conn;
use super::schema::idempotency_keys::{self, dsl};

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = idempotency_keys, check_for_backend(diesel::pg::Pg))]
pub struct StoredResponse {
    /// The user or the API key that sent the request.
    pub owner_id: Uuid,
    pub key: String,
    pub body_hash: Vec<u8>,
    pub answer: serde_json::Value,
}

pub async fn find(conn: &mut Conn, owner: Uuid, key: &str) -> QueryResult<Option<StoredResponse>> {
    let query = dsl::idempotency_keys.find((owner, key)).select(StoredResponse::as_select());
    query.first(conn).await.optional()
}

/// Returns `false` when a concurrent request took the key; the caller must roll back.
pub async fn insert(conn: &mut Conn, response: &StoredResponse) -> QueryResult<bool> {
    let insert = diesel::insert_into(dsl::idempotency_keys).values(response);
    Ok(insert.on_conflict_do_nothing().execute(conn).await? == 1)
}

/// Deletes keys older than a day, by the clock of the database, which also dates them.
pub async fn delete_old(conn: &mut Conn) -> QueryResult<usize> {
    let yesterday = sql::<Timestamptz>("now() - interval '1 day'");
    let old = dsl::idempotency_keys.filter(dsl::created_at.lt(yesterday));
    diesel::delete(old).execute(conn).await
}
