//! A complete app-api on free ports, with a real Postgres and a fake orchestrator.

pub(crate) mod callers;
pub(crate) mod client;
pub(crate) mod faults;
pub(crate) mod link;
pub(crate) mod orchestrator;
pub(crate) mod postgres;
pub(crate) mod schema;
pub(crate) mod work;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use app_api::audit::query::AuditFilter;
use app_api::clock::Clock;
use app_api::db::audit_log::{self, AuditRow, Order};
use app_api::db::change_listener::ChangeListener;
use app_api::db::connect::Limits;
use app_api::db::{self, Database};
use app_api::descriptors::ConnectionLimits;
use app_api::settings::Settings;
use app_api::start::{Dependencies, run};
use app_api::tenant::Tenant;
use app_api::transfer::ExportTimes;
use argon2::Params;
use protocol::Timestamp;
use serde_json::{Value, json};
use service::ServiceError;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use client::{TestClient, TestResponse};
pub(crate) use orchestrator::{Call, FakeOrchestrator, Reply, crashed, observed};
pub(crate) use postgres::TestDatabase;

pub(crate) const EMAIL: &str = "ada@example.com";
pub(crate) const PASSWORD: &str = "correct horse battery";
pub(crate) const MASTER: &str = "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa";
pub(crate) const ROUTES_TOKEN: &str = "routes-8vY2m0Qz5hYt1rKp7sXw3uBn6c";
/// The bound of every wait: reached only when a test fails.
pub(crate) const TEST_TIMEOUT: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    pub(crate) database: Arc<TestDatabase>,
    pub(crate) orchestrator: Arc<FakeOrchestrator>,
    pub(crate) visitor: TestClient,
    pub(crate) internal: SocketAddr,
    now: Arc<Mutex<Timestamp>>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), ServiceError>>,
    env: Vec<(&'static str, String)>,
}

/// The parts of a server that a test may replace.
pub(crate) struct Setup {
    pub(crate) database: Arc<TestDatabase>,
    /// The URL by which app-api connects to the database.
    pub(crate) url: String,
    pub(crate) password: String,
    pub(crate) orchestrator: Arc<FakeOrchestrator>,
    pub(crate) env: Vec<(&'static str, String)>,
    pub(crate) master: &'static str,
    pub(crate) database_limits: Limits,
    pub(crate) webhook_timeout: Duration,
    pub(crate) model_timeout: Duration,
    pub(crate) max_changes: u32,
    pub(crate) password_cost: Params,
    pub(crate) export_times: ExportTimes,
    pub(crate) summary_interval: Duration,
    pub(crate) size_interval: Duration,
}

impl Setup {
    pub(crate) async fn new(orchestrator: FakeOrchestrator) -> Self {
        Self::on(Arc::new(TestDatabase::new().await), Arc::new(orchestrator))
    }

    fn on(database: Arc<TestDatabase>, orchestrator: Arc<FakeOrchestrator>) -> Self {
        Self {
            url: database.url.clone(),
            database,
            password: "unused-unused-unused-unused-unused".to_owned(),
            orchestrator,
            env: Vec::new(),
            master: MASTER,
            database_limits: Limits::default(),
            webhook_timeout: Duration::from_secs(10),
            model_timeout: Duration::from_secs(80),
            max_changes: 3_000,
            password_cost: Params::new(8, 1, 1, None).unwrap(),
            export_times: ExportTimes::default(),
            summary_interval: Duration::from_millis(100),
            size_interval: Duration::from_secs(3_600),
        }
    }

    /// Another server on the same database and engine.
    pub(crate) fn replica(&self) -> Self {
        Self::on(self.database.clone(), self.orchestrator.clone())
    }

    /// With the development profile.
    pub(crate) fn with_dev_login(mut self) -> Self {
        self.env.push(("CIAL_DEV_LOGIN", "on".to_owned()));
        self.env.push(("CIAL_LISTEN", "127.0.0.1:3100".to_owned()));
        self
    }

    /// The settings, read from an environment like the process does.
    fn settings(&self) -> Settings {
        let secrets = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = secrets.path().join(name);
            std::fs::write(&path, text).unwrap();
            path.to_str().unwrap().to_owned()
        };
        let mut env = vec![
            ("CIAL_DATABASE_URL", self.url.clone()),
            ("CIAL_DATABASE_PASSWORD_FILE", file("password", &self.password)),
            ("CIAL_TENANT_ROLE_PREFIX", self.database.tenant_roles.clone()),
            ("CIAL_SSO_SECRET_FILE", file("sso", self.master)),
            (
                "CIAL_ORCHESTRATOR_TOKEN_FILE",
                file("orchestrator", "orchestrator-8vY2m0Qz5hYt1rKp7sXw3"),
            ),
            ("CIAL_ROUTES_TOKEN_FILE", file("routes", ROUTES_TOKEN)),
        ];
        env.extend(self.env.clone());
        let lookup =
            move |name: &str| env.iter().rev().find(|(n, _)| *n == name).map(|(_, v)| v.clone());
        Settings::read(&lookup).unwrap()
    }

    /// Starts the server without waiting for its database.
    pub(crate) async fn start_unready(self) -> Server {
        let settings = self.settings();
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let internal = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, internal_address) =
            (public.local_addr().unwrap(), internal.local_addr().unwrap());
        let now = Arc::new(Mutex::new(Timestamp::from_timestamp(1_800_000_000, 0).unwrap()));
        let dependencies = Dependencies {
            orchestrator: self.orchestrator.clone(),
            clock: Clock::new({
                let now = now.clone();
                move || *now.lock().unwrap()
            }),
            password_cost: self.password_cost,
            database_limits: self.database_limits,
            connections: ConnectionLimits { public: 1_000, internal: 64, model: 200 },
            webhook_timeout: self.webhook_timeout,
            model_timeout: self.model_timeout,
            max_changes: self.max_changes,
            summary_interval: self.summary_interval,
            export_times: self.export_times,
            size_interval: self.size_interval,
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(settings, dependencies, public, internal, stop.clone()));
        Server {
            database: self.database,
            orchestrator: self.orchestrator,
            visitor: TestClient::new(address),
            internal: internal_address,
            now,
            stop,
            running,
            env: self.env,
        }
    }

    /// Starts the server and waits until it is ready.
    pub(crate) async fn start(self) -> Server {
        let mut server = self.start_unready().await;
        server.wait_ready().await;
        server
    }
}

impl Server {
    pub(crate) async fn with(orchestrator: FakeOrchestrator) -> Self {
        Setup::new(orchestrator).await.start().await
    }

    /// Starts a server and signs its owner up.
    pub(crate) async fn with_owner(orchestrator: FakeOrchestrator) -> (Self, TestClient) {
        let server = Self::with(orchestrator).await;
        let owner = server.sign_up().await;
        (server, owner)
    }

    /// [`Self::with_owner`], and the owner creates the tenant [`acme`].
    pub(crate) async fn with_acme(orchestrator: FakeOrchestrator) -> (Self, TestClient) {
        let (server, owner) = Self::with_owner(orchestrator).await;
        owner.post("/v1/tenants", acme()).await;
        (server, owner)
    }

    /// [`Self::with_acme`] under an obedient orchestrator, once the tenant runs.
    pub(crate) async fn with_running_acme() -> (Self, TestClient) {
        let (server, owner) = Self::with_acme(FakeOrchestrator::obedient()).await;
        server.until_state("acme", protocol::State::Running).await;
        (server, owner)
    }

    /// Replaces the owner's password by a reset link, which ends all of the owner's sessions.
    pub(crate) async fn reset_password(&self, password: &str) {
        let mut conn = self.database.conn().await;
        let actor = app_api::audit::Actor::command("app-api reset-password");
        let reset = app_api::accounts::reset_token(&mut conn, actor, EMAIL, self.now()).await;
        let reset = reset.unwrap().unwrap();
        let form = [("token", reset.reveal()), ("password", password)];
        assert_eq!(self.visitor.submit("/admin/reset", &form).await.status, 303);
    }

    /// Waits until the server is ready; panics when the server ends instead.
    pub(crate) async fn wait_ready(&mut self) {
        let ready = async {
            while self.visitor.get("/readyz").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = ready => {}
            ended = &mut self.running => panic!("server ended: {ended:?}"),
        }
    }

    /// Waits for the end of the server and returns the server's result.
    pub(crate) async fn wait_ended(self) -> Result<(), ServiceError> {
        timeout(TEST_TIMEOUT, self.running).await.expect("the server did not end").unwrap()
    }

    /// Ends the server like `kill -9`, without a drain.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    /// Another server on the same database and engine.
    pub(crate) fn replica(&self) -> Setup {
        Setup::on(self.database.clone(), self.orchestrator.clone())
    }

    /// Kills the server and starts another with the same settings, on the same database and engine.
    pub(crate) async fn restart(self) -> Self {
        let replica = Setup { env: self.env.clone(), ..self.replica() };
        self.kill().await;
        replica.start().await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.wait_ended().await.unwrap();
    }

    pub(crate) fn advance_clock(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }

    pub(crate) fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    /// Reads one metric of the internal listener.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let text = TestClient::new(self.internal).get("/metrics").await.text();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no metric {name} in {text}")).parse().unwrap()
    }

    pub(crate) async fn sign_up(&self) -> TestClient {
        let mut owner = self.visitor.new_client();
        let response = owner.post("/api/auth/sign-up/email", owner_sign_up()).await;
        assert_eq!(response.status, 201, "{}", response.text());
        owner.store_cookie(&response);
        owner
    }

    /// Waits, by notifications of the database, until the row of a tenant satisfies `is_expected`.
    pub(crate) async fn until(&self, slug: &str, is_expected: impl Fn(Option<&Tenant>) -> bool) {
        let database = Database::new(&self.database.url, None).unwrap();
        let mut changes = ChangeListener::connect(&database).await.unwrap();
        let mut conn = self.database.conn().await;
        let mut last = None;
        let wait = async {
            loop {
                let all = db::tenant::all(&mut conn).await.unwrap();
                last = all.into_iter().find(|t| t.slug.as_str() == slug);
                if is_expected(last.as_ref()) {
                    return;
                }
                changes.next_change().await.unwrap();
            }
        };
        let done = timeout(TEST_TIMEOUT, wait).await;
        assert!(done.is_ok(), "still {last:?} after {:?}", self.orchestrator.calls());
    }

    pub(crate) async fn until_state(&self, slug: &str, state: protocol::State) {
        self.until(slug, |tenant| tenant.is_some_and(|t| t.state == state)).await;
    }

    /// The audit entries of an action, the oldest first: who changed what, from what, and to what.
    pub(crate) async fn audited(&self, action: &str) -> Vec<(String, String, Value, Value)> {
        let filter = AuditFilter { action: Some(action.to_owned()), ..AuditFilter::default() };
        let order = Order::OldestBetween(0, i64::MAX);
        let rows = audit_log::list(&mut self.database.conn().await, &filter, order, 100).await;
        let entry = |row: AuditRow| {
            let resource = row.resource();
            (row.actor, resource, row.before.unwrap_or_default(), row.after.unwrap_or_default())
        };
        rows.unwrap().into_iter().map(entry).collect()
    }

    pub(crate) async fn row(&self, slug: &str) -> Tenant {
        let all = db::tenant::all(&mut self.database.conn().await).await.unwrap();
        all.into_iter().find(|t| t.slug.as_str() == slug).unwrap()
    }
}

pub(crate) fn owner_sign_up() -> Value {
    json!({ "email": EMAIL, "password": PASSWORD, "name": "Ada" })
}

pub(crate) fn acme() -> Value {
    json!({ "slug": "acme", "name": "Acme Ltd" })
}
