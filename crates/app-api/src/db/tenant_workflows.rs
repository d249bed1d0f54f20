//! The workflows of a tenant's packages, and which of them are paused. As for [`tenant_packages`](super::tenant_packages), nothing that is read
//! here is trusted.

use diesel::QueryableByName;
use diesel::prelude::{OptionalExtension as _, QueryResult};
use diesel::sql_types::{
    BigInt, Bool, Bytea, Integer, Jsonb, Nullable, Text, Timestamptz, Uuid as SqlUuid,
};
use diesel_async::RunQueryDsl as _;
use protocol::Timestamp;
use serde_json::Value;
use uuid::Uuid;

use super::Conn;
use super::tenant_rows::{MAX_DEFINITION_BYTES, bounded_json};

/// A workflow of the package that has it and was uploaded last.
#[derive(Clone, Debug, QueryableByName)]
#[diesel(check_for_backend(diesel::pg::Pg))]
pub struct WorkflowRow {
    #[diesel(sql_type = Text)]
    pub name: String,
    #[diesel(sql_type = SqlUuid)]
    pub package_id: Uuid,
    /// Like `acme-etl-1.2.0`.
    #[diesel(sql_type = Text)]
    pub package: String,
    #[diesel(sql_type = Nullable<Jsonb>)]
    pub definition: Option<Value>,
    #[diesel(sql_type = Bool)]
    pub paused: bool,
}

/// The largest definitions of a list together.
const MAX_LIST_BYTES: usize = 8 << 20;

fn columns() -> String {
    format!(
        "pg_catalog.left(w.name, 63) AS name, w.package_id, \
         pg_catalog.left(p.name || '-' || p.version, 127) AS package, {}, \
         EXISTS (SELECT 1 FROM cial_paused_workflows paused WHERE paused.name = w.name) AS paused \
         FROM cial_workflows w JOIN cial_packages p ON p.id = w.package_id",
        bounded_json("definition", MAX_DEFINITION_BYTES)
    )
}

/// The names of the workflows of a package.
pub async fn names_of_package(
    conn: &mut Conn,
    name: &str,
    version: &str,
) -> QueryResult<Vec<String>> {
    #[derive(QueryableByName)]
    struct Named {
        #[diesel(sql_type = Text)]
        name: String,
    }
    let query = "SELECT pg_catalog.left(w.name, 63) AS name FROM cial_workflows w \
         JOIN cial_packages p ON p.id = w.package_id WHERE p.name = $1 AND p.version = $2 LIMIT 50";
    let query = diesel::sql_query(query).bind::<Text, _>(name).bind::<Text, _>(version);
    let rows: Vec<Named> = query.load(conn).await?;
    Ok(rows.into_iter().map(|row| row.name).collect())
}

/// The workflows, one of each name, at most `limit`.
pub async fn list(conn: &mut Conn, limit: i64) -> QueryResult<Vec<WorkflowRow>> {
    let query = format!(
        "SELECT name, package_id, package, definition, paused FROM ( \
             SELECT *, pg_catalog.sum(pg_catalog.octet_length(definition::text)) OVER (ORDER BY name) AS bytes FROM ( \
                 SELECT DISTINCT ON (w.name) {} ORDER BY w.name, p.created_at DESC, p.id DESC LIMIT $1 \
             ) AS latest \
         ) AS counted WHERE bytes <= {MAX_LIST_BYTES} ORDER BY name",
        columns()
    );
    diesel::sql_query(query).bind::<BigInt, _>(limit).load(conn).await
}

pub async fn by_name(conn: &mut Conn, name: &str) -> QueryResult<Option<WorkflowRow>> {
    let query = format!(
        "SELECT {} WHERE w.name = $1 ORDER BY p.created_at DESC, p.id DESC LIMIT 1",
        columns()
    );
    diesel::sql_query(query).bind::<Text, _>(name).get_result(conn).await.optional()
}

/// Pauses a workflow, also those of its name in later packages; `false` when it is paused already. Forgets pauses of workflows that
/// no package has any more.
pub async fn pause(conn: &mut Conn, name: &str, by: &str, now: Timestamp) -> QueryResult<bool> {
    diesel::sql_query(
        "DELETE FROM cial_paused_workflows p \
         WHERE NOT EXISTS (SELECT 1 FROM cial_workflows w WHERE w.name = p.name)",
    )
    .execute(conn)
    .await?;
    let paused = diesel::sql_query(
        "INSERT INTO cial_paused_workflows (name, paused_by, paused_at) VALUES ($1, $2, $3) \
         ON CONFLICT (name) DO NOTHING",
    )
    .bind::<Text, _>(name)
    .bind::<Text, _>(by)
    .bind::<Timestamptz, _>(now)
    .execute(conn)
    .await?;
    Ok(paused == 1)
}

/// Returns whether the workflow was paused.
pub async fn resume(conn: &mut Conn, name: &str) -> QueryResult<bool> {
    let query = diesel::sql_query("DELETE FROM cial_paused_workflows WHERE name = $1");
    Ok(query.bind::<Text, _>(name).execute(conn).await? > 0)
}

/// A piece of a package's archive; `None` after the last one, or when the package is gone.
pub async fn package_piece(
    conn: &mut Conn,
    package: Uuid,
    number: i32,
) -> QueryResult<Option<Vec<u8>>> {
    #[derive(QueryableByName)]
    struct Piece {
        #[diesel(sql_type = Bytea)]
        bytes: Vec<u8>,
    }
    let piece: Option<Piece> = diesel::sql_query(
        "SELECT pg_catalog.substr(bytes, 1, 1048576) AS bytes FROM cial_package_pieces \
         WHERE package_id = $1 AND number = $2 LIMIT 1",
    )
    .bind::<SqlUuid, _>(package)
    .bind::<Integer, _>(number)
    .get_result(conn)
    .await
    .optional()?;
    Ok(piece.map(|piece| piece.bytes))
}
