//! The packages of a tenant, in the tenant's own schema and as its own role.
//!
//! The tenant owns the tables, so what they hold is not trusted: each text is cut to its bound before it leaves the server, and
//! every list has a limit. The functions of `pg_catalog` are named in full.

use diesel::QueryableByName;
use diesel::prelude::{OptionalExtension as _, QueryResult};
use diesel::sql_types::{Array, BigInt, Bytea, Integer, Jsonb, Text, Timestamptz, Uuid as SqlUuid};
use diesel_async::RunQueryDsl as _;
use protocol::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Conn;

/// The archive is stored in pieces of this size.
pub const PIECE_BYTES: usize = 1 << 20;

/// A package without its archive.
#[derive(Clone, Debug, PartialEq, Eq, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct PackageRow {
    #[diesel(sql_type = SqlUuid)]
    pub id: Uuid,
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = Text)]
    pub version: String,
    #[diesel(sql_type = Text)]
    pub about: String,
    #[diesel(sql_type = BigInt)]
    pub bytes: i64,
    #[diesel(sql_type = Text)]
    pub sha256: String,
    #[diesel(sql_type = Text)]
    pub created_by: String,
    #[diesel(sql_type = Timestamptz)]
    pub created_at: Timestamp,
    /// The names of its workflows.
    #[diesel(sql_type = Array<Text>)]
    pub workflows: Vec<String>,
}

/// The number of a tenant's packages, and the bytes of their archives.
#[derive(Clone, Copy, Debug, QueryableByName)]
pub struct Usage {
    #[diesel(sql_type = BigInt)]
    pub packages: i64,
    #[diesel(sql_type = BigInt)]
    pub bytes: i64,
}

/// Excludes other uploads of the tenant until the end of the transaction.
pub async fn lock(conn: &mut Conn) -> QueryResult<usize> {
    diesel::sql_query("LOCK TABLE cial_packages IN SHARE ROW EXCLUSIVE MODE").execute(conn).await
}

pub async fn usage(conn: &mut Conn) -> QueryResult<Usage> {
    let query = "SELECT pg_catalog.count(*) AS packages, \
        LEAST(COALESCE(pg_catalog.sum(bytes), 0), 9223372036854775807)::bigint AS bytes FROM cial_packages";
    diesel::sql_query(query).get_result(conn).await
}

/// Inserts a package without its archive; `false` when there is one of this name and version.
pub async fn insert(
    conn: &mut Conn,
    package: &PackageRow,
    workflows: &[(String, Value)],
) -> QueryResult<bool> {
    let inserted = diesel::sql_query(
        "INSERT INTO cial_packages (id, name, version, about, bytes, sha256, created_by, created_at) \
         VALUES ($1, $2, $3, $4, $5, $6, $7, $8) ON CONFLICT (name, version) DO NOTHING",
    )
    .bind::<SqlUuid, _>(package.id)
    .bind::<Text, _>(&package.name)
    .bind::<Text, _>(&package.version)
    .bind::<Text, _>(&package.about)
    .bind::<BigInt, _>(package.bytes)
    .bind::<Text, _>(&package.sha256)
    .bind::<Text, _>(&package.created_by)
    .bind::<Timestamptz, _>(package.created_at)
    .execute(conn)
    .await?;
    if inserted == 0 {
        return Ok(false);
    }
    for (name, definition) in workflows {
        diesel::sql_query(
            "INSERT INTO cial_workflows (package_id, name, definition) VALUES ($1, $2, $3)",
        )
        .bind::<SqlUuid, _>(package.id)
        .bind::<Text, _>(name)
        .bind::<Jsonb, _>(definition)
        .execute(conn)
        .await?;
    }
    Ok(true)
}

/// Inserts a piece of an archive.
pub async fn insert_piece(
    conn: &mut Conn,
    package: Uuid,
    number: i32,
    bytes: &[u8],
) -> QueryResult<usize> {
    diesel::sql_query(
        "INSERT INTO cial_package_pieces (package_id, number, bytes) VALUES ($1, $2, $3)",
    )
    .bind::<SqlUuid, _>(package)
    .bind::<Integer, _>(number)
    .bind::<Bytea, _>(bytes)
    .execute(conn)
    .await
}

/// The packages, the latest first, at most `limit`.
pub async fn list(conn: &mut Conn, limit: i64) -> QueryResult<Vec<PackageRow>> {
    diesel::sql_query(
        "SELECT id, pg_catalog.left(name, 63) AS name, pg_catalog.left(version, 63) AS version, \
             pg_catalog.left(about, 300) AS about, bytes, pg_catalog.left(sha256, 64) AS sha256, \
             pg_catalog.left(created_by, 300) AS created_by, created_at, \
             ARRAY(SELECT pg_catalog.left(w.name, 63) FROM cial_workflows w \
                 WHERE w.package_id = p.id ORDER BY w.name LIMIT 50) AS workflows \
         FROM cial_packages p ORDER BY created_at DESC, id DESC LIMIT $1",
    )
    .bind::<BigInt, _>(limit)
    .load(conn)
    .await
}

/// Deletes a package with its archive and its workflows; returns its id.
pub async fn delete(conn: &mut Conn, name: &str, version: &str) -> QueryResult<Option<Uuid>> {
    #[derive(QueryableByName)]
    struct Deleted {
        #[diesel(sql_type = SqlUuid)]
        id: Uuid,
    }
    let deleted: Option<Deleted> = diesel::sql_query(
        "DELETE FROM cial_packages WHERE name = $1 AND version = $2 RETURNING id",
    )
    .bind::<Text, _>(name)
    .bind::<Text, _>(version)
    .get_result(conn)
    .await
    .optional()?;
    Ok(deleted.map(|deleted| deleted.id))
}
