//! The way of a program inside a tenant to Postgres: through the proxy, as its own role, to its own schema.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use app_api::database_proxy::{self, Tenants};
use futures_util::future::join_all;
use protocol::TenantId;
use protocol::inside::{DATABASE_ROLE, DATABASE_SOCKET};
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_postgres::config::Host;
use tokio_postgres::{Client, Config, NoTls};
use tokio_util::sync::CancellationToken;

use crate::harness::{FakeOrchestrator, Server, TEST_TIMEOUT, TestClient, acme};
use crate::tenant_databases::hostile::ATTEMPTS;

const VERSION_3: u32 = 3 << 16;
const CANCEL: u32 = 80_877_102;
const TLS: u32 = 80_877_103;
const GSSAPI: u32 = 80_877_104;

/// A proxy with the directories of acme and globex, as the orchestrator makes them.
struct Proxy {
    server: Server,
    _owner: TestClient,
    root: tempfile::TempDir,
    stop: CancellationToken,
    running: JoinHandle<anyhow::Result<()>>,
    acme: Inside,
    globex: Inside,
}

/// The view of a program inside a tenant.
#[derive(Clone)]
struct Inside {
    id: TenantId,
    role: String,
    directory: PathBuf,
}

impl Proxy {
    async fn start(max_sessions: usize) -> Self {
        let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
        let globex = json!({ "slug": "globex", "name": "Globex" });
        let root = tempfile::tempdir().unwrap();
        let mut tenants = Vec::new();
        for (slug, new) in [("acme", acme()), ("globex", globex)] {
            assert_eq!(owner.post("/v1/tenants", new).await.status, 201);
            server.until(slug, |tenant| tenant.is_some_and(|t| t.database.is_some())).await;
            let id = server.row(slug).await.tenant_id();
            let role = format!("{}{slug}", server.database.tenant_roles);
            let directory = root.path().join(id.to_string());
            std::fs::create_dir(&directory).unwrap();
            std::fs::write(directory.join(DATABASE_ROLE), &role).unwrap();
            tenants.push(Inside { id, role, directory });
        }
        let stop = CancellationToken::new();
        let running = run(&server.database.url, root.path(), max_sessions, &stop).await;
        let [acme, globex] = tenants.try_into().ok().unwrap();
        Self { server, _owner: owner, root, stop, running, acme, globex }
    }

    /// A call of the orchestrator.
    async fn call(&self, target: &str) {
        let mut stream = UnixStream::connect(self.root.path().join("proxy.sock")).await.unwrap();
        let request = format!("{target} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut response = String::new();
        stream.read_to_string(&mut response).await.unwrap();
        assert!(response.starts_with("HTTP/1.1 204 "), "{target}: {response}");
    }

    async fn until_sessions(&self, expected: i64) {
        let of_tenants = format!(
            "pg_stat_activity WHERE starts_with(usename, '{}')",
            self.server.database.tenant_roles
        );
        let what = format!("{expected} sessions on the server");
        let reached = testkit::eventually(&what, TEST_TIMEOUT, async || {
            Ok(self.server.database.count(&of_tenants).await == expected)
        });
        reached.await.unwrap();
    }
}

/// Runs a proxy before the server of `url`.
async fn run(
    url: &str,
    root: &Path,
    max_sessions: usize,
    stop: &CancellationToken,
) -> JoinHandle<anyhow::Result<()>> {
    let upstream = url.parse().unwrap();
    let tenants = Arc::new(Tenants::new(root.to_owned(), upstream, max_sessions));
    let running = tokio::spawn(database_proxy::run(tenants, root.to_owned(), stop.clone()));
    testkit::eventually("the proxy answers", TEST_TIMEOUT, async || {
        Ok(UnixStream::connect(root.join("proxy.sock")).await.is_ok())
    })
    .await
    .unwrap();
    running
}

impl Inside {
    fn config(&self) -> Config {
        let mut config = Config::new();
        config.user(&self.role).host_path(&self.directory);
        config
    }

    async fn connect(&self) -> Result<Client, tokio_postgres::Error> {
        connect(&self.config()).await
    }

    async fn raw(&self) -> UnixStream {
        UnixStream::connect(self.directory.join(DATABASE_SOCKET)).await.unwrap()
    }

    /// The startup message of an honest client.
    fn startup(&self) -> Vec<u8> {
        first(VERSION_3, format!("user\0{}\0\0", self.role).as_bytes())
    }
}

async fn connect(config: &Config) -> Result<Client, tokio_postgres::Error> {
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

fn code(error: &tokio_postgres::Error) -> &str {
    error.code().unwrap_or_else(|| panic!("{error:?}")).code()
}

fn first(code: u32, body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(8 + body.len()).unwrap();
    [&length.to_be_bytes(), &code.to_be_bytes(), body].concat()
}

fn query(text: &str) -> Vec<u8> {
    let length = u32::try_from(4 + text.len() + 1).unwrap();
    [b"Q".as_slice(), &length.to_be_bytes(), text.as_bytes(), &[0]].concat()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_program_speaks_sql_to_its_own_schema_and_nothing_else() {
    let proxy = Proxy::start(60).await;
    let (acme, globex) = (&proxy.acme, &proxy.globex);
    for inside in [acme, globex] {
        let client = inside.connect().await.unwrap();
        client.batch_execute("CREATE TABLE notes (text text)").await.unwrap();
        client.execute("INSERT INTO notes VALUES ($1)", &[&inside.role]).await.unwrap();
        let row =
            client.query_one("SELECT text, CURRENT_USER::text FROM notes", &[]).await.unwrap();
        assert_eq!(row.get::<_, String>(0), inside.role);
        assert_eq!(row.get::<_, String>(1), inside.role);
    }
    let database = proxy.server.database.url.parse::<Config>().unwrap();
    let database = database.get_dbname().unwrap();
    let service = proxy.server.database.service_role();
    for (user, dbname, expected) in [
        (globex.role.as_str(), globex.role.as_str(), "28000"),
        (globex.role.as_str(), acme.role.as_str(), "28000"),
        ("postgres", "postgres", "28000"),
        (service.as_str(), database, "28000"),
        (acme.role.as_str(), globex.role.as_str(), "3D000"),
        (acme.role.as_str(), "postgres", "3D000"),
        (acme.role.as_str(), "template1", "3D000"),
        (acme.role.as_str(), database, "3D000"),
    ] {
        let mut config = acme.config();
        let refused = connect(config.user(user).dbname(dbname)).await.err().unwrap();
        assert_eq!(code(&refused), expected, "{user} at {dbname}");
    }
    let mut wrong = Vec::new();
    for (attempt, expected) in ATTEMPTS {
        let text = attempt
            .replace("{roles}", &proxy.server.database.tenant_roles)
            .replace("{service}", &service)
            .replace("{provisioner}", &proxy.server.database.provisioner_role());
        let attacker = acme.connect().await.unwrap();
        match attacker.batch_execute(&text).await {
            Ok(()) => wrong.push(format!("{text}: done")),
            Err(error) if code(&error) == *expected => {}
            Err(error) => wrong.push(format!("{text}: {error}")),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn bytes_of_no_client_of_postgres_are_refused_and_harm_nobody() {
    let proxy = Proxy::start(60).await;
    let (acme, globex) = (&proxy.acme, &proxy.globex);
    let role = acme.role.as_str();
    let v3 = |body: &str| first(VERSION_3, body.replace("ROLE", role).as_bytes());
    let tls = first(TLS, b"");
    let gssapi = first(GSSAPI, b"");
    let hello = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03".to_vec();
    // Each with the code of the error that ends the connection; empty where it ends without one.
    let attempts: Vec<(&str, Vec<u8>, &str)> = vec![
        ("nothing", vec![], ""),
        ("half a length", vec![0, 0], ""),
        ("a length of zero", vec![0; 4], "08P01"),
        ("a length of seven", vec![0, 0, 0, 7, 0, 0, 0], "08P01"),
        ("a length of 2 GB", vec![0x7f, 0xff, 0xff, 0xff], "08P01"),
        ("a negative length", vec![0xff; 4], "08P01"),
        ("a length above the longest", 10_001_u32.to_be_bytes().to_vec(), "08P01"),
        ("half a message", v3("user\0ROLE\0\0")[..12].to_vec(), ""),
        ("HTTP", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "08P01"),
        ("TLS without a request", hello.clone(), "08P01"),
        ("TLS after a refusal", [tls.clone(), hello].concat(), "08P01"),
        ("three requests for TLS", [tls.clone(), tls.clone(), tls.clone()].concat(), "08P01"),
        ("a request for TLS with a body", first(TLS, b"x"), "08P01"),
        ("version 1", first(1 << 16, b"user\0x\0\0"), "0A000"),
        ("version 2", first(2 << 16, b"user\0x\0\0"), "0A000"),
        ("version 4", first(4 << 16, b"user\0x\0\0"), "0A000"),
        ("no parameters", v3(""), "08P01"),
        ("no user", v3("\0"), "28000"),
        ("an empty user", v3("user\0\0\0"), "28000"),
        ("another user", v3("user\0postgres\0\0"), "28000"),
        ("a user in capitals", v3(&format!("user\0{}\0\0", role.to_uppercase())), "28000"),
        ("a user with a quote", v3("user\0ROLE\"\0\0"), "28000"),
        ("a user and another", v3("user\0ROLE\0user\0postgres\0\0"), "28000"),
        ("another and a user", v3("user\0postgres\0user\0ROLE\0\0"), "28000"),
        (
            "a database and another",
            v3("user\0ROLE\0database\0ROLE\0database\0postgres\0\0"),
            "3D000",
        ),
        ("another database", v3("user\0ROLE\0database\0template0\0\0"), "3D000"),
        ("replication", v3("user\0ROLE\0replication\0true\0\0"), "42501"),
        ("replication of a database", v3("user\0ROLE\0replication\0database\0\0"), "42501"),
        ("no end", v3("user\0ROLE\0"), "08P01"),
        ("a name without a value", v3("user\0ROLE\0options\0\0"), "08P01"),
        ("bytes after the end", v3("user\0ROLE\0\0x"), "08P01"),
        ("an unknown parameter", v3("user\0ROLE\0nonsense\0x\0\0"), "42704"),
        (
            "the role of another by options",
            v3(&format!("user\0ROLE\0options\0-c role={}\0\0", globex.role)),
            "42501",
        ),
        (
            "a superuser by options",
            v3("user\0ROLE\0options\0-c session_authorization=postgres\0\0"),
            "42501",
        ),
        ("a limit by options", v3("user\0ROLE\0options\0-c temp_file_limit=-1\0\0"), "42501"),
        (
            "a parameter of the superuser",
            v3("user\0ROLE\0session_preload_libraries\0x\0\0"),
            "42501",
        ),
        ("a cancel key that is too short", first(CANCEL, &[0; 7]), "08P01"),
        ("a cancel key that is too long", first(CANCEL, &[0; 261]), "08P01"),
        ("a cancel key of nobody", first(CANCEL, &[1; 8]), ""),
        (
            "requests for encryption, then another user",
            [gssapi, tls, v3("user\0postgres\0\0")].concat(),
            "28000",
        ),
    ];
    assert!(attempts.len() >= 30);
    let victim = globex.connect().await.unwrap();
    let mut wrong = Vec::new();
    for (name, bytes, expected) in &attempts {
        let mut stream = acme.raw().await;
        stream.write_all(bytes).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut response = Vec::new();
        // A connection that is reset has ended, too.
        let _ = stream.read_to_end(&mut response).await;
        let response = String::from_utf8_lossy(&response).into_owned();
        let found = response
            .split('\0')
            .find_map(|field| field.strip_prefix('C').filter(|code| code.len() == 5));
        if found.unwrap_or_default() != *expected || response.contains("Z\0\0\0\u{5}") {
            wrong.push(format!("{name}: {response:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(victim.query_one("SELECT 1", &[]).await.is_ok());
    assert!(acme.connect().await.is_ok(), "no place is lost");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_is_cancelled_by_its_own_tenant() {
    let proxy = Proxy::start(60).await;
    let client = proxy.acme.connect().await.unwrap();
    let token = client.cancel_token();
    let query = tokio::spawn(async move { client.batch_execute("SELECT pg_sleep(60)").await });
    let sleeping = "pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
    let database = &proxy.server.database;
    let runs = || async { Ok(database.count(sleeping).await == 1) };
    testkit::eventually("the query runs", TEST_TIMEOUT, runs).await.unwrap();

    token.cancel_query(NoTls).await.unwrap();
    let cancelled = query.await.unwrap().unwrap_err();
    assert_eq!(code(&cancelled), "57014");
}

/// The directory of a tenant, for a proxy whose server is scripted.
fn inside(root: &Path, role: &str) -> Inside {
    let id = TenantId::new(uuid::Uuid::now_v7());
    let directory = root.join(id.to_string());
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(directory.join(DATABASE_ROLE), role).unwrap();
    Inside { id, role: role.to_owned(), directory }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cancel_key_of_another_tenant_never_reaches_the_server() {
    const KEY: &[u8; 8] = b"\0\0\0\x07abcd";
    // After a password: AuthenticationOk, the key, ready.
    const READY: &[u8] = b"R\0\0\0\x08\0\0\0\0K\0\0\0\x0c\0\0\0\x07abcdZ\0\0\0\x05I";
    let (root, server) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let listener = UnixListener::bind(server.path().join(".s.PGSQL.5432")).unwrap();
    let (acme, globex) = (inside(root.path(), "t_acme"), inside(root.path(), "t_globex"));
    let url = format!("postgres:///x?host={}", server.path().display());
    let stop = CancellationToken::new();
    let running = run(&url, root.path(), 10, &stop).await;

    let mut session = acme.raw().await;
    session.write_all(&acme.startup()).await.unwrap();
    let accept = async || timeout(TEST_TIMEOUT, listener.accept()).await.unwrap().unwrap().0;
    let mut upstream = accept().await;
    upstream.write_all(READY).await.unwrap();
    let mut ready = vec![0; READY.len()];
    session.read_exact(&mut ready).await.unwrap();
    assert_eq!(ready, READY);

    let cancel = first(CANCEL, KEY);
    let mut foreign = globex.raw().await;
    foreign.write_all(&cancel).await.unwrap();
    assert_eq!(foreign.read(&mut [0]).await.unwrap(), 0, "taken, without an answer");
    // The proxy answers a request to cancel after it has passed it on.
    let connected = timeout(Duration::from_millis(200), listener.accept()).await;
    assert!(connected.is_err(), "the server got a key of another tenant");

    let mut own = acme.raw().await;
    own.write_all(&cancel).await.unwrap();
    let mut passed_on = vec![0; cancel.len()];
    accept().await.read_exact(&mut passed_on).await.unwrap();
    assert_eq!(passed_on, cancel);
    running.abort();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_connections_of_a_tenant_and_of_all_are_bounded() {
    let proxy = Proxy::start(12).await;
    let open = join_all((0..14).map(|_| proxy.acme.connect())).await;
    let (open, refused): (Vec<_>, Vec<_>) = open.into_iter().partition(Result::is_ok);
    assert_eq!((open.len(), refused.len()), (10, 4));
    let others = join_all((0..3).map(|_| proxy.globex.connect())).await;
    let (others, more): (Vec<_>, Vec<_>) = others.into_iter().partition(Result::is_ok);
    assert_eq!((others.len(), more.len()), (2, 1));
    for refused in refused.into_iter().chain(more) {
        assert_eq!(code(&refused.err().unwrap()), "53300");
    }
    // Silent clients take no place of a session.
    let _silent = join_all((0..5).map(|_| proxy.globex.raw())).await;
    drop(open);
    testkit::eventually("there is room", TEST_TIMEOUT, async || {
        Ok(proxy.globex.connect().await.is_ok())
    })
    .await
    .unwrap();
    drop(others);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_that_stops_running_holds_no_connection() {
    let proxy = Proxy::start(60).await;
    let (idle, busy) = (proxy.acme.connect().await.unwrap(), proxy.acme.connect().await.unwrap());
    let other = proxy.globex.connect().await.unwrap();
    let query = tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(60)").await });
    proxy.until_sessions(3).await;
    proxy.call(&format!("DELETE /tenants/{}/connections", proxy.acme.id)).await;
    proxy.until_sessions(1).await;
    assert!(query.await.unwrap().is_err());
    assert!(idle.query_one("SELECT 1", &[]).await.is_err());
    assert!(other.query_one("SELECT 1", &[]).await.is_ok());
    assert!(proxy.acme.connect().await.is_ok(), "after a thaw");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_query_ends_soon_after_its_client_left() {
    let proxy = Proxy::start(60).await;
    let mut stream = proxy.acme.raw().await;
    stream.write_all(&proxy.acme.startup()).await.unwrap();
    stream.write_all(&query("SELECT pg_sleep(600)")).await.unwrap();
    let sleeping = "pg_stat_activity WHERE query = 'SELECT pg_sleep(600)'";
    testkit::eventually("the query runs", TEST_TIMEOUT, async || {
        Ok(proxy.server.database.count(sleeping).await == 1)
    })
    .await
    .unwrap();
    drop(stream);
    proxy.until_sessions(0).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_has_sent_everything_still_receives_the_answer() {
    let proxy = Proxy::start(60).await;
    let mut stream = proxy.acme.raw().await;
    stream.write_all(&proxy.acme.startup()).await.unwrap();
    stream.write_all(&query("SELECT repeat('x', 3000000)")).await.unwrap();
    stream.shutdown().await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    assert!(response.windows(9).any(|bytes| bytes == b"SELECT 1\0"), "{}", response.len());
    assert!(response.len() > 3_000_000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_removed_tenant_loses_its_sessions_and_its_socket() {
    let proxy = Proxy::start(60).await;
    let client = proxy.acme.connect().await.unwrap();
    std::fs::remove_dir_all(&proxy.acme.directory).unwrap();
    proxy.call(&format!("PUT /tenants/{}", proxy.acme.id)).await;
    proxy.until_sessions(0).await;
    assert!(client.query_one("SELECT 1", &[]).await.is_err());
    // The same tenant with another role, as after it was created again.
    std::fs::create_dir(&proxy.acme.directory).unwrap();
    std::fs::write(proxy.acme.directory.join(DATABASE_ROLE), &proxy.globex.role).unwrap();
    proxy.call(&format!("PUT /tenants/{}", proxy.acme.id)).await;
    let as_before = proxy.acme.connect().await.err().unwrap();
    assert_eq!(code(&as_before), "28000");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proxy_that_starts_again_listens_for_every_tenant() {
    let mut proxy = Proxy::start(60).await;
    let client = proxy.acme.connect().await.unwrap();
    // Like `kill -9`: the sockets stay behind.
    proxy.running.abort();
    let _ = (&mut proxy.running).await;
    drop(client);
    proxy.running = run(&proxy.server.database.url, proxy.root.path(), 60, &proxy.stop).await;
    for inside in [&proxy.acme, &proxy.globex] {
        assert!(inside.connect().await.is_ok());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unreachable_server_is_an_error_of_the_protocol() {
    let root = tempfile::tempdir().unwrap();
    let inside = inside(root.path(), "t_acme");
    let upstream = "postgres:///x?host=/nowhere".parse().unwrap();
    let tenants = Tenants::new(root.path().to_owned(), upstream, 10);
    tenants.follow_all().unwrap();
    assert!(matches!(inside.config().get_hosts(), [Host::Unix(_)]));
    let refused = inside.connect().await.err().unwrap();
    assert_eq!(code(&refused), "57P03");
}
