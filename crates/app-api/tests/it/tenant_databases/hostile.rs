//! The role of one tenant tries to leave its schema.

use futures_util::future::join_all;
use serde_json::json;

use super::{connect_as, with_tenant};
use crate::harness::FakeOrchestrator;

const DENIED: &str = "42501";
const NO_TABLE: &str = "42P01";

/// Statements of the role of acme, each with the code by which the server refuses it. `{roles}` is the prefix of the roles of
/// tenants, `{service}` and `{provisioner}` are the roles of app-api.
pub(crate) const ATTEMPTS: &[(&str, &str)] = &[
    // Other tenants.
    ("SELECT * FROM t_globex.notes", DENIED),
    ("INSERT INTO t_globex.notes VALUES ('x')", DENIED),
    ("CREATE TABLE t_globex.x ()", DENIED),
    ("DROP TABLE t_globex.notes", DENIED),
    ("DROP SCHEMA t_globex CASCADE", DENIED),
    ("ALTER SCHEMA t_globex RENAME TO x", DENIED),
    ("SET search_path = t_globex; SELECT * FROM notes_of_globex", NO_TABLE),
    ("SELECT t_globex.answer()", DENIED),
    ("SET ROLE {roles}globex", DENIED),
    ("GRANT {roles}globex TO CURRENT_USER", DENIED),
    // The control plane.
    ("SELECT * FROM tenants", NO_TABLE),
    ("SELECT * FROM public.tenants", DENIED),
    ("SELECT * FROM public.api_keys", DENIED),
    ("INSERT INTO public.users SELECT", DENIED),
    ("BEGIN; LOCK TABLE public.tenants", DENIED),
    ("CREATE TABLE public.x ()", DENIED),
    ("SET ROLE {service}", DENIED),
    ("SET ROLE {provisioner}", DENIED),
    ("SET ROLE postgres", DENIED),
    ("SET SESSION AUTHORIZATION postgres", DENIED),
    // Its own rights.
    ("ALTER ROLE CURRENT_USER SUPERUSER", DENIED),
    ("ALTER ROLE CURRENT_USER CREATEROLE", DENIED),
    ("ALTER ROLE CURRENT_USER CONNECTION LIMIT 1000", DENIED),
    ("ALTER ROLE postgres PASSWORD 'x'", DENIED),
    ("CREATE ROLE x", DENIED),
    ("DROP SCHEMA t_acme CASCADE", DENIED),
    ("ALTER SCHEMA t_acme OWNER TO CURRENT_USER", DENIED),
    (
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql AS 'SELECT 1'; ALTER FUNCTION f() OWNER TO postgres",
        DENIED,
    ),
    ("SET temp_file_limit = -1", DENIED),
    // The server.
    ("SELECT pg_read_file('/etc/passwd')", DENIED),
    ("SELECT pg_ls_dir('.')", DENIED),
    ("COPY (SELECT 1) TO PROGRAM 'id'", DENIED),
    ("COPY (SELECT 1) TO '/tmp/x'", DENIED),
    ("CREATE TABLE lines (line text); COPY lines FROM '/etc/passwd'", DENIED),
    ("ALTER SYSTEM SET work_mem = '1GB'", DENIED),
    ("SELECT pg_reload_conf()", DENIED),
    ("CREATE FUNCTION c() RETURNS int LANGUAGE c AS '/lib/x.so', 'f'", DENIED),
    ("CREATE FUNCTION i() RETURNS int LANGUAGE internal AS 'now'", DENIED),
    (
        "CREATE EVENT TRIGGER x ON ddl_command_end EXECUTE FUNCTION suppress_redundant_updates_trigger()",
        DENIED,
    ),
    ("SELECT rolpassword FROM pg_authid", DENIED),
    ("SELECT * FROM pg_statistic", DENIED),
    ("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{service}'", DENIED),
    ("SELECT pg_create_physical_replication_slot('x')", DENIED),
    ("SELECT pg_switch_wal()", DENIED),
    ("CREATE PUBLICATION x", DENIED),
    ("CREATE SERVER x FOREIGN DATA WRAPPER y", "42704"),
    ("CREATE TABLESPACE x LOCATION '/tmp'", DENIED),
    // Objects that are shared with others.
    ("CREATE SCHEMA x", DENIED),
    ("CREATE TEMPORARY TABLE x ()", DENIED),
    ("CREATE DATABASE x", DENIED),
    ("SELECT pg_advisory_lock(1)", DENIED),
    ("SELECT pg_try_advisory_xact_lock(n) FROM generate_series(1, 1000000) n", DENIED),
    ("SELECT lo_create(0)", DENIED),
    ("SELECT lo_from_bytea(0, 'x')", DENIED),
    ("SELECT lo_import('/etc/passwd')", DENIED),
];

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_role_stays_in_its_schema() {
    let (server, owner) = with_tenant(FakeOrchestrator::obedient()).await;
    let globex = json!({ "slug": "globex", "name": "Globex" });
    assert_eq!(owner.post("/v1/tenants", globex).await.status, 201);
    server.until("globex", |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
    let victim = connect_as(&server, "globex").await.unwrap();
    // Tables that globex opens to everybody stay closed: nobody else may enter its schema.
    victim
        .batch_execute(
            "CREATE TABLE notes (text text); INSERT INTO notes VALUES ('of globex'); \
             CREATE TABLE notes_of_globex (); GRANT ALL ON notes, notes_of_globex TO PUBLIC; \
             CREATE FUNCTION answer() RETURNS int LANGUAGE sql AS 'SELECT 42'; \
             GRANT EXECUTE ON FUNCTION answer() TO PUBLIC",
        )
        .await
        .unwrap();
    let mut wrong = Vec::new();
    for (attempt, code) in ATTEMPTS {
        let text = attempt
            .replace("{roles}", &server.database.tenant_roles)
            .replace("{service}", &server.database.service_role())
            .replace("{provisioner}", &server.database.provisioner_role());
        let attacker = connect_as(&server, "acme").await.unwrap();
        match attacker.batch_execute(&text).await {
            Ok(()) => wrong.push(format!("{text}: done")),
            Err(error) if error.code().is_some_and(|c| c.code() == *code) => {}
            Err(error) => wrong.push(format!("{text}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(ATTEMPTS.len() >= 30);

    let attacker = connect_as(&server, "acme").await.unwrap();
    // A warning, and no right for anybody.
    let _ = attacker.batch_execute("GRANT ALL ON SCHEMA t_acme TO PUBLIC").await;
    let denied = victim.batch_execute("CREATE TABLE t_acme.x ()").await.unwrap_err();
    assert_eq!(denied.code().unwrap().code(), DENIED);
    let others = "SELECT count(*) FROM pg_stat_activity WHERE usename <> CURRENT_USER AND query NOT LIKE '<insufficient%'";
    let seen: i64 = attacker.query_one(others, &[]).await.unwrap().get(0);
    assert_eq!(seen, 0, "queries of others");
    assert_eq!(server.database.count("t_globex.notes").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenants_role_has_thirteen_connections() {
    let (server, owner) = with_tenant(FakeOrchestrator::obedient()).await;
    let open = join_all((0..20).map(|_| connect_as(&server, "acme"))).await;
    let (open, refused): (Vec<_>, Vec<_>) = open.into_iter().partition(Result::is_ok);
    // The proxy admits ten; a migration has one and app-api two that no program can take.
    assert_eq!((open.len(), refused.len()), (13, 7));
    for refused in refused {
        assert_eq!(refused.unwrap_err().code().unwrap().code(), "53300");
    }
    assert_eq!(owner.get("/v1/tenants/acme").await.status, 200);
}
