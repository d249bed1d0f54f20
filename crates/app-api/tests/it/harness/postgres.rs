//! A real Postgres for each test: a database of its own on a server that all test processes share.
//!
//! Started from Debian's `postgresql` package by the first test, and stopped by a watchdog soon
//! after the last test process is gone: each holds a shared lock on a file, and the watchdog waits
//! for the exclusive one.

use std::fs::{File, Permissions, create_dir_all, read_dir, set_permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use diesel_async::RunQueryDsl as _;
use uuid::Uuid;

use app_api::db::Database;

use super::TEST_TIMEOUT;

/// A role that needs a password, unlike the other roles on the shared server.
pub(crate) const LOCKED_ROLE: &str = "cial_locked";

/// A database that is dropped at the end of its test.
pub(crate) struct TestDatabase {
    pub(crate) url: String,
    name: String,
    /// The prefix of its tenants' roles: roles belong to the whole server.
    pub(crate) tenant_roles: String,
}

impl TestDatabase {
    pub(crate) async fn new() -> Self {
        let name = format!("cial_test_{}", Uuid::new_v4().simple());
        let tenant_roles = format!("t{}_", &name["cial_test_".len()..][..12]);
        execute(&server_url("postgres"), &format!("CREATE DATABASE {name}")).await;
        Self { url: server_url(&name), name, tenant_roles }
    }

    /// The role as which app-api serves this database.
    pub(crate) fn service_role(&self) -> String {
        format!("{}_service", self.name)
    }

    /// The role that creates and drops tenants' schemas.
    pub(crate) fn provisioner_role(&self) -> String {
        format!("{}_provisioner", self.name)
    }

    /// As another role.
    pub(crate) fn url_as(&self, role: &str) -> String {
        self.url.replace("user=postgres", &format!("user={role}"))
    }

    /// By way of a socket in another directory.
    pub(crate) fn url_through(&self, directory: &Path) -> String {
        let data = Self::server_directory().display().to_string();
        self.url.replace(&data, &directory.display().to_string())
    }

    /// Where the server has its socket.
    pub(crate) fn server_directory() -> &'static Path {
        &shared().0
    }

    pub(crate) async fn conn(&self) -> diesel_async::AsyncPgConnection {
        Database::new(&self.url, None).unwrap().connect().await.unwrap()
    }

    /// Executes a statement, like `psql`.
    pub(crate) async fn sql(&self, text: &str) -> usize {
        execute(&self.url, text).await
    }

    /// Waits until a statement in this database waits for a lock.
    pub(crate) async fn until_blocked(&self) {
        let waiting =
            "pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
        let blocked = testkit::eventually("a statement waits", TEST_TIMEOUT, async || {
            Ok(self.count(waiting).await > 0)
        });
        blocked.await.unwrap();
    }

    pub(crate) async fn count(&self, from: &str) -> i64 {
        #[derive(diesel::QueryableByName)]
        struct Count {
            #[diesel(sql_type = diesel::sql_types::BigInt)]
            n: i64,
        }
        let query = diesel::sql_query(format!("SELECT count(*) AS n FROM {from}"));
        query.get_result::<Count>(&mut self.conn().await).await.unwrap().n
    }
}

impl Drop for TestDatabase {
    fn drop(&mut self) {
        let drop_it = format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name);
        let drop_roles = format!(
            "DO $$ DECLARE r name; BEGIN
                 FOR r IN SELECT rolname FROM pg_roles WHERE starts_with(rolname, '{}') OR rolname IN ('{}', '{}') LOOP
                     EXECUTE format('DROP ROLE %I', r);
                 END LOOP;
             END $$",
            self.tenant_roles,
            self.service_role(),
            self.provisioner_role()
        );
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.unwrap().block_on(async {
                execute(&server_url("postgres"), &drop_it).await;
                execute(&server_url("postgres"), &drop_roles).await;
            });
        });
        // A failed clean-up must not hide why the test failed.
        let _ = thread.join();
    }
}

async fn execute(url: &str, text: &str) -> usize {
    let mut conn = Database::new(url, None).unwrap().connect().await.unwrap();
    diesel::sql_query(text).execute(&mut conn).await.unwrap()
}

fn server_url(database: &str) -> String {
    format!("postgres:///{database}?host={}&user=postgres", shared().0.display())
}

/// Started by the first use; its lock is held until this process exits.
fn shared() -> &'static (PathBuf, File) {
    static SERVER: OnceLock<(PathBuf, File)> = OnceLock::new();
    SERVER.get_or_init(shared_server)
}

/// The directory of the socket, and the lock that keeps the server running.
fn shared_server() -> (PathBuf, File) {
    let home = std::env::temp_dir().join(format!("cial-test-postgres-{}", nix::unistd::getuid()));
    create_dir_all(&home).unwrap();
    // Readable for the user that the server runs as.
    set_permissions(&home, Permissions::from_mode(0o755)).unwrap();
    let users = File::create(home.join("users")).unwrap();
    users.lock_shared().unwrap();
    let starting = File::create(home.join("starting")).unwrap();
    starting.lock().unwrap();
    let data = home.join("data");
    if !responses(&data) {
        start(&home, &data);
    }
    (data, users)
}

fn responses(data: &Path) -> bool {
    std::os::unix::net::UnixStream::connect(data.join(".s.PGSQL.5432")).is_ok()
}

/// A Postgres of one test, which may end before the test does.
pub(crate) struct PrivateServer {
    data: PathBuf,
}

impl PrivateServer {
    /// Creates and starts a server in `data`. Its write-ahead log stays small.
    pub(crate) fn start(data: PathBuf) -> Self {
        initialize(&data);
        let server = Self { data };
        server.ensure_running();
        server
    }

    pub(crate) fn url(&self) -> String {
        format!("postgres:///postgres?host={}&user=postgres", self.data.display())
    }

    /// Starts the server again if it ended, like the engine does with its container.
    pub(crate) fn ensure_running(&self) {
        if !responses(&self.data) {
            launch(&self.data, "-c min_wal_size=32MB -c max_wal_size=64MB");
        }
    }
}

impl Drop for PrivateServer {
    fn drop(&mut self) {
        let mut stop = as_postgres(&binaries().join("pg_ctl"));
        let _ = stop.args(["stop", "-s", "-m", "immediate", "-D"]).arg(&self.data).status();
    }
}

fn start(home: &Path, data: &Path) {
    initialize(data);
    launch(data, "");
    let stop = format!(
        "while sleep 10; do flock -n -x {home}/users {pg_ctl} stop -s -m immediate -D {data} && exit; done",
        home = home.display(),
        pg_ctl = binaries().join("pg_ctl").display(),
        data = data.display()
    );
    run(as_postgres(Path::new("setsid")).args(["--fork", "sh", "-c", &stop]));
}

fn initialize(data: &Path) {
    let _ = std::fs::remove_dir_all(data);
    create_dir_all(data).unwrap();
    if nix::unistd::getuid().is_root() {
        run(Command::new("chown").arg("postgres").arg(data));
    }
    run(as_postgres(&binaries().join("initdb")).arg("-D").arg(data).args([
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--locale=C.UTF-8",
        "--no-sync",
    ]));
    let rules = format!("local all {LOCKED_ROLE} scram-sha-256\nlocal all all trust\n");
    std::fs::write(data.join("pg_hba.conf"), rules).unwrap();
}

fn launch(data: &Path, more_options: &str) {
    let options = format!(
        "-c listen_addresses= -c unix_socket_directories={} -c fsync=off -c full_page_writes=off \
         -c synchronous_commit=off -c max_connections=300 -c shared_buffers=64MB {more_options}",
        data.display()
    );
    run(as_postgres(&binaries().join("pg_ctl"))
        .args(["-w", "-s", "start", "-o", &options, "-l"])
        .arg(data.join("log"))
        .arg("-D")
        .arg(data));
}

/// `initdb` and `postgres` refuse to run as root.
fn as_postgres(program: &Path) -> Command {
    if !nix::unistd::getuid().is_root() {
        return Command::new(program);
    }
    let mut command = Command::new("runuser");
    command.args(["-u", "postgres", "--"]).arg(program).current_dir("/");
    command
}

fn binaries() -> PathBuf {
    let versions = read_dir("/usr/lib/postgresql").into_iter().flatten();
    let newest = versions.filter_map(|entry| {
        let path = entry.ok()?.path();
        let version: u32 = path.file_name()?.to_str()?.parse().ok()?;
        Some((version, path.join("bin")))
    });
    newest.max().expect("no Postgres here: apt-get install postgresql").1
}

fn run(command: &mut Command) {
    let done = command.silenced().status().unwrap();
    assert!(done.success(), "{command:?}");
}

trait Silenced {
    fn silenced(&mut self) -> &mut Self;
}

impl Silenced for Command {
    fn silenced(&mut self) -> &mut Self {
        self.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null())
    }
}
