//! The size of a tenant's schema is bounded: above its limit nothing connects to it, and the tenant cannot undo that.

use std::time::Duration;

use axum::http::Method;
use diesel_async::SimpleAsyncConnection as _;
use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::harness::work::{archive, upload};
use crate::harness::{FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestClient, TestResponse};
use crate::packages::{DESCRIPTION, call, two_tenants, two_tenants_of};
use crate::tenant_databases::connect_as;

const ACME: &str = "/v1/tenants/acme";
const LIMIT: u64 = 16 << 20;

/// The tenants acme and globex on a server that measures without a pause, and a key of acme.
async fn with_watch() -> (Server, TestClient, String) {
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.size_interval = Duration::from_millis(50);
    let (server, owner, [key, _]) = two_tenants_of(setup).await;
    (server, owner, key)
}

async fn limit(owner: &TestClient, bytes: u64) -> TestResponse {
    let patch = json!({ "limits": { "database_bytes": bytes } });
    owner.json(Method::PATCH, ACME, &[], patch).await
}

async fn until(owner: &TestClient, what: &str, is_expected: impl Fn(&Value) -> bool) -> Value {
    let wait = async {
        loop {
            let shown = owner.get(ACME).await.json()["database"].clone();
            if is_expected(&shown) {
                return shown;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    let waited = tokio::time::timeout(TEST_TIMEOUT, wait).await;
    waited.unwrap_or_else(|_| panic!("not {what}"))
}

fn is_closed(database: &Value) -> bool {
    database["closed_because"].is_string()
}

async fn count(client: &Client, table: &str) -> i64 {
    client.query_one(&format!("SELECT count(*) FROM {table}"), &[]).await.unwrap().get(0)
}

/// Writes about 30 MiB that do not compress into the table `big`.
async fn fill(client: &Client) -> Result<(), tokio_postgres::Error> {
    client.batch_execute("CREATE TABLE big (n int, text text)").await?;
    let rows = "INSERT INTO big SELECT n, md5(n::text) || md5((n + 1)::text) FROM generate_series(1, 300000) n";
    client.batch_execute(rows).await
}

/// Waits until the role of acme may log in, or may not.
async fn until_login(server: &Server, can_login: bool) {
    let role = format!(
        "pg_roles WHERE rolname = '{}acme' AND rolcanlogin = {can_login}",
        server.database.tenant_roles
    );
    let wait = async {
        while server.database.count(&role).await == 0 {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, wait).await.expect("the role stays as it is");
}

/// Waits until a session is ended.
async fn until_ended(client: &Client) {
    let wait = async {
        while client.batch_execute("SELECT 1").await.is_ok() {
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(TEST_TIMEOUT, wait).await.expect("the session goes on");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_above_its_limit_is_closed_until_the_limit_is_raised() {
    let (server, owner, key) = with_watch().await;
    assert_eq!(limit(&owner, LIMIT).await.status, 200);
    let measured = until(&owner, "measured", |shown| shown["used_bytes"].is_u64()).await;
    assert!(measured["used_bytes"].as_u64().unwrap() < LIMIT / 4, "{measured}");
    let globex = connect_as(&server, "globex").await.unwrap();
    let acme = connect_as(&server, "acme").await.unwrap();
    acme.batch_execute("CREATE TABLE notes (text text); INSERT INTO notes VALUES ('a')")
        .await
        .unwrap();
    // The settings that the role may change for itself do not help it.
    acme.batch_execute("ALTER ROLE CURRENT_USER SET lock_timeout = '1s'").await.unwrap();
    // It may be ended before its end.
    let _ = fill(&acme).await;

    let shown = until(&owner, "closed", is_closed).await;
    let reason = shown["closed_because"].as_str().unwrap();
    assert!(reason.contains("may use 16.0 MiB, so nothing connects"), "{reason}");
    assert!(shown["used_bytes"].as_u64().unwrap() > LIMIT, "{shown}");
    until_login(&server, false).await;
    until_ended(&acme).await;
    let refused = connect_as(&server, "acme").await.unwrap_err();
    assert_eq!(refused.code().unwrap().code(), "28000", "{refused}");
    // Nor does what Cial itself does in the schema on behalf of the tenant open it again.
    let packages = call(&server.visitor, Method::GET, "/v1/tenants/acme/packages", &key).await;
    assert_eq!(packages.problem(), "409 tenant_database_full");
    let archive = archive(DESCRIPTION, "acme-etl-1.2.0");
    let refused = upload(&server.visitor, &key, "acme", &archive).await;
    assert_eq!(refused.problem(), "409 tenant_database_full");
    until_login(&server, false).await;
    let page = owner.visit("/admin/tenants/acme").await.text();
    assert!(page.contains("so nothing connects to its database"), "{page}");
    globex.batch_execute("SELECT 1").await.unwrap();

    assert_eq!(limit(&owner, 1 << 30).await.status, 200);
    until(&owner, "open", |shown| !is_closed(shown)).await;
    until_login(&server, true).await;
    let acme = connect_as(&server, "acme").await.unwrap();
    assert_eq!(count(&acme, "notes").await, 1);
    assert_eq!(upload(&server.visitor, &key, "acme", &archive).await.status, 201);
    acme.batch_execute("DROP TABLE IF EXISTS big").await.unwrap();
    until(&owner, "small", |shown| shown["used_bytes"].as_u64() < Some(LIMIT)).await;
    assert_eq!(limit(&owner, LIMIT).await.status, 200);
    for action in ["tenant.database_close", "tenant.database_open"] {
        let entries = server.audited(action).await;
        assert_eq!(entries.len(), 1, "{action}");
        let (actor, resource, before, after) = &entries[0];
        assert_eq!((actor.as_str(), resource.as_str()), ("reconcile", "tenant:acme"));
        let sizes = if before.is_null() { after } else { before };
        assert_eq!(sizes["limit_bytes"], LIMIT, "{action}");
    }
}

/// A table that is locked exclusively cannot be measured without a wait.
#[tokio::test(flavor = "multi_thread")]
async fn a_lock_hides_the_size_of_a_schema_for_some_rounds_only() {
    let (server, owner, _) = with_watch().await;
    let acme = connect_as(&server, "acme").await.unwrap();
    fill(&acme).await.unwrap();
    acme.batch_execute("BEGIN; LOCK TABLE big").await.unwrap();
    assert_eq!(limit(&owner, LIMIT).await.status, 200);
    until(&owner, "closed", is_closed).await;
    assert!(acme.batch_execute("SELECT 1").await.is_err());
    // Meanwhile others were measured.
    let globex = owner.get("/v1/tenants/globex").await.json();
    assert!(globex["database"]["used_bytes"].is_u64(), "{globex}");
}

async fn lock_again_and_again(server: &Server, table: usize) {
    let lock = format!("BEGIN; LOCK TABLE locked_{table}; SELECT pg_sleep(60)");
    loop {
        match connect_as(server, "acme").await {
            Ok(client) => _ = client.batch_execute(&lock).await,
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_connects_again_and_locks_in_a_loop_hides_no_size() {
    let (server, owner, _) = with_watch().await;
    let acme = connect_as(&server, "acme").await.unwrap();
    fill(&acme).await.unwrap();
    for table in 0..6 {
        acme.batch_execute(&format!("CREATE TABLE locked_{table} ()")).await.unwrap();
    }
    let lockers = (0..6).map(|table| lock_again_and_again(&server, table));
    let locks = "pg_locks WHERE mode = 'AccessExclusiveLock' AND locktype = 'relation' AND granted";
    let closed = async {
        while server.database.count(locks).await < 6 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(limit(&owner, LIMIT).await.status, 200);
        until(&owner, "closed", is_closed).await;
    };
    tokio::select! {
        _ = futures_util::future::join_all(lockers) => panic!("the clients ended"),
        () = closed => {}
    }
    until_login(&server, false).await;
    // A schema that fits gets its role's right to log in back.
    assert_eq!(limit(&owner, 1 << 30).await.status, 200);
    until_login(&server, true).await;
}

async fn used(owner: &TestClient, path: &str) -> u64 {
    owner.get(path).await.json()["database"]["used_bytes"].as_u64().unwrap_or_default()
}

/// Its writer is a session of the tenant's role.
#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_is_imported_is_not_measured() {
    let (server, owner, _) = with_watch().await;
    assert_eq!(limit(&owner, LIMIT).await.status, 200);
    let globex_until = async |is_large: bool| {
        let is_so = async || Ok((used(&owner, "/v1/tenants/globex").await > LIMIT) == is_large);
        testkit::eventually("the size of globex", TEST_TIMEOUT, is_so).await.unwrap();
    };
    let import =
        "INSERT INTO tenant_imports SELECT id, '2100-01-01' FROM tenants WHERE slug = 'acme'";
    server.database.sql(import).await;
    let globex = connect_as(&server, "globex").await.unwrap();
    fill(&globex).await.unwrap();
    // The rounds from here on began after the import did.
    globex_until(true).await;
    let acme = connect_as(&server, "acme").await.unwrap();
    fill(&acme).await.unwrap();
    globex.batch_execute("DROP TABLE big").await.unwrap();
    globex_until(false).await;
    assert!(used(&owner, ACME).await < LIMIT);
    server.database.sql("DELETE FROM tenant_imports").await;
    until(&owner, "closed", is_closed).await;
}

/// Also one that an upgrade finds closed.
#[tokio::test(flavor = "multi_thread")]
async fn a_closed_schema_that_lacks_a_migration_is_refused_as_closed() {
    let (server, _, [key, _]) = two_tenants(FakeOrchestrator::obedient()).await;
    let excess = r#"{ "version": "0", "excess": { "used_bytes": 2, "limit_bytes": 1 } }"#;
    let close = format!("UPDATE tenants SET database = database || '{excess}' WHERE slug = 'acme'");
    server.database.sql(&close).await;
    let packages = call(&server.visitor, Method::GET, "/v1/tenants/acme/packages", &key).await;
    assert_eq!(packages.problem(), "409 tenant_database_full");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_of_an_earlier_release_has_no_limit_of_its_schema() {
    const UP: &str = include_str!("../../migrations/2026-11-30-000071_database_limits/up.sql");
    const DOWN: &str = include_str!("../../migrations/2026-11-30-000071_database_limits/down.sql");
    let (server, owner, _) = two_tenants(FakeOrchestrator::obedient()).await;
    assert_eq!(limit(&owner, LIMIT).await.status, 200);
    let excess = r#"{ "excess": { "used_bytes": 2, "limit_bytes": 1 } }"#;
    let close = format!("UPDATE tenants SET database = database || '{excess}' WHERE slug = 'acme'");
    server.database.sql(&close).await;
    let mut conn = server.database.conn().await;
    conn.batch_execute(DOWN).await.unwrap();
    assert_eq!(server.database.count("tenants WHERE limits -> 'database_bytes' IS NULL").await, 2);
    assert_eq!(server.database.count("tenants WHERE database -> 'excess' IS NULL").await, 2);
    let before = owner.get(ACME).await.json();
    conn.batch_execute(UP).await.unwrap();
    // A tenant that has a limit keeps it.
    assert_eq!(limit(&owner, LIMIT).await.json()["limits"]["database_bytes"], LIMIT);
    conn.batch_execute(UP).await.unwrap();
    assert_eq!(owner.get(ACME).await.json()["limits"]["database_bytes"], LIMIT);
    let globex = owner.get("/v1/tenants/globex").await.json();
    assert_eq!(globex["limits"]["database_bytes"], 1_u64 << 50);
    assert_eq!(
        before["limits"]["database_bytes"],
        1_u64 << 50,
        "also where the migration is yet to run"
    );
    let no_limit = "tenants WHERE limits -> 'database_bytes' = '1125899906842624'";
    assert_eq!(server.database.count(no_limit).await, 1);
}

/// As after the death of a process between two steps, or after a change by hand.
#[tokio::test(flavor = "multi_thread")]
async fn the_role_follows_what_is_recorded() {
    let (server, owner, _) = with_watch().await;
    let acme = connect_as(&server, "acme").await.unwrap();
    fill(&acme).await.unwrap();
    assert_eq!(limit(&owner, LIMIT).await.status, 200);
    until(&owner, "closed", is_closed).await;
    until_login(&server, false).await;
    let role = format!("{}acme", server.database.tenant_roles);
    server.database.sql(&format!("ALTER ROLE {role} LOGIN")).await;
    until_login(&server, false).await;
    // The owner reads the limit of today, and it was closed once.
    assert_eq!(limit(&owner, LIMIT + (1 << 20)).await.status, 200);
    let shows = |shown: &Value| {
        shown["closed_because"].as_str().is_some_and(|reason| reason.contains("may use 17.0 MiB"))
    };
    until(&owner, "shown with the new limit", shows).await;
    assert_eq!(server.audited("tenant.database_close").await.len(), 1);
    assert_eq!(limit(&owner, 1 << 30).await.status, 200);
    until_login(&server, true).await;
    server.database.sql(&format!("ALTER ROLE {role} NOLOGIN")).await;
    until_login(&server, true).await;
    // A tenant that is deleted while it is closed goes like every other.
    assert_eq!(limit(&owner, LIMIT).await.status, 200);
    until(&owner, "closed", is_closed).await;
    assert_eq!(owner.send(Method::DELETE, ACME, &[], "").await.status, 202);
    server.until("acme", |tenant| tenant.is_none()).await;
    assert_eq!(server.database.count("database_sizes").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_limit_has_bounds() {
    let (_server, owner, _) = with_watch().await;
    for bytes in [0, LIMIT - 1, (1 << 50) + 1] {
        let refused = limit(&owner, bytes).await;
        assert_eq!(refused.problem(), "422 invalid_fields", "{bytes}");
        assert_eq!(refused.json()["errors"][0]["field"], "limits.database_bytes");
    }
}
