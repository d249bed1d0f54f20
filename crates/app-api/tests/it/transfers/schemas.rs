//! The schema of an exported tenant: whole in the copy, under its names, and with the rights of its role alone.

use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use axum::http::Method;
use protocol::State;
use protocol::transfer::{EMPTY_FRAME, END_MARK};
use serde_json::{Value, json};
use tenant_archive::{Compressor, Exporter, Manifest};
use testkit::eventually;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::time::timeout;
use tokio_postgres::Client;

use super::{assert_nothing_left, export, import, manifest_of, unpacked, volumes};
use crate::harness::orchestrator::TaskReply;
use crate::harness::work::{archive, upload};
use crate::harness::{FakeOrchestrator, Server, Setup, TEST_TIMEOUT, TestClient, acme};
use crate::packages::two_tenants;
use crate::tenant_databases::{connect_as, existing};

const EXPORT: &str = "/v1/tenants/acme/export";

/// With names of the schema in all places that know it, as a program writes them and as text.
pub(super) const SCHEMA: &str = "
    CREATE TYPE color AS ENUM ('red', 't_acme');
    CREATE DOMAIN amount AS integer CHECK (VALUE > 0);
    CREATE TABLE orders (
        id bigserial PRIMARY KEY,
        amount t_acme.amount,
        color t_acme.color DEFAULT 'red'::t_acme.color,
        note text DEFAULT 't_acme.note',
        bytes bytea
    );
    CREATE TABLE lines (
        id integer GENERATED ALWAYS AS IDENTITY,
        \"Order\" bigint REFERENCES t_acme.orders (id) ON DELETE CASCADE,
        twice integer GENERATED ALWAYS AS (7 * 2) STORED
    );
    CREATE INDEX orders_amount ON orders (amount) WHERE amount > 1;
    CREATE SEQUENCE numbers START 5;
    CREATE FUNCTION total() RETURNS bigint LANGUAGE plpgsql SET search_path TO t_acme, pg_temp AS $$
        DECLARE n bigint; BEGIN EXECUTE 'SELECT sum(amount) FROM t_acme.orders' INTO n; RETURN n; END $$;
    CREATE FUNCTION doubled() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT 2 * t_acme.total(); END;
    CREATE FUNCTION noted() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN NEW.note := 'noted ' || (SELECT count(*) FROM t_acme.orders); RETURN NEW; END $$;
    CREATE TRIGGER noted BEFORE INSERT ON orders FOR EACH ROW WHEN (NEW.note = 'note it') EXECUTE FUNCTION t_acme.noted();
    CREATE VIEW large AS SELECT * FROM t_acme.orders WHERE amount > 1 AND t_acme.total() > 0;
    CREATE MATERIALIZED VIEW counted AS SELECT count(*) AS n FROM t_acme.orders;
    CREATE TABLE totals (n bigint DEFAULT t_acme.total());
    CREATE TABLE parts (day date, n integer) PARTITION BY RANGE (day);
    CREATE TABLE parts_2026 PARTITION OF t_acme.parts FOR VALUES FROM ('2026-01-01') TO ('2027-01-01');
    CREATE OPERATOR === (LEFTARG = integer, RIGHTARG = integer, FUNCTION = pg_catalog.int4eq);
    COMMENT ON TABLE orders IS 'about t_acme.orders; and '';''';
    INSERT INTO orders (amount, color, bytes) VALUES (1, 't_acme', '\\x00ff5c0a'), (2, 'red', NULL), (40, 'red', NULL);
    INSERT INTO orders (amount, note) VALUES (7, E'\\\\.\\n;\\t''t_acme.x''');
    INSERT INTO lines (\"Order\") VALUES (1), (3);
    INSERT INTO parts VALUES ('2026-05-05', 3);
    SELECT nextval('numbers'), nextval('numbers');
    REFRESH MATERIALIZED VIEW counted;
";

/// Queries of the copy, each with its only value.
pub(super) const SHOWN: &[(&str, &str)] = &[
    ("SELECT sum(amount) FROM orders", "50"),
    ("SELECT t_copy.total()", "50"),
    ("SELECT t_copy.doubled()", "100"),
    ("SELECT count(*) FROM large", "3"),
    ("SELECT n FROM counted", "4"),
    ("SELECT string_agg(id || ' ' || twice, ', ' ORDER BY id) FROM lines", "1 14, 2 14"),
    ("SELECT n FROM parts WHERE day = '2026-05-05'", "3"),
    ("SELECT nextval('numbers')", "7"),
    ("SELECT color FROM orders WHERE id = 1", "t_acme"),
    ("SELECT encode(bytes, 'hex') FROM orders WHERE id = 1", "00ff5c0a"),
    ("SELECT note FROM orders WHERE amount = 7", "\\.\n;\t't_acme.x'"),
    ("INSERT INTO orders (amount) VALUES (9) RETURNING id || ' ' || note", "5 t_acme.note"),
    ("INSERT INTO orders (amount, note) VALUES (1, 'note it') RETURNING note", "noted 5"),
    ("INSERT INTO totals DEFAULT VALUES RETURNING n", "60"),
    ("INSERT INTO lines (\"Order\") VALUES (5) RETURNING id", "3"),
    ("SELECT obj_description('orders'::regclass)", "about t_acme.orders; and ';'"),
    ("SELECT 1 OPERATOR(t_copy.===) 1", "t"),
    (
        "SELECT count(*) FROM pg_indexes WHERE schemaname = 't_copy' AND indexname = 'orders_amount'",
        "1",
    ),
    (
        "SELECT polroles[1]::regrole = current_user::regrole FROM pg_policy WHERE polrelid = 'totals'::regclass",
        "t",
    ),
    (
        "SELECT count(*) FROM pg_class WHERE relnamespace = 't_copy'::regnamespace AND relowner <> current_user::regrole",
        "0",
    ),
    (
        "SELECT count(*) FROM pg_proc WHERE prosrc LIKE '%t_acme%' OR proconfig::text LIKE '%t_acme%'",
        "0",
    ),
];

pub(super) async fn value(client: &Client, query: &str) -> String {
    let messages =
        client.simple_query(query).await.unwrap_or_else(|error| panic!("{query}: {error:?}"));
    let value = messages.iter().find_map(|message| {
        let tokio_postgres::SimpleQueryMessage::Row(row) = message else { return None };
        row.get(0).map(str::to_owned)
    });
    value.unwrap_or_default()
}

/// A server with acme, whose volumes and schema exist.
async fn with_acme(setup: Setup) -> (Server, TestClient) {
    let server = setup.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    server.until("acme", |tenant| tenant.is_some_and(|tenant| tenant.database.is_some())).await;
    // Its container stays as it is from here on.
    server.until_state("acme", State::Running).await;
    let id = server.row("acme").await.tenant_id();
    server.orchestrator.volumes.lock().unwrap().insert(id, volumes(b"x"));
    (server, owner)
}

async fn acme_alone() -> (Server, TestClient) {
    with_acme(Setup::new(FakeOrchestrator::obedient()).await).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_whole_in_the_copy_and_needs_nothing_of_the_first() {
    let (server, owner) = acme_alone().await;
    let tenant = connect_as(&server, "acme").await.unwrap();
    tenant.batch_execute(SCHEMA).await.unwrap();
    let role = format!("{}acme", server.database.tenant_roles);
    let policy = format!("CREATE POLICY own ON totals TO {role} USING (true)");
    tenant.batch_execute(&policy).await.unwrap();
    let archive = export(&owner).await;
    // An export changes nothing of the role, whose settings change nothing of the export.
    for setting in
        ["standard_conforming_strings = off", "quote_all_identifiers = on", "statement_timeout = 1"]
    {
        tenant.batch_execute(&format!("ALTER ROLE CURRENT_USER SET {setting}")).await.unwrap();
    }
    drop(tenant);
    assert_eq!(export_sql(&archive), export_sql(&export(&owner).await));
    let settings = format!(
        "pg_roles WHERE rolname = '{role}' \
         AND rolconfig @> ARRAY['standard_conforming_strings=off', 'statement_timeout=1']"
    );
    assert_eq!(server.database.count(&settings).await, 1);
    let imported = import(&owner, "copy", archive).await;
    assert_eq!(imported.status, 201, "{}", imported.text());
    assert_eq!(imported.json()["database"]["schema"], "t_copy");
    assert_eq!(imported.json()["database"]["failure"], Value::Null);
    let deleted = owner.send(Method::DELETE, "/v1/tenants/acme", &[], "").await;
    assert_eq!(deleted.status, 202);
    server.until("acme", |tenant| tenant.is_none()).await;
    let copy = connect_as(&server, "copy").await.unwrap();
    for (query, expected) in SHOWN {
        assert_eq!(value(&copy, query).await, *expected, "{query}");
    }
    let started = owner.post("/v1/tenants/copy/start", json!({})).await;
    assert_eq!(started.status, 202, "{}", started.text());
    server.until_state("copy", State::Running).await;
    server.stop().await;
}

/// The parts of the schema in an archive, without what differs from dump to dump.
fn export_sql(archive: &[u8]) -> String {
    let tar = unpacked(archive);
    let mut archive = tar::Archive::new(tar.as_slice());
    let mut sql = String::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        if entry.path_bytes().starts_with(b"database/") {
            std::io::Read::read_to_string(&mut entry, &mut sql).unwrap();
        }
    }
    sql.lines().filter(|line| !line.contains("restrict ")).collect::<Vec<_>>().join("\n")
}

#[tokio::test(flavor = "multi_thread")]
async fn packages_and_workflows_come_along_and_executions_do_not() {
    let orchestrator = FakeOrchestrator::obedient();
    let succeeds = TaskReply::Ends { failure: None, result: None };
    let replies = [succeeds.clone(), succeeds];
    orchestrator.task_replies.lock().unwrap().extend(replies);
    let (server, owner, [key, _]) = two_tenants(orchestrator).await;
    let id = server.row("acme").await.tenant_id();
    server.orchestrator.volumes.lock().unwrap().insert(id, volumes(b"x"));
    let package = archive(crate::packages::DESCRIPTION, "acme-etl-1.2.0");
    assert_eq!(upload(&server.visitor, &key, "acme", &package).await.status, 201);
    let run = async |slug: &str| {
        let path = format!("/v1/tenants/{slug}/workflows/nightly/execute");
        let scheduled = owner.post(&path, json!({})).await;
        assert_eq!(scheduled.status, 202, "{}", scheduled.text());
        let id = scheduled.json()["execution_id"].as_str().unwrap().to_owned();
        let path = format!("/v1/tenants/{slug}/executions/{id}");
        let ended = eventually("the execution ends", TEST_TIMEOUT, async || {
            Ok(owner.get(&path).await.json()["state"] == "succeeded")
        });
        ended.await.unwrap();
    };
    run("acme").await;
    let imported = import(&owner, "copy", export(&owner).await).await;
    assert_eq!(imported.status, 201, "{}", imported.text());
    let packages = owner.get("/v1/tenants/copy/packages").await.json();
    assert_eq!(packages["items"][0]["name"], "acme-etl", "{packages}");
    assert_eq!(owner.get("/v1/tenants/copy/executions").await.json()["total"], 0);
    assert_eq!(server.database.count("t_copy.cial_tasks").await, 0);
    owner.post("/v1/tenants/copy/start", json!({})).await;
    server.until_state("copy", State::Running).await;
    run("copy").await;
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_is_left_out_when_somebody_asks_for_it() {
    let (server, owner) = acme_alone().await;
    server.database.sql("CREATE TABLE t_acme.orders (id bigserial PRIMARY KEY)").await;
    let left_out = owner.get(&format!("{EXPORT}?without_database=1")).await;
    assert_eq!(left_out.status, 200);
    assert_eq!(manifest_of(&left_out.body)["database"], Value::Null);
    let imported = import(&owner, "copy", left_out.body).await;
    assert_eq!(imported.status, 201, "{}", imported.text());
    server.until("copy", |tenant| tenant.is_some_and(|tenant| tenant.database.is_some())).await;
    assert_eq!(server.database.count("pg_tables WHERE tablename = 'orders'").await, 1);
    let bad = owner.get(&format!("{EXPORT}?without_database=yes")).await;
    assert_eq!(bad.problem(), "400 invalid_query");
    server.stop().await;
}

/// An archive as somebody makes it who wants something else than a copy.
fn hostile(whole: &[u8], sql: &str) -> Vec<u8> {
    let manifest: Manifest = serde_json::from_value(manifest_of(whole)).unwrap();
    let mut exporter = Exporter::new(&manifest).unwrap();
    exporter.push_volumes(&volumes(b"x")).unwrap();
    exporter.push_sql(sql.as_bytes()).unwrap();
    exporter.finish().unwrap();
    let mut compressor = Compressor::new().unwrap();
    let mut bytes = compressor.compress(&exporter.take()).unwrap();
    bytes.extend(compressor.finish().unwrap());
    bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_schema_gets_nowhere_and_leaves_nothing() {
    let (server, owner, _) = two_tenants(FakeOrchestrator::obedient()).await;
    let id = server.row("acme").await.tenant_id();
    server.orchestrator.volumes.lock().unwrap().insert(id, volumes(b"x"));
    owner.send(Method::DELETE, "/v1/tenants/globex", &[], "").await;
    server.until("globex", |tenant| tenant.is_none()).await;
    let tenant = connect_as(&server, "acme").await.unwrap();
    tenant.batch_execute("CREATE TABLE secrets (text text)").await.unwrap();
    drop(tenant);
    let whole = export(&owner).await;
    let target = tempfile::tempdir().unwrap();
    let file = target.path().join("written").display().to_string();
    let before = existing(&server.database).await;
    let refused = "422 archive_schema";
    for (sql, expected) in [
        ("CREATE ROLE evil SUPERUSER;", refused),
        ("ALTER ROLE postgres PASSWORD 'x';", refused),
        ("DO $$ BEGIN SET ROLE postgres; END $$;", refused),
        ("CREATE TABLE public.evil ();", refused),
        ("COPY (SELECT 1) TO stdout;", refused),
        ("CREATE TABLE t_acme.x (a text); COPY t_acme.x FROM stdin WITH (FORMAT csv);", refused),
        ("COPY t_acme.x FROM stdin; 1\n\\.\n", "422 archive_corrupt"),
        ("SELECT pg_catalog.set_config('role', 'postgres', false);", refused),
        (&format!("COPY (SELECT 1) TO PROGRAM 'touch {file}';"), refused),
        ("CREATE TABLE t_acme.x (a text); COPY t_acme.x FROM PROGRAM 'id';", refused),
        ("CREATE TABLE t_acme.x (a text); COPY t_acme.x FROM '/etc/passwd';", refused),
        ("DROP TABLE pg_catalog.pg_class;", refused),
        ("DO $$ BEGIN EXECUTE 'SELECT * FROM t_' || 'acme.secrets'; END $$;", refused),
        ("INSERT INTO public.tenants DEFAULT VALUES;", refused),
        ("DROP SCHEMA t_acme CASCADE;", refused),
        ("COPY t_acme.none (a) FROM stdin;\n1\n\\.\n", refused),
        ("CREATE EXTENSION file_fdw;", refused),
        ("SELECT 1", "422 archive_corrupt"),
        (
            "CREATE TABLE t_acme.x (a text);\nCOPY t_acme.x (a) FROM stdin;\n1\n",
            "422 archive_corrupt",
        ),
        (
            "CREATE TABLE t_acme.__diesel_schema_migrations (version text, run_on timestamp);\n\
             INSERT INTO t_acme.__diesel_schema_migrations VALUES ('99990101000000');",
            "422 archive_format",
        ),
        // Without the ledger, the migrations find tables in their way.
        ("CREATE TABLE t_acme.cial_packages ();", refused),
    ] {
        let response = import(&owner, "copy", hostile(&whole, sql)).await;
        assert_eq!(response.problem(), expected, "{sql}: {}", response.text());
        assert_nothing_left(&server).await;
        assert_eq!(existing(&server.database).await, before, "{sql}");
    }
    // Commands of psql, of which nobody takes notice.
    let commands = format!("\\! touch {file}\n\\copy (SELECT 1) TO {file}\n");
    assert_eq!(import(&owner, "copy", hostile(&whole, &commands)).await.status, 201);
    assert_eq!(target.path().read_dir().unwrap().count(), 0);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_function_with_the_rights_of_its_owner_has_those_of_the_tenant() {
    let (server, owner) = acme_alone().await;
    server
        .database
        .sql("CREATE FUNCTION t_acme.whoami() RETURNS name LANGUAGE sql SECURITY DEFINER AS 'SELECT current_user'")
        .await;
    let imported = import(&owner, "copy", export(&owner).await).await;
    assert_eq!(imported.status, 201, "{}", imported.text());
    let role = format!("{}copy", server.database.tenant_roles);
    let of_copy = format!("t_copy.whoami() AS me WHERE me = '{role}'");
    assert_eq!(server.database.count(&of_copy).await, 1, "{role}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_schema_that_cannot_be_read_is_refused_with_the_reason() {
    let (server, owner) = acme_alone().await;
    let tenant = connect_as(&server, "acme").await.unwrap();
    // The name is the tenant's, and is none of the server's complaints.
    let forced = "CREATE TABLE \"connection to server\" (a int); \
        ALTER TABLE \"connection to server\" ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY";
    tenant.batch_execute(forced).await.unwrap();
    let refused = owner.get(EXPORT).await;
    assert_eq!(refused.problem(), "409 tenant_schema_unreadable");
    assert!(refused.text().contains("row-level security"), "{}", refused.text());
    tenant.batch_execute("DROP TABLE \"connection to server\"").await.unwrap();
    // Each in a transaction of its own.
    let many = "DO $$ BEGIN FOR n IN 1..900 LOOP EXECUTE 'CREATE SEQUENCE many_' || n; COMMIT; END LOOP; END $$";
    tenant.batch_execute(many).await.unwrap();
    let refused = owner.get(EXPORT).await;
    assert_eq!(refused.problem(), "409 tenant_schema_unreadable");
    assert!(refused.text().contains("more than may be locked"), "{}", refused.text());
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_that_does_not_fit_is_named_and_stops_nothing_else() {
    let folder = tempfile::tempdir().unwrap();
    let old = script(
        folder.path(),
        "echo 'pg_dump: error: aborting because of server version mismatch' >&2; exit 1",
    );
    for (program, why) in
        [("/nowhere/pg_dump", "CIAL_PG_DUMP"), (old.as_str(), "server version mismatch")]
    {
        let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
        setup.env.push(("CIAL_PG_DUMP", program.to_owned()));
        let (server, owner) = with_acme(setup).await;
        let refused = owner.get(EXPORT).await;
        assert_eq!(refused.problem(), "503 pg_dump_unusable");
        assert!(refused.text().contains(why), "{}", refused.text());
        assert_eq!(owner.get(&format!("{EXPORT}?without_database=1")).await.status, 200);
        server.stop().await;
    }
}

fn script(folder: &std::path::Path, text: &str) -> String {
    let path = folder.join("pg_dump");
    std::fs::write(&path, format!("#!/bin/sh\n{text}\n")).unwrap();
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    path.display().to_string()
}

/// A program that begins to write, and ends its script when the file `go` is there.
fn waiting_script(folder: &std::path::Path, begin: &str) -> String {
    let folder_name = folder.display();
    let wait = format!("while [ ! -e {folder_name}/go ]; do sleep 0.02; done");
    script(folder, &format!("{begin}\ntouch {folder_name}/runs\n{wait}\necho 'SELECT 1;'"))
}

/// Sends the request, and reads what arrives until it holds `until` so many times.
async fn begin_export(client: &TestClient, until: &[u8], times: usize) -> (TcpStream, Vec<u8>) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(64 << 10).unwrap();
    let mut stream = socket.connect(client.address()).await.unwrap();
    let head = format!(
        "GET {EXPORT} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\ncookie: {}\r\n\r\n",
        client.address(),
        client.cookie.as_deref().unwrap(),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut received = Vec::new();
    let arrives = async {
        while received.windows(until.len()).filter(|bytes| *bytes == until).count() < times {
            assert_ne!(stream.read_buf(&mut received).await.unwrap(), 0, "the response ended");
        }
    };
    timeout(TEST_TIMEOUT, arrives).await.unwrap();
    (stream, received)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dump_that_takes_long_keeps_its_reader() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.env.push(("CIAL_PG_DUMP", waiting_script(folder.path(), "echo '-- begin'")));
    setup.export_times.head_start = Duration::from_secs(5);
    setup.export_times.keep_alive = Duration::from_millis(20);
    let (server, owner) = with_acme(setup).await;
    let (mut stream, mut received) = begin_export(&owner, &EMPTY_FRAME, 3).await;
    std::fs::write(folder.path().join("go"), "").unwrap();
    timeout(TEST_TIMEOUT, stream.read_to_end(&mut received)).await.unwrap().unwrap();
    assert!(received.windows(END_MARK.len()).any(|bytes| bytes == END_MARK));
    let imported = import(&owner, "copy", unchunked(&received)).await;
    assert_eq!(imported.status, 201, "{}", imported.text());
    server.stop().await;
}

/// The body of a response.
fn unchunked(response: &[u8]) -> Vec<u8> {
    let line_end = |from: usize| {
        from + response[from..].windows(2).position(|bytes| bytes == b"\r\n").unwrap()
    };
    let mut at = response.windows(4).position(|bytes| bytes == b"\r\n\r\n").unwrap() + 4;
    let mut body = Vec::new();
    loop {
        let end = line_end(at);
        let length = std::str::from_utf8(&response[at..end]).unwrap();
        let length = usize::from_str_radix(length, 16).unwrap();
        if length == 0 {
            return body;
        }
        body.extend_from_slice(&response[end + 2..end + 2 + length]);
        at = end + 2 + length + 2;
    }
}

/// Otherwise its dump would hold a session, a snapshot and the disk for as long as the connection lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_reader_that_takes_nothing_ends_its_export() {
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.export_times.stall = Duration::from_secs(1);
    let (server, owner) = with_acme(setup).await;
    let id = server.row("acme").await.tenant_id();
    // More than the buffers of the connection.
    let large = volumes(&super::noise(12 << 20));
    server.orchestrator.volumes.lock().unwrap().insert(id, large);
    let (mut stream, mut received) = begin_export(&owner, b"200 OK", 1).await;
    server.orchestrator.volumes.lock().unwrap().insert(id, volumes(b"x"));
    // A tenant has one export at a time.
    let next = eventually("the next export", TEST_TIMEOUT, async || {
        Ok(owner.get(EXPORT).await.status == 200)
    });
    next.await.unwrap();
    let _ = timeout(TEST_TIMEOUT, stream.read_to_end(&mut received)).await.unwrap();
    assert!(!received.windows(END_MARK.len()).any(|bytes| bytes == END_MARK));
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_ran_before_its_dump_began_is_not_exported() {
    let folder = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.env.push(("CIAL_PG_DUMP", waiting_script(folder.path(), "")));
    let (server, owner) = with_acme(setup).await;
    let exporting = owner.get(EXPORT);
    let waking = async {
        let runs = folder.path().join("runs");
        let begun = eventually("pg_dump runs", TEST_TIMEOUT, async || Ok(runs.exists()));
        begun.await.unwrap();
        let id = server.row("acme").await.tenant_id();
        let start = "2026-05-05T10:00:00Z".parse().unwrap();
        server.orchestrator.last_starts.lock().unwrap().insert(id, start);
        std::fs::write(folder.path().join("go"), "").unwrap();
    };
    let (exported, ()) = tokio::join!(exporting, waking);
    assert_eq!(exported.problem(), "409 tenant_awake");
    server.stop().await;
}

/// The process at the other end of the pipe lives.
#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_leaves_ends_pg_dump() {
    let folder = tempfile::tempdir().unwrap();
    let pid = folder.path().join("pid");
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    let text = format!("echo $$ > {0}.new; mv {0}.new {0}; exec sleep 600", pid.display());
    setup.env.push(("CIAL_PG_DUMP", script(folder.path(), &text)));
    let (server, owner) = with_acme(setup).await;
    let mut stream = TcpStream::connect(owner.address()).await.unwrap();
    let head = format!(
        "GET {EXPORT} HTTP/1.1\r\nhost: {}\r\ncookie: {}\r\n\r\n",
        owner.address(),
        owner.cookie.as_deref().unwrap(),
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let began = eventually("pg_dump runs", TEST_TIMEOUT, async || Ok(pid.exists()));
    began.await.unwrap();
    let process = format!("/proc/{}", std::fs::read_to_string(&pid).unwrap().trim());
    assert!(std::path::Path::new(&process).exists());
    drop(stream);
    let ended = eventually("pg_dump ends", TEST_TIMEOUT, async || {
        Ok(!std::path::Path::new(&process).exists())
    });
    ended.await.unwrap();
    server.stop().await;
}
