//! The schema and the role of each tenant: created with it, closed to everybody else, dropped with it.

pub(crate) mod hostile;

use std::num::NonZeroU32;
use std::time::Duration;

use app_api::audit::{Action, Actor, Entry, Resource};
use app_api::db::connect::Limits;
use app_api::db::tenant_sessions::{EndedSession, SessionBounds};
use app_api::db::{Conn, Database, tenant_database, tenant_sessions};
use app_api::tenant::database::DatabaseNames;
use protocol::orchestrator::Phase;
use protocol::{Slug, State};
use serde_json::json;
use service::{Secret, keys};
use tokio_postgres::{Client, Config, NoTls};

use crate::harness::faults::BreakingLink;
use crate::harness::{
    Call, FakeOrchestrator, MASTER, Reply, Server, TEST_TIMEOUT, TestClient, TestDatabase, acme,
};

/// Connects as the role of a tenant.
pub(crate) async fn connect_as(
    server: &Server,
    slug: &str,
) -> Result<Client, tokio_postgres::Error> {
    let role = format!("{}{}", server.database.tenant_roles, slug);
    let config: Config = server.database.url_as(&role).parse().unwrap();
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn with_tenant(orchestrator: FakeOrchestrator) -> (Server, TestClient) {
    let (server, owner) = Server::with_owner(orchestrator).await;
    assert_eq!(owner.post("/v1/tenants", acme()).await.status, 201);
    server.until("acme", |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    (server, owner)
}

async fn setting(client: &Client, name: &str) -> String {
    client.query_one(&format!("SHOW {name}"), &[]).await.unwrap().get(0)
}

/// The number of schemas and of roles that tenants have.
pub(crate) async fn existing(database: &TestDatabase) -> (i64, i64) {
    let roles = format!("pg_roles WHERE starts_with(rolname, '{}')", database.tenant_roles);
    (database.count("pg_namespace WHERE nspname LIKE 't\\_%'").await, database.count(&roles).await)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_created_with_a_schema_and_a_role() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let created = owner.post("/v1/tenants", acme()).await;
    let user = format!("{}acme", server.database.tenant_roles);
    let names = json!({
        "schema": "t_acme", "user": user, "version": null, "failure": null, "used_bytes": null,
        "closed_because": null,
    });
    assert_eq!(created.json()["database"], names);
    server.until_state("acme", State::Running).await;
    assert_eq!(existing(&server.database).await, (1, 1));
    let shown = owner.get("/v1/tenants/acme").await;
    assert_eq!(shown.json()["database"]["user"], user);
    assert!(shown.json()["database"]["version"].is_string());

    let tenant = connect_as(&server, "acme").await.unwrap();
    for (name, value) in [
        ("search_path", "t_acme"),
        ("statement_timeout", "1min"),
        ("idle_in_transaction_session_timeout", "1min"),
        ("work_mem", "4MB"),
        ("temp_file_limit", "1GB"),
    ] {
        assert_eq!(setting(&tenant, name).await, value, "{name}");
    }
    let migrated = tenant.query_one("SELECT count(*) FROM __diesel_schema_migrations", &[]).await;
    assert_eq!(migrated.unwrap().get::<_, i64>(0), 4);
    tenant
        .batch_execute("CREATE TABLE notes (text text); INSERT INTO notes VALUES ('a')")
        .await
        .unwrap();

    let role = format!(
        "pg_authid WHERE rolname = '{user}' AND rolcanlogin AND rolconnlimit = 13 AND rolpassword LIKE 'SCRAM-SHA-256$%' \
         AND NOT (rolsuper OR rolinherit OR rolcreaterole OR rolcreatedb OR rolreplication OR rolbypassrls)"
    );
    assert_eq!(server.database.count(&role).await, 1);
    let id = server.row("acme").await.tenant_id();
    let password = keys::tenant_database_password(&Secret::new(MASTER), id);
    for response in [&created, &shown, &owner.get("/v1/audit").await] {
        assert!(!response.text().contains(password.reveal()));
    }
    let audited = "audit_log WHERE action = 'tenant.database_create' AND resource = 'acme'";
    assert_eq!(server.database.count(audited).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_without_a_database_gets_one_while_it_runs() {
    let (server, _owner) = with_tenant(FakeOrchestrator::obedient()).await;
    server.until_state("acme", State::Running).await;
    // As an earlier version left it.
    let user = format!("{}acme", server.database.tenant_roles);
    for text in [
        "DROP SCHEMA t_acme CASCADE".to_owned(),
        format!("DROP OWNED BY {user}"),
        format!("DROP ROLE {user}"),
        "UPDATE tenants SET database = 'null'".to_owned(),
    ] {
        server.database.sql(&text).await;
    }
    let server = server.restart().await;
    server.until("acme", |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    assert_eq!(existing(&server.database).await, (1, 1));
    assert_eq!(server.row("acme").await.state, State::Running);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_name_in_use_is_the_reason_until_it_is_free() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    server.database.sql("CREATE SCHEMA t_acme").await;
    assert_eq!(owner.post("/v1/tenants", acme()).await.status, 201);
    let is_explained = |reason: &str| {
        reason.starts_with("The tenant's database cannot be made yet")
            && reason.contains("schema \"t_acme\" already exists")
    };
    server
        .until("acme", |tenant| {
            tenant.is_some_and(|t| t.state_reason.as_deref().is_some_and(is_explained))
        })
        .await;
    assert_eq!(existing(&server.database).await, (1, 0));
    assert_eq!(server.orchestrator.calls(), []);
    server.database.sql("DROP SCHEMA t_acme").await;
    server.until_state("acme", State::Running).await;
    assert_eq!(server.row("acme").await.state_reason, None);
}

/// The connection breaks before each message in turn, the commit included.
#[tokio::test(flavor = "multi_thread")]
async fn a_creation_that_breaks_off_leaves_nothing() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let slug: Slug = "acme".parse().unwrap();
    let id = protocol::TenantId::new(uuid::Uuid::now_v7());
    let database = server.database.clone();
    server.stop().await;
    database
        .sql(&format!(
            "INSERT INTO tenants (id, slug, name, limits, policy) VALUES ('{}', 'acme', 'Acme', '{{}}', '{{}}')",
            id.uuid()
        ))
        .await;
    let names =
        DatabaseNames { schema: "t_acme".into(), user: format!("{}acme", database.tenant_roles) };
    let password = keys::tenant_database_password(&Secret::new(MASTER), id);
    let command = Actor::command("test");
    let entry = Entry::new(command, Action::TenantDatabaseCreate, Resource::tenant(&slug));
    let now = protocol::Timestamp::from_timestamp(1_800_000_000, 0).unwrap();
    let unused = Secret::new("unused-unused-unused-unused-unused");
    let made = format!(
        "(SELECT FROM pg_namespace WHERE nspname LIKE 't\\_%' \
          UNION ALL SELECT FROM pg_roles WHERE starts_with(rolname, '{}') \
          UNION ALL SELECT FROM tenants WHERE database <> 'null') made",
        database.tenant_roles
    );
    let mut breaks = 0;
    loop {
        let link = BreakingLink::before(breaks + 1, TestDatabase::server_directory());
        let url = database.url_through(link.directory());
        let through = Database::with_limits(&url, Some(&unused), Limits::default()).unwrap();
        let created = match through.connect_provisioner().await {
            Ok(conn) => {
                tenant_database::create(conn, id, &names, &password, &entry, now).await.is_ok()
            }
            Err(_) => false,
        };
        if created {
            break;
        }
        assert_eq!(database.count(&made).await, 0, "after {breaks} messages");
        breaks += 1;
    }
    assert!(breaks > 20, "{breaks}");
    assert_eq!(database.count(&made).await, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_deleted_tenant_loses_keys_connections_and_data_in_this_order() {
    let (server, owner) = with_tenant(FakeOrchestrator::scripted(&[
        (Call::Run, Reply::Observed(Phase::Ready)),
        (Call::Stop, Reply::Refused(500, "engine_busy")),
        (Call::Stop, Reply::Observed(Phase::Stopped)),
        (Call::Remove, Reply::Refused(500, "engine_busy")),
        (Call::Remove, Reply::Gone),
        (Call::Run, Reply::Observed(Phase::Ready)),
    ]))
    .await;
    server.until_state("acme", State::Running).await;
    let key = server.key_of(Some("acme"), protocol::api_keys::Role::Admin).await;
    let client = server.visitor.with_key(&key);
    let call = async || client.get("/v1/tenants/acme").await;
    assert_eq!(call().await.status, 200);
    let tenant = connect_as(&server, "acme").await.unwrap();
    tenant
        .batch_execute(
            "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('a'); \
             ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC; BEGIN; SELECT * FROM notes",
        )
        .await
        .unwrap();

    let deleted = owner.send("DELETE".parse().unwrap(), "/v1/tenants/acme", &[], "").await;
    assert_eq!(deleted.status, 202);
    assert_eq!(call().await.problem(), "401 invalid_key");
    server.until("acme", |tenant| tenant.is_none()).await;
    assert_eq!(existing(&server.database).await, (0, 0));
    assert!(tenant.simple_query("SELECT 1").await.is_err());
    let steps = "(SELECT string_agg(action, ' ' ORDER BY id) AS steps FROM audit_log \
        WHERE resource = 'acme' AND action ~ 'delete|drop|gone') a \
        WHERE steps = 'tenant.delete tenant.database_drop tenant.gone'";
    assert_eq!(server.database.count(steps).await, 1);

    assert_eq!(call().await.problem(), "401 invalid_key");
    assert_eq!(owner.post("/v1/tenants", acme()).await.status, 201);
    server.until_state("acme", State::Running).await;
    assert_eq!(call().await.problem(), "401 invalid_key");
    let anew = connect_as(&server, "acme").await.unwrap();
    let missing = anew.simple_query("SELECT * FROM notes").await.unwrap_err();
    assert_eq!(missing.code().unwrap().code(), "42P01");
    server.orchestrator.assert_script_done();
}

/// Kills the service at each step of a removal; the next start goes on.
#[tokio::test(flavor = "multi_thread")]
async fn a_removal_is_resumed() {
    for kill_after in ["desired", "database"] {
        let (mut server, owner) = with_tenant(FakeOrchestrator::obedient()).await;
        server.until_state("acme", State::Running).await;
        // While the engine is unreachable the removal cannot end.
        if kill_after == "desired" {
            server.orchestrator.set_reachable(false);
        }
        owner.send("DELETE".parse().unwrap(), "/v1/tenants/acme", &[], "").await;
        if kill_after == "database" {
            server.until("acme", |t| t.is_none_or(|t| t.database.is_none())).await;
        }
        server = server.restart().await;
        server.orchestrator.set_reachable(true);
        server.until("acme", |tenant| tenant.is_none()).await;
        assert_eq!(existing(&server.database).await, (0, 0), "{kill_after}");
        assert_eq!(server.database.count("audit_log WHERE action = 'tenant.gone'").await, 1);
    }
}

/// One tenant took its ledger away from the migrations; the other is migrated regardless.
#[tokio::test(flavor = "multi_thread")]
async fn each_schema_is_migrated_at_an_upgrade_by_itself() {
    let (server, owner) = with_tenant(FakeOrchestrator::obedient()).await;
    let globex = json!({ "slug": "globex", "name": "Globex" });
    assert_eq!(owner.post("/v1/tenants", globex).await.status, 201);
    server.until_state("globex", State::Running).await;
    let latest = server.row("acme").await.database.unwrap().version;
    let user = format!("{}globex", server.database.tenant_roles);
    // A setting for this database alone, which comes before those of the role.
    let elsewhere = "DO $$ BEGIN EXECUTE format('ALTER ROLE CURRENT_USER IN DATABASE %I SET search_path = public', \
                     current_database()); END $$";
    connect_as(&server, "acme").await.unwrap().batch_execute(elsewhere).await.unwrap();
    let misled = connect_as(&server, "acme").await.unwrap();
    assert_eq!(setting(&misled, "search_path").await, "public");
    for text in [
        "UPDATE tenants SET database = jsonb_set(database, '{version}', '\"0\"')",
        "DROP TABLE t_acme.cial_paused_workflows, t_acme.cial_task_lines, t_acme.cial_tasks, t_acme.cial_executions, t_acme.cial_workflows, t_acme.cial_package_pieces, t_acme.cial_packages",
        "DROP TABLE t_globex.cial_paused_workflows, t_globex.cial_task_lines, t_globex.cial_tasks, t_globex.cial_executions, t_globex.cial_workflows, t_globex.cial_package_pieces, t_globex.cial_packages",
        "DELETE FROM t_acme.__diesel_schema_migrations",
        "DELETE FROM t_globex.__diesel_schema_migrations",
        "ALTER TABLE t_globex.__diesel_schema_migrations OWNER TO postgres",
    ] {
        server.database.sql(text).await;
    }
    let server = server.restart().await;
    let version = |slug, version: &str, is_failed| {
        let version = version.to_owned();
        server.until(slug, move |tenant| {
            let database = tenant.and_then(|tenant| tenant.database.as_ref());
            database.is_some_and(|d| d.version == version && d.failure.is_some() == is_failed)
        })
    };
    version("acme", &latest, false).await;
    let restored = connect_as(&server, "acme").await.unwrap();
    assert_eq!(setting(&restored, "search_path").await, "t_acme");
    version("globex", "0", true).await;
    let shown = owner_of(&server).await.get("/v1/tenants/globex").await.json();
    assert!(
        shown["database"]["failure"].as_str().unwrap().contains("permission denied"),
        "{shown}"
    );
    assert_eq!(shown["state"], "running");

    let give_back = format!("ALTER TABLE t_globex.__diesel_schema_migrations OWNER TO \"{user}\"");
    server.database.sql(&give_back).await;
    let server = server.restart().await;
    let is_current = |t: Option<&app_api::tenant::Tenant>| {
        let database = t.and_then(|t| t.database.as_ref());
        database.is_some_and(|d| d.version == latest && d.failure.is_none())
    };
    server.until("globex", is_current).await;
}

/// The owner's session, after a restart on another port.
async fn owner_of(server: &Server) -> TestClient {
    server.new_session_of(crate::harness::EMAIL).await
}

/// Beyond what the sessions of these tests hold.
const NO_BOUNDS: SessionBounds = SessionBounds {
    transaction: TEST_TIMEOUT,
    role_locks: 1_000,
    all_locks: 1_000,
    notify_queue: 1.0,
};

/// The tenants `acme` and `globex`, and a connection of the role that provisions their databases.
async fn with_two_tenants() -> (Server, Conn) {
    let (server, owner) = with_tenant(FakeOrchestrator::obedient()).await;
    let globex = json!({ "slug": "globex", "name": "Globex" });
    assert_eq!(owner.post("/v1/tenants", globex).await.status, 201);
    server.until("globex", |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    let url = server.database.url_as(&server.database.provisioner_role());
    let provisioner = Database::new(&url, None).unwrap().connect().await.unwrap();
    (server, provisioner)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_holds_what_all_share_is_ended_and_others_stay() {
    let (server, mut provisioner) = with_two_tenants().await;
    let globex = connect_as(&server, "globex").await.unwrap();

    let many_tables: String = (0..30).map(|n| format!("CREATE TABLE t{n} ();")).collect();
    for (statements, bounds, reason) in [
        (
            "",
            SessionBounds { transaction: Duration::ZERO, ..NO_BOUNDS },
            "a transaction that stays open",
        ),
        (many_tables.as_str(), SessionBounds { role_locks: 20, ..NO_BOUNDS }, "too many locks"),
        (
            "",
            SessionBounds { notify_queue: -1.0, ..NO_BOUNDS },
            "an open transaction while the queue of notifications fills",
        ),
    ] {
        let acme = connect_as(&server, "acme").await.unwrap();
        acme.batch_execute(&format!("BEGIN; {statements}")).await.unwrap();
        assert_eq!(tenant_sessions::end_harmful(&mut provisioner, NO_BOUNDS).await.unwrap(), []);
        let ended = tenant_sessions::end_harmful(&mut provisioner, bounds).await.unwrap();
        let user = format!("{}acme", server.database.tenant_roles);
        assert_eq!(ended, [EndedSession { user, reason: reason.to_owned() }]);
        assert!(acme.batch_execute("SELECT 1").await.is_err(), "{reason}");
    }
    globex.batch_execute("SELECT 1").await.unwrap();
}

/// Sessions of a role, each with a transaction that locks about a dozen objects.
async fn sessions_with_locks(server: &Server, slug: &str, count: usize) -> Vec<Client> {
    let mut sessions = Vec::new();
    for session in 0..count {
        let client = connect_as(server, slug).await.unwrap();
        let tables: String = (0..10).map(|n| format!("CREATE TABLE s{session}_{n} ();")).collect();
        client.batch_execute(&format!("BEGIN; {tables}")).await.unwrap();
        sessions.push(client);
    }
    sessions
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_count_for_the_role_and_for_all_tenants_together() {
    let (server, mut provisioner) = with_two_tenants().await;
    let globex = sessions_with_locks(&server, "globex", 1).await;
    let user = format!("{}acme", server.database.tenant_roles);

    for (bounds, reason) in [
        (SessionBounds { role_locks: 20, ..NO_BOUNDS }, "too many locks"),
        (SessionBounds { all_locks: 40, ..NO_BOUNDS }, "too many locks of all tenants together"),
    ] {
        let one = sessions_with_locks(&server, "acme", 1).await;
        assert_eq!(tenant_sessions::end_harmful(&mut provisioner, bounds).await.unwrap(), []);
        one[0].batch_execute("ROLLBACK").await.unwrap();
        let acme = sessions_with_locks(&server, "acme", 3).await;
        let ended = tenant_sessions::end_harmful(&mut provisioner, bounds).await.unwrap();
        let each = EndedSession { user: user.clone(), reason: reason.to_owned() };
        assert_eq!(ended, [each.clone(), each.clone(), each]);
        for session in acme {
            assert!(session.batch_execute("SELECT 1").await.is_err(), "{reason}");
        }
        // Holds nothing any more.
        one[0].batch_execute("SELECT 1").await.unwrap();
        globex[0].batch_execute("SELECT 1").await.unwrap();
    }
}

/// One transaction for all would need a place in the server's table of locks for each.
#[tokio::test(flavor = "multi_thread")]
async fn the_objects_of_a_schema_are_dropped_in_batches() {
    let (server, owner) = with_tenant(FakeOrchestrator::obedient()).await;
    server.until_state("acme", State::Running).await;
    let tenant = connect_as(&server, "acme").await.unwrap();
    let make = async |count: u32| {
        let tables: String = (0..count).map(|n| format!("CREATE TABLE t{n} ();")).collect();
        tenant.batch_execute(&tables).await.unwrap();
    };
    tenant
        .batch_execute(
            "CREATE TYPE pair AS (a int, b int); CREATE TYPE span AS RANGE (subtype = int4); \
             CREATE TABLE \"odd;\"\"name\" (id int GENERATED ALWAYS AS IDENTITY PRIMARY KEY, n serial, p pair, s span); \
             CREATE TABLE parted (id int PRIMARY KEY) PARTITION BY RANGE (id); \
             CREATE TABLE part PARTITION OF parted FOR VALUES FROM (0) TO (1); \
             CREATE VIEW seen AS SELECT * FROM parted; CREATE MATERIALIZED VIEW kept AS SELECT * FROM seen; \
             CREATE FUNCTION \"f;\"(pair) RETURNS int LANGUAGE sql AS 'SELECT 1'; \
             CREATE OPERATOR === (LEFTARG = int, RIGHTARG = int, FUNCTION = int4eq); \
             CREATE COLLATION plain FROM \"C\"; CREATE SEQUENCE counter",
        )
        .await
        .unwrap();
    make(300).await;
    let relations = "pg_class WHERE relnamespace = 't_acme'::regnamespace";
    assert!(server.database.count(relations).await > 300);

    let url = server.database.url_as(&server.database.provisioner_role());
    let mut provisioner = Database::new(&url, None).unwrap().connect().await.unwrap();
    let batch = NonZeroU32::new(50).unwrap();
    let transactions =
        tenant_database::drop_objects(&mut provisioner, "t_acme", batch).await.unwrap();
    assert!((7..=8).contains(&transactions), "{transactions}");
    for catalog in
        ["pg_class WHERE rel", "pg_proc WHERE pro", "pg_type WHERE typ", "pg_operator WHERE opr"]
    {
        let left = format!("{catalog}namespace = 't_acme'::regnamespace");
        assert_eq!(server.database.count(&left).await, 0, "{left}");
    }
    let none = tenant_database::drop_objects(&mut provisioner, "t_acme", batch).await.unwrap();
    assert_eq!(none, 0);

    // More than one batch of a deletion.
    make(250).await;
    let deleted = owner.send("DELETE".parse().unwrap(), "/v1/tenants/acme", &[], "").await;
    assert_eq!(deleted.status, 202);
    server.until("acme", |tenant| tenant.is_none()).await;
    assert_eq!(existing(&server.database).await, (0, 0));
}
