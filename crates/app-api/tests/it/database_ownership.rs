//! app-api refuses a database of another installation, names the reason, and gives two ways out.

use service::ServiceError;

use crate::harness::postgres::LOCKED_ROLE;
use crate::harness::{FakeOrchestrator, Server, Setup};

fn received(ended: Result<(), ServiceError>) -> String {
    let Err(ServiceError::Settings(faults)) = ended else { panic!("{ended:?}") };
    faults.0.join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn other_secrets_are_refused() {
    let first = Server::with(FakeOrchestrator::unreachable()).await;
    let mut setup = first.replica();
    setup.master = "another-8vY2m0Qz5hYt1rKp7sXw3uBn6cE";
    insta::assert_snapshot!(received(setup.start_unready().await.wait_ended().await), @"CIAL_SSO_SECRET_FILE: the database of local was made with other secrets. Two ways on: bring back the secrets volumes that belong to this database, or give its data up with `cargo xtask local-down --purge` (installation local) and start anew.");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_installation_is_refused() {
    let first = Server::with(FakeOrchestrator::unreachable()).await;
    let mut setup = first.replica();
    setup.env.push(("CIAL_INSTALL", "other".into()));
    insta::assert_snapshot!(received(setup.start_unready().await.wait_ended().await), @"CIAL_INSTALL is other, but the database belongs to the installation local. Two ways on: bring back the secrets volumes that belong to this database, or give its data up with `cargo xtask local-down --purge` (installation other) and start anew.");
}

/// An empty list of migrations shows whether the database was migrated.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_another_installation_is_not_migrated() {
    let first = Server::with(FakeOrchestrator::unreachable()).await;
    first.database.sql("DELETE FROM __diesel_schema_migrations").await;
    let mut setup = first.replica();
    setup.env.push(("CIAL_INSTALL", "other".into()));
    let received = received(setup.start_unready().await.wait_ended().await);
    assert!(
        received.starts_with("CIAL_INSTALL is other, but the database belongs to"),
        "{received}"
    );
    assert_eq!(first.database.count("__diesel_schema_migrations").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_another_program_is_left_alone() {
    for theirs in ["CREATE TABLE articles ()", "CREATE TABLE installation (name text)"] {
        let setup = Setup::new(FakeOrchestrator::unreachable()).await;
        let database = setup.database.clone();
        database.sql(theirs).await;
        let received = received(setup.start_unready().await.wait_ended().await);
        assert!(
            received.starts_with("CIAL_DATABASE_URL: the database holds tables that"),
            "{received}"
        );
        let tables = "information_schema.tables WHERE table_schema = 'public'";
        assert_eq!(database.count(tables).await, 1, "{theirs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_migration_ends_the_process() {
    let first = Server::with(FakeOrchestrator::unreachable()).await;
    // The tables are there already: the first migration cannot be applied again.
    first.database.sql("DELETE FROM __diesel_schema_migrations").await;
    let ended = first.replica().start_unready().await.wait_ended().await;
    let Err(ServiceError::Other(error)) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("cannot be migrated"), "{error:#}");
    assert!(error.to_string().contains("already exists"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_password_ends_the_process() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    // Roles belong to the whole server, which tests share.
    let role = format!(
        "DO $$ BEGIN CREATE ROLE {LOCKED_ROLE} LOGIN PASSWORD 'the-right-one'; EXCEPTION WHEN OTHERS THEN NULL; END $$"
    );
    setup.database.sql(&role).await;
    setup.url = setup.database.url_as(LOCKED_ROLE);
    let received = received(setup.start_unready().await.wait_ended().await);
    assert!(
        received.starts_with("CIAL_DATABASE_PASSWORD_FILE: the database refuses"),
        "{received}"
    );
    assert!(received.contains("Two ways on"), "{received}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_does_not_hold_the_master_secret() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let held = format!("installation WHERE fingerprint LIKE '%{}%'", crate::harness::MASTER);
    assert_eq!(server.database.count(&held).await, 0);
    assert_eq!(server.database.count("installation WHERE name = 'local'").await, 1);
}

/// Every DDL command takes 300 ms; the last migration is missing.
async fn slow_migration(setup: &Setup) {
    let database = app_api::db::Database::new(&setup.url, None).unwrap();
    database.migrate().await.unwrap();
    let slow = "CREATE FUNCTION slow() RETURNS event_trigger LANGUAGE plpgsql AS \
        $$ BEGIN PERFORM pg_sleep(0.3); END $$";
    setup.database.sql("DROP TRIGGER users_revoke_grants ON users").await;
    for statement in [
        "DROP FUNCTION users_revoke_grants",
        "DROP TABLE sso_grants",
        "DROP FUNCTION sso_grants_hand_over",
        "ALTER TABLE tenants DROP COLUMN requested_at",
        "DELETE FROM __diesel_schema_migrations WHERE version = '20261129000004'",
        slow,
        "CREATE EVENT TRIGGER slow ON ddl_command_start EXECUTE FUNCTION slow()",
    ] {
        setup.database.sql(statement).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_may_take_longer_than_a_statement() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    slow_migration(&setup).await;
    setup.database_limits.statement = std::time::Duration::from_millis(200);
    setup.start().await.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_migration_that_fails_twice_ends_the_process() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    slow_migration(&setup).await;
    setup.database_limits.migration = std::time::Duration::from_millis(200);
    let ended = setup.start_unready().await.wait_ended().await;
    let Err(ServiceError::Other(error)) = ended else { panic!("{ended:?}") };
    let error = error.to_string();
    assert!(error.contains("failed 2 times") && error.contains("statement timeout"), "{error}");
}
