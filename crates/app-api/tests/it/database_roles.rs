//! Migrations run as the owner of the database; the service connects as a role that changes rows, no tables, and only
//! adds to the audit log.

use app_api::db::Database;
use diesel_async::RunQueryDsl as _;

use crate::harness::{FakeOrchestrator, Server, Setup, acme};

/// Runs one statement as the service and returns its error.
async fn refusal(server: &Server, text: &str) -> String {
    let url = server.database.url_as(&server.database.service_role());
    let mut conn = Database::new(&url, None).unwrap().connect().await.unwrap();
    diesel::sql_query(text).execute(&mut conn).await.unwrap_err().to_string()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_changes_no_table_and_only_adds_to_the_audit_log() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    // The service creates a tenant, so that its role has connections.
    assert_eq!(owner.post("/v1/tenants", acme()).await.status, 201);
    // The last entry that the creation adds to the audit log.
    server.until("acme", |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    let role = server.database.service_role();
    let connections = |user: &str| {
        format!(
            "pg_stat_activity WHERE datname = current_database() AND usename = '{user}' AND application_name = 'cial app-api'"
        )
    };
    assert!(server.database.count(&connections(&role)).await > 0);
    let count = server.database.count("audit_log").await;
    assert!(count > 0);
    for text in [
        "UPDATE audit_log SET actor = 'x'",
        "DELETE FROM audit_log",
        "TRUNCATE audit_log",
        "DELETE FROM audit_head",
        "INSERT INTO audit_head (only_one, id, hash) VALUES (true, 0, '')",
        "DELETE FROM __diesel_schema_migrations",
        "UPDATE installation SET name = 'x'",
        "TRUNCATE tenants",
    ] {
        let error = refusal(&server, text).await;
        assert!(error.contains("permission denied"), "{text}: {error}");
    }
    for text in [
        "CREATE TABLE x (y integer)",
        "CREATE TEMPORARY TABLE x (y integer)",
        "DROP TABLE audit_log",
        "ALTER TABLE audit_log DISABLE TRIGGER ALL",
        "DROP TRIGGER audit_log_refuse_change ON audit_log",
        "CREATE ROLE x",
        "SET ROLE postgres",
    ] {
        let error = refusal(&server, text).await;
        assert!(
            error.contains("must be owner") || error.contains("permission denied"),
            "{text}: {error}"
        );
    }
    assert_eq!(server.database.count("audit_log").await, count);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_from_before_the_role_gets_it_at_the_next_start() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let role = server.database.service_role();
    // As an earlier version left it.
    server.database.sql(&format!("DROP OWNED BY {role}")).await;
    let setup = server.replica();
    server.kill().await;
    // The pool of the ended server may hold connections for a moment.
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename";
    setup.database.sql(&format!("{end} = '{role}'")).await;
    setup.database.sql(&format!("DROP ROLE {role}")).await;
    let server = setup.start().await;
    server.sign_up().await;
    assert!(server.database.count("audit_log").await > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_tables_may_be_in_another_schema_than_public() {
    let setup = Setup::new(FakeOrchestrator::unreachable()).await;
    // The first schema on the search path of a role is the one with its own name.
    setup.database.sql("CREATE SCHEMA postgres").await;
    let server = setup.start().await;
    let owner = server.sign_up().await;
    assert_eq!(owner.post("/v1/tenants", acme()).await.status, 201);
    assert_eq!(server.database.count("postgres.tenants").await, 1);
    let error = refusal(&server, "CREATE TABLE postgres.x (y integer)").await;
    assert!(error.contains("permission denied"), "{error}");
}
