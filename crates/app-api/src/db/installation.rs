//! `installation`: one row that says whose database this is.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;

use super::Conn;
use super::schema::installation::dsl;

/// What is found before anything is written.
#[derive(Debug, PartialEq, Eq)]
pub enum Found {
    /// Nothing of anybody's.
    Nothing,
    /// Tables, but none that says whose: not made by us.
    Foreign,
    /// Ours or another installation's, by name and fingerprint.
    Held(String, String),
}

#[derive(QueryableByName)]
struct Tables {
    #[diesel(sql_type = Bool)]
    ours: bool,
    #[diesel(sql_type = Bool)]
    any: bool,
}

/// What migrations and extensions bring for themselves does not count.
const TABLES: &str = r"
    SELECT (SELECT count(*) = 3 FROM information_schema.columns
            WHERE table_schema = current_schema() AND table_name = 'installation'
              AND column_name IN ('only_one', 'name', 'fingerprint')) AS ours,
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE '\_\_diesel\_%'
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                              AND d.objid = c.oid AND d.deptype = 'e')) AS any";

/// Only looks.
pub async fn find(conn: &mut Conn) -> QueryResult<Found> {
    let tables: Tables = sql_query(TABLES).get_result(conn).await?;
    if !tables.ours {
        return Ok(if tables.any { Found::Foreign } else { Found::Nothing });
    }
    let row = dsl::installation.select((dsl::name, dsl::fingerprint)).first(conn).await;
    Ok(row.optional()?.map_or(Found::Nothing, |(name, print)| Found::Held(name, print)))
}

/// Writes the row unless there is one; answers what stands there.
pub async fn settle(
    conn: &mut Conn,
    name: &str,
    fingerprint: &str,
) -> QueryResult<(String, String)> {
    diesel::insert_into(dsl::installation)
        .values((dsl::name.eq(name), dsl::fingerprint.eq(fingerprint)))
        .on_conflict_do_nothing()
        .execute(conn)
        .await?;
    dsl::installation.select((dsl::name, dsl::fingerprint)).first(conn).await
}
