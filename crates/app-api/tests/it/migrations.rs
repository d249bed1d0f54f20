//! Migrations create the schema once, and the result matches the code.

use app_api::db::Database;
use diesel_async::RunQueryDsl as _;

use crate::harness::TestDatabase;

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_starts_migrate_once() {
    let postgres = TestDatabase::new().await;
    let database = Database::new(&postgres.url, None).unwrap();
    let all = (0..5).map(|_| {
        let database = database.clone();
        tokio::spawn(async move { database.migrate().await })
    });
    for done in futures_util::future::join_all(all).await {
        done.unwrap().unwrap();
    }
    let applied = postgres.count("__diesel_schema_migrations").await;
    database.migrate().await.unwrap();
    assert_eq!(postgres.count("__diesel_schema_migrations").await, applied);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_migrated_tables_match_the_schema_file() {
    #[derive(diesel::QueryableByName)]
    struct Column {
        #[diesel(sql_type = diesel::sql_types::Text)]
        line: String,
    }
    let postgres = TestDatabase::new().await;
    Database::new(&postgres.url, None).unwrap().migrate().await.unwrap();
    let query = "SELECT table_name || '.' || column_name || ' ' || udt_name || \
        CASE is_nullable WHEN 'YES' THEN ' null' ELSE '' END AS line FROM information_schema.columns \
        WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_%' ORDER BY 1";
    let columns: Vec<Column> =
        diesel::sql_query(query).load(&mut postgres.conn().await).await.unwrap();
    let found: Vec<_> = columns.into_iter().map(|c| c.line).collect();
    assert_eq!(found, declared());
}

/// The columns of `schema.rs`, read from its text.
fn declared() -> Vec<String> {
    let (mut table, mut columns) = (String::new(), Vec::new());
    for line in include_str!("../../src/db/schema.rs").lines().map(str::trim) {
        if line.starts_with("diesel::") {
            continue;
        }
        if let Some((name, kind)) = line.split_once(" -> ") {
            let kind = kind.trim_end_matches(',');
            let bare = kind.strip_prefix("Nullable<").and_then(|k| k.strip_suffix('>'));
            let null = if bare.is_some() { " null" } else { "" };
            let kind = bare.unwrap_or(kind).to_lowercase();
            columns.push(format!("{table}.{name} {kind}{null}"));
        } else if let Some((name, _)) = line.split_once(" (") {
            table = name.to_owned();
        }
    }
    columns.sort();
    columns
}
