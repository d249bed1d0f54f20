//! `installation`: one row that names the installation to which the database belongs.

use diesel::prelude::*;
use diesel::sql_query;
use diesel::sql_types::Bool;
use diesel_async::RunQueryDsl;

use super::Conn;
use super::schema::installation::dsl;

/// The owner of a database, read before anything is written.
#[derive(Debug, PartialEq, Eq)]
pub enum DatabaseOwner {
    /// The database is empty.
    None,
    /// The database holds tables of another program.
    Foreign,
    /// The database belongs to this or another installation of Cial.
    Installation { name: String, fingerprint: String },
}

#[derive(QueryableByName)]
struct Tables {
    #[diesel(sql_type = Bool)]
    ours: bool,
    #[diesel(sql_type = Bool)]
    any: bool,
}

/// Ignores the tables of migrations and of extensions.
const TABLES: &str = r"
    SELECT (SELECT count(*) = 3 FROM information_schema.columns
            WHERE table_schema = current_schema() AND table_name = 'installation'
              AND column_name IN ('only_one', 'name', 'fingerprint')) AS ours,
           EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname = current_schema() AND c.relkind IN ('r', 'p') AND c.relname NOT LIKE '\_\_diesel\_%'
              AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass
                              AND d.objid = c.oid AND d.deptype = 'e')) AS any";

/// Reads the owner; writes nothing.
pub async fn find(conn: &mut Conn) -> QueryResult<DatabaseOwner> {
    let tables: Tables = sql_query(TABLES).get_result(conn).await?;
    if !tables.ours {
        return Ok(if tables.any { DatabaseOwner::Foreign } else { DatabaseOwner::None });
    }
    let row = dsl::installation.select((dsl::name, dsl::fingerprint)).first(conn).await;
    Ok(row.optional()?.map_or(DatabaseOwner::None, |(name, fingerprint)| {
        DatabaseOwner::Installation { name, fingerprint }
    }))
}

/// Claims a database without an owner, then returns the name and fingerprint of its owner.
pub async fn claim(
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
