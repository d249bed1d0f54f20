//! `idempotency_keys`: what a create answered, for whoever asks again with the same key.

use diesel::dsl::sql;
use diesel::prelude::*;
use diesel::sql_types::Timestamptz;
use diesel_async::RunQueryDsl;
use uuid::Uuid;

use super::Conn;
use super::schema::idempotency_keys::{self, dsl};

#[derive(Clone, Debug, Queryable, Selectable, Insertable)]
#[diesel(table_name = idempotency_keys, check_for_backend(diesel::pg::Pg))]
pub struct Remembered {
    pub owner_id: Uuid,
    pub key: String,
    pub body_hash: Vec<u8>,
    pub answer: serde_json::Value,
}

pub async fn find(conn: &mut Conn, owner: Uuid, key: &str) -> QueryResult<Option<Remembered>> {
    let query = dsl::idempotency_keys.find((owner, key)).select(Remembered::as_select());
    query.first(conn).await.optional()
}

/// `false` when the key was taken meanwhile; the caller rolls its own work back.
pub async fn remember(conn: &mut Conn, answer: &Remembered) -> QueryResult<bool> {
    let insert = diesel::insert_into(dsl::idempotency_keys).values(answer);
    Ok(insert.on_conflict_do_nothing().execute(conn).await? == 1)
}

/// Forgets what is older than a day, by the database's own clock, which dated it.
pub async fn delete_old(conn: &mut Conn) -> QueryResult<usize> {
    let yesterday = sql::<Timestamptz>("now() - interval '1 day'");
    let old = dsl::idempotency_keys.filter(dsl::created_at.lt(yesterday));
    diesel::delete(old).execute(conn).await
}
