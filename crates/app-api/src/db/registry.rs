//! `registries`: credentials of registries, encrypted.

use diesel::prelude::*;
use diesel_async::RunQueryDsl;
use protocol::Timestamp;

use super::Conn;
use super::schema::registries;

#[derive(Clone, Debug, Queryable, Selectable, Insertable, AsChangeset)]
#[diesel(table_name = registries, check_for_backend(diesel::pg::Pg))]
pub struct Registry {
    pub host: String,
    pub username: String,
    pub sealed_login: String,
    pub updated_by: String,
    pub updated_at: Timestamp,
}

pub async fn all(conn: &mut Conn) -> QueryResult<Vec<Registry>> {
    registries::table.order(registries::host).select(Registry::as_select()).load(conn).await
}

pub async fn count(conn: &mut Conn) -> QueryResult<i64> {
    registries::table.count().get_result(conn).await
}

pub async fn by_host(conn: &mut Conn, host: &str) -> QueryResult<Option<Registry>> {
    registries::table.find(host).select(Registry::as_select()).first(conn).await.optional()
}

/// Inserts a registry, or replaces what is known of it.
pub async fn upsert(conn: &mut Conn, registry: &Registry) -> QueryResult<usize> {
    diesel::insert_into(registries::table)
        .values(registry)
        .on_conflict(registries::host)
        .do_update()
        .set(registry)
        .execute(conn)
        .await
}

pub async fn delete(conn: &mut Conn, host: &str) -> QueryResult<usize> {
    diesel::delete(registries::table.find(host)).execute(conn).await
}
