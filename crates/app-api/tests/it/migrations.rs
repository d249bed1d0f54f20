//! Migrations create the schema once, and the result matches the code.

use app_api::db::Database;
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};

use crate::harness::TestDatabase;

macro_rules! events_of_people {
    ($file:literal) => {
        include_str!(concat!("../../migrations/2026-11-30-000067_events_of_people/", $file))
    };
}

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
    // The earlier release alone reads `events`.
    let query = "SELECT table_name || '.' || column_name || ' ' || udt_name || \
        CASE is_nullable WHEN 'YES' THEN ' null' ELSE '' END AS line FROM information_schema.columns \
        WHERE table_schema = 'public' AND table_name NOT LIKE '\\_\\_%' AND table_name <> 'events' ORDER BY 1";
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

#[tokio::test(flavor = "multi_thread")]
async fn keys_that_a_persons_key_created_before_become_the_persons() {
    let postgres = TestDatabase::new().await;
    Database::new(&postgres.url, None).unwrap().migrate().await.unwrap();
    let user = "INSERT INTO users (id, email, name, role, password_hash, vouched_role) \
        VALUES (md5('mia')::uuid, 'mia@example.com', 'mia', 'admin', 'x', 'owner')";
    postgres.sql(user).await;
    // Each name is also the key's id; `gone` is nobody by now.
    for (name, creator, person, is_admin) in [
        ("login", None, Some("mia"), false),
        ("child", Some("login"), None, false),
        ("grandchild", Some("child"), None, false),
        ("admin child", Some("login"), None, true),
        ("old login", None, Some("gone"), false),
        ("orphan", Some("old login"), None, false),
        ("machine", None, None, true),
        ("child of a machine", Some("machine"), None, false),
    ] {
        let id = |name: Option<&str>| {
            name.map_or("NULL".to_owned(), |name| format!("md5('{name}')::uuid"))
        };
        let key = format!(
            "INSERT INTO api_keys (id, key_hash, name, role, is_admin, created_by_key, person_id) \
             VALUES ({}, '{name}', '{name}', 'admin', {is_admin}, {}, {})",
            id(Some(name)),
            id(creator),
            id(person)
        );
        postgres.sql(&key).await;
    }
    postgres.sql(include_str!("../../migrations/2026-11-29-000044_keys_of_persons/up.sql")).await;
    for (name, person, revoked) in [
        ("login", "= md5('mia')::uuid", false),
        ("child", "= md5('mia')::uuid", false),
        ("grandchild", "= md5('mia')::uuid", false),
        ("admin child", "= md5('mia')::uuid", true),
        ("orphan", "= md5('gone')::uuid", true),
        ("machine", "IS NULL", false),
        ("child of a machine", "IS NULL", false),
    ] {
        let key = format!(
            "api_keys WHERE name = '{name}' AND person_id {person} AND revoked = {revoked}"
        );
        assert_eq!(postgres.count(&key).await, 1, "{name}");
    }
}

/// A replica of the earlier release runs until the new one is ready.
#[tokio::test(flavor = "multi_thread")]
async fn the_earlier_release_reads_its_events_after_the_migration() {
    let postgres = TestDatabase::new().await;
    Database::new(&postgres.url, None).unwrap().migrate().await.unwrap();
    let (mut replica, mut migration) = (postgres.conn().await, postgres.conn().await);
    migration.batch_execute(events_of_people!("down.sql")).await.unwrap();
    let add = "BEGIN; INSERT INTO events \
        (id, at, kind, tenant_id, slug, name, desired, state, state_since, revision) VALUES \
        (1, now(), 'tenant.created', gen_random_uuid(), 'acme', 'Acme', 'running', 'running', now(), 1)";
    replica.batch_execute(add).await.unwrap();
    migration.batch_execute(events_of_people!("up.sql")).await.unwrap();
    replica.batch_execute("COMMIT").await.unwrap();
    assert_eq!(postgres.count("events WHERE slug = 'acme' AND revision = 1").await, 1);
    assert_eq!(postgres.count("event_log").await, 0);
}
