//! An installation never meets a database of other secrets: it refuses by name and says the two ways on.

use service::Failed;

use crate::world::postgres::LOCKED_ROLE;
use crate::world::{Fake, Server, Setup};

fn told(ended: Result<(), Failed>) -> String {
    let Err(Failed::Settings(faults)) = ended else { panic!("{ended:?}") };
    faults.0.join("\n")
}

/// A server on the database of another.
async fn after(first: &Server) -> Setup {
    let mut setup = Setup::new(Fake::silent()).await;
    setup.url = first.database.url.clone();
    setup.database = first.database.clone();
    setup
}

#[tokio::test(flavor = "multi_thread")]
async fn other_secrets_are_refused() {
    let first = Server::with(Fake::silent()).await;
    let mut setup = after(&first).await;
    setup.master = "another-8vY2m0Qz5hYt1rKp7sXw3uBn6cE";
    insta::assert_snapshot!(told(setup.begin().await.ended().await), @"CIAL_SSO_SECRET_FILE: the database of local was made with other secrets. Two ways on: bring back the secrets volumes that belong to this database, or give its data up with `cargo xtask local-down --purge` (installation local) and start anew.");
}

#[tokio::test(flavor = "multi_thread")]
async fn another_installation_is_refused() {
    let first = Server::with(Fake::silent()).await;
    let mut setup = after(&first).await;
    setup.env.push(("CIAL_INSTALL", "other".into()));
    insta::assert_snapshot!(told(setup.begin().await.ended().await), @"CIAL_INSTALL is other, but the database belongs to the installation local. Two ways on: bring back the secrets volumes that belong to this database, or give its data up with `cargo xtask local-down --purge` (installation other) and start anew.");
}

/// A database of an older version shows whether it was migrated.
#[tokio::test(flavor = "multi_thread")]
async fn the_database_of_another_is_not_migrated() {
    let first = Server::with(Fake::silent()).await;
    first.database.sql("DELETE FROM __diesel_schema_migrations").await;
    let mut setup = after(&first).await;
    setup.env.push(("CIAL_INSTALL", "other".into()));
    let told = told(setup.begin().await.ended().await);
    assert!(told.starts_with("CIAL_INSTALL is other, but the database belongs to"), "{told}");
    assert_eq!(first.database.count("__diesel_schema_migrations").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_of_something_else_is_left_as_it_is() {
    for theirs in ["CREATE TABLE articles ()", "CREATE TABLE installation (name text)"] {
        let setup = Setup::new(Fake::silent()).await;
        let database = setup.database.clone();
        database.sql(theirs).await;
        let told = told(setup.begin().await.ended().await);
        assert!(told.starts_with("CIAL_DATABASE_URL: the database holds tables that"), "{told}");
        let tables = "information_schema.tables WHERE table_schema = 'public'";
        assert_eq!(database.count(tables).await, 1, "{theirs}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_refuses_a_migration_is_no_reason_to_wait() {
    let first = Server::with(Fake::silent()).await;
    // The tables are there already: the first migration cannot be applied again.
    first.database.sql("DELETE FROM __diesel_schema_migrations").await;
    let ended = after(&first).await.begin().await.ended().await;
    let Err(Failed::Other(error)) = ended else { panic!("{ended:?}") };
    assert!(error.to_string().contains("cannot be migrated"), "{error:#}");
    assert!(error.to_string().contains("already exists"), "{error:#}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_that_the_database_refuses_is_no_reason_to_wait() {
    let mut setup = Setup::new(Fake::silent()).await;
    // Roles belong to the whole server; tests share it.
    let role = format!(
        "DO $$ BEGIN CREATE ROLE {LOCKED_ROLE} LOGIN PASSWORD 'the-right-one'; EXCEPTION WHEN OTHERS THEN NULL; END $$"
    );
    setup.database.sql(&role).await;
    setup.url = setup.database.url_as(LOCKED_ROLE);
    let told = told(setup.begin().await.ended().await);
    assert!(told.starts_with("CIAL_DATABASE_PASSWORD_FILE: the database refuses"), "{told}");
    assert!(told.contains("Two ways on"), "{told}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_database_does_not_hold_the_secret() {
    let server = Server::with(Fake::silent()).await;
    let held = format!("installation WHERE fingerprint LIKE '%{}%'", crate::world::MASTER);
    assert_eq!(server.database.count(&held).await, 0);
    assert_eq!(server.database.count("installation WHERE name = 'local'").await, 1);
}
