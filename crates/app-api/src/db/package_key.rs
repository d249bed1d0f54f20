//! `package_keys`: the keys whose signatures of packages the installation trusts.

use diesel::prelude::*;
use diesel::sql_types::{BigInt, Bytea, Text, Timestamptz};
use diesel_async::RunQueryDsl;
use protocol::Timestamp;

use super::Conn;
use super::schema::package_keys;

#[derive(Clone, Debug, PartialEq, Eq, Queryable, Selectable, Insertable)]
#[diesel(table_name = package_keys, check_for_backend(diesel::pg::Pg))]
pub struct PackageKeyRow {
    /// 32 bytes.
    pub public_key: Vec<u8>,
    pub name: String,
    pub created_by: String,
    pub created_at: Timestamp,
}

/// A key, and the number of packages that it signed.
#[derive(Clone, Debug, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct UsedKey {
    #[diesel(sql_type = Bytea)]
    pub public_key: Vec<u8>,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub created_by: String,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: Timestamp,
    #[diesel(sql_type = BigInt)]
    pub packages: i64,
}

/// All keys, by name.
pub async fn all(conn: &mut Conn) -> QueryResult<Vec<UsedKey>> {
    let query = "SELECT k.*, (SELECT count(*) FROM package_signatures s WHERE s.public_key = k.public_key) AS packages \
         FROM package_keys k ORDER BY name";
    diesel::sql_query(query).load(conn).await
}

pub async fn count(conn: &mut Conn) -> QueryResult<i64> {
    package_keys::table.count().get_result(conn).await
}

pub async fn is_known(conn: &mut Conn, public_key: &[u8]) -> QueryResult<bool> {
    let found = package_keys::table.find(public_key);
    diesel::select(diesel::dsl::exists(found)).get_result(conn).await
}

/// Inserts a key; `false` when its name or its bytes are there already.
pub async fn insert(conn: &mut Conn, row: &PackageKeyRow) -> QueryResult<bool> {
    let insert = diesel::insert_into(package_keys::table).values(row);
    Ok(insert.on_conflict_do_nothing().execute(conn).await? == 1)
}

/// Deletes a key and returns it.
pub async fn delete(conn: &mut Conn, name: &str) -> QueryResult<Option<PackageKeyRow>> {
    let named = package_keys::table.filter(package_keys::name.eq(name));
    let deleted = diesel::delete(named).returning(PackageKeyRow::as_returning());
    deleted.get_result(conn).await.optional()
}
