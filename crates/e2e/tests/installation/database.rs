//! Programs inside two tenants reach their own schemas on Postgres with `psql`, and nothing else.

use std::fs;

use anyhow::{Context as _, Result};
use e2e::command_line::{create_app, delete_app, succeed};
use e2e::postgres::as_superuser;
use e2e::session::{Session, TIMEOUT};
use e2e::{AppImages, Checks, Parts};
use serde_json::json;
use testkit::{Installation, TempDir, eventually};

const PROGRAM: &str = include_str!("shell.rs");
const MANIFEST: &str = "database = true\nport = 3000\n";

/// The answer of a tenant's program to a shell command.
async fn shell(session: &mut Session, command: &str) -> Result<String> {
    let page = session.guest.post("/", &json!(command)).await?;
    page.expect_status(200)?;
    Ok(page.body.trim().to_owned())
}

async fn sql(session: &mut Session, text: &str) -> Result<String> {
    shell(session, &format!("psql -XAtq $DATABASE_URL -c '{text}'")).await
}

async fn has_sessions(postgres: &str, count: &str) -> Result<()> {
    let sessions = "SELECT count(*) FROM pg_stat_activity WHERE usename = 't_sql_acme'";
    let reached = async || Ok(as_superuser(postgres, sessions)? == count);
    eventually(&format!("{count} sessions"), TIMEOUT, reached).await
}

#[tokio::test]
async fn programs_of_two_tenants_reach_their_own_schemas_and_nothing_else() -> Result<()> {
    let (installation, mut checks) = (Installation::from_env()?, Checks::new());
    let postgres = Parts::of(&installation).service("postgres").await?;
    // The image of Postgres has psql.
    let base = postgres.inspected["Config"]["Image"].as_str().context("an image")?;
    let images = AppImages::build_on(base, "shell", PROGRAM, &["one"])?;
    let postgres = postgres.id;
    let folder = TempDir::new("database")?;
    let manifest = folder.path().join("cial.toml");
    fs::write(&manifest, MANIFEST)?;
    let created = create_app("shell", &images.names, Some(&manifest.display().to_string()));
    checks.require("an app is created whose release has a database", created)?;
    let mut sessions = Vec::new();
    for slug in ["sql-acme", "sql-globex"] {
        let create = ["tenants", "create", slug, "--app", "shell"];
        checks.require("a tenant is created", succeed(&create, None))?;
        let mut session = Session::of_owner(&installation, slug).await?;
        session.url_answers(200).await?;
        sessions.push(session);
    }
    let [acme, globex] = sessions.as_mut_slice() else { unreachable!("two were made") };

    let made = sql(acme, "CREATE TABLE notes AS SELECT 42 AS n; SELECT n FROM notes").await?;
    checks.equal("a program keeps a table in its schema", "42", &made);
    let who = sql(acme, "SELECT CURRENT_USER, current_schema()").await?;
    checks.equal("as its own role", "t_sql_acme|t_sql_acme", &who);
    let missing = sql(globex, "SELECT n FROM notes").await?;
    checks.contains("another tenant sees no such table", "does not exist", &missing);
    let denied = sql(globex, "SELECT n FROM t_sql_acme.notes").await?;
    checks.contains("and none by its full name", "permission denied", &denied);

    let other = "psql -XAtq $(echo $DATABASE_URL | sed s/globex/acme/g) -c 'SELECT 1'";
    let refused = shell(globex, other).await?;
    checks.contains("a program is refused as another role", "own role only", &refused);
    let other = "psql -XAtq $(echo $DATABASE_URL | sed s,@/[a-z_]*,@/postgres,) -c 'SELECT 1'";
    let refused = shell(globex, other).await?;
    checks.contains("and in another database", "own database only", &refused);
    let wrong = "psql -XAtq $(echo $DATABASE_URL | sed s,:[^:]*@,:wrong@,) -c 'SELECT 1'";
    let refused = shell(globex, wrong).await?;
    checks.contains("and with a wrong password", "password authentication failed", &refused);
    let network = "psql -XAtq 'host=postgres user=t_sql_globex connect_timeout=3' -c 'SELECT 1'";
    let refused = shell(globex, network).await?;
    checks.contains("and over the network", "could not translate host name", &refused);
    let replaced = "rm -f /run/cial/database/.s.PGSQL.5432; touch /run/cial/database/x";
    let refused = shell(globex, replaced).await?;
    checks.contains("nobody inside replaces the socket", "Read-only file system", &refused);
    let read = shell(globex, "cat /run/cial/secrets/database-url").await?;
    checks.contains("the file of the core is closed", "Permission denied", &read);
    let held = sql(globex, "SELECT 1").await?;
    checks.equal("and its own way is still open", "1", &held);

    let background = "psql -XAtq $DATABASE_URL -c 'SELECT pg_sleep(3600)' >/dev/null 2>&1 &";
    shell(acme, background).await?;
    checks.require("a program holds a session", has_sessions(&postgres, "1").await)?;
    acme.set_policy(1, 0).await?;
    checks.require("it is frozen", acme.becomes("frozen").await)?;
    checks.require("a frozen tenant holds no session", has_sessions(&postgres, "0").await)?;
    let thawed = sql(acme, "SELECT n FROM notes").await?;
    checks.equal("a thawed one connects again", "42", &thawed);

    for slug in ["sql-acme", "sql-globex"] {
        let deleted = succeed(&["tenants", "delete", slug, "--yes"], None);
        checks.require("a tenant is deleted", deleted)?;
    }
    let roles = "SELECT count(*) FROM pg_roles WHERE rolname LIKE 't\\_sql\\_%'";
    checks.equal("with its role", "0", &as_superuser(&postgres, roles)?);
    checks.require("the app is deleted", delete_app("shell", &[]))?;
    checks.finish()
}
