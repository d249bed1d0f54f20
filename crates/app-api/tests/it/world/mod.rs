//! How: a whole app-api on free ports, with a real Postgres and an orchestrator of the test's making.

pub(crate) mod browser;
pub(crate) mod orchestrator;
pub(crate) mod postgres;
pub(crate) mod schema;
pub(crate) mod wire;

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use app_api::clock::Clock;
use app_api::db::hints::Hints;
use app_api::db::{Database, tenant};
use app_api::settings::Settings;
use app_api::start::{World, run};
use argon2::Params;
use protocol::Timestamp;
use serde_json::{Value, json};
use service::Failed;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

pub(crate) use browser::{Answer, Browser};
pub(crate) use orchestrator::{Call, Fake, Reply, crashed, observed};
pub(crate) use postgres::TestDatabase;

pub(crate) const EMAIL: &str = "ada@example.com";
pub(crate) const PASSWORD: &str = "correct horse battery";
pub(crate) const MASTER: &str = "8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa";
pub(crate) const ROUTES_TOKEN: &str = "routes-8vY2m0Qz5hYt1rKp7sXw3uBn6c";
/// Long enough for anything that is going to happen at all.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Server {
    pub(crate) database: Arc<TestDatabase>,
    pub(crate) orchestrator: Arc<Fake>,
    pub(crate) visitor: Browser,
    pub(crate) internal: SocketAddr,
    now: Arc<Mutex<Timestamp>>,
    stop: CancellationToken,
    running: JoinHandle<Result<(), Failed>>,
}

/// What a test may have otherwise.
pub(crate) struct Setup {
    pub(crate) database: Arc<TestDatabase>,
    /// Where app-api finds it.
    pub(crate) url: String,
    pub(crate) password: String,
    pub(crate) orchestrator: Arc<Fake>,
    pub(crate) env: Vec<(&'static str, String)>,
    pub(crate) master: &'static str,
}

impl Setup {
    pub(crate) async fn new(orchestrator: Fake) -> Self {
        let database = Arc::new(TestDatabase::new().await);
        let url = database.url.clone();
        Self {
            database,
            url,
            password: "unused-unused-unused-unused-unused".to_owned(),
            orchestrator: Arc::new(orchestrator),
            env: Vec::new(),
            master: MASTER,
        }
    }

    /// The settings as the process would read them.
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

    /// Serving, whether or not its database is there.
    pub(crate) async fn begin(self) -> Server {
        let settings = self.settings();
        let public = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let inside = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (address, internal) = (public.local_addr().unwrap(), inside.local_addr().unwrap());
        let now = Arc::new(Mutex::new(Timestamp::from_timestamp(1_800_000_000, 0).unwrap()));
        let world = World {
            orchestrator: self.orchestrator.clone(),
            clock: Clock::new({
                let now = now.clone();
                move || *now.lock().unwrap()
            }),
            password_cost: Params::new(8, 1, 1, None).unwrap(),
        };
        let stop = CancellationToken::new();
        let running = tokio::spawn(run(settings, world, public, inside, stop.clone()));
        Server {
            database: self.database,
            orchestrator: self.orchestrator,
            visitor: Browser::new(address),
            internal,
            now,
            stop,
            running,
        }
    }

    /// Serving and ready.
    pub(crate) async fn start(self) -> Server {
        let mut server = self.begin().await;
        server.ready().await;
        server
    }
}

impl Server {
    pub(crate) async fn with(orchestrator: Fake) -> Self {
        Setup::new(orchestrator).await.start().await
    }

    /// With its owner, signed in.
    pub(crate) async fn owned(orchestrator: Fake) -> (Self, Browser) {
        let server = Self::with(orchestrator).await;
        let owner = server.sign_up().await;
        (server, owner)
    }

    /// Waits until it is ready; panics with the reason if it ends instead.
    pub(crate) async fn ready(&mut self) {
        let ready = async {
            while self.visitor.get("/readyz").await.status != 200 {
                tokio::task::yield_now().await;
            }
        };
        tokio::select! {
            () = ready => {}
            ended = &mut self.running => panic!("ended: {ended:?}"),
        }
    }

    /// What it ended with.
    pub(crate) async fn ended(self) -> Result<(), Failed> {
        timeout(PATIENCE, self.running).await.expect("it goes on").unwrap()
    }

    /// Like `kill -9`: nothing is said, nothing is finished.
    pub(crate) async fn kill(self) {
        self.running.abort();
        let _ = self.running.await;
    }

    /// Another process on the same database and engine.
    pub(crate) async fn again(self) -> Self {
        let setup = Setup {
            url: self.database.url.clone(),
            database: self.database.clone(),
            orchestrator: self.orchestrator.clone(),
            ..Setup::new(Fake::silent()).await
        };
        self.kill().await;
        setup.start().await
    }

    pub(crate) async fn stop(self) {
        self.stop.cancel();
        self.ended().await.unwrap();
    }

    pub(crate) fn pass(&self, time: Duration) {
        *self.now.lock().unwrap() += time;
    }

    pub(crate) fn now(&self) -> Timestamp {
        *self.now.lock().unwrap()
    }

    pub(crate) async fn sign_up(&self) -> Browser {
        let mut owner = self.visitor.stranger();
        let answer = owner.post("/api/auth/sign-up/email", owner_wish()).await;
        assert_eq!(answer.status, 201, "{}", answer.text());
        owner.keep(&answer);
        owner
    }

    /// Waits, by the database's own hints, until a tenant's row is as `fits` wants it.
    pub(crate) async fn until(&self, slug: &str, fits: impl Fn(Option<&tenant::Tenant>) -> bool) {
        let database = Database::new(&self.database.url, None).unwrap();
        let mut hints = Hints::open(&database).await.unwrap();
        let mut conn = self.database.conn().await;
        let mut last = None;
        let wait = async {
            loop {
                let all = tenant::all(&mut conn).await.unwrap();
                last = all.into_iter().find(|t| t.slug.as_str() == slug);
                if fits(last.as_ref()) {
                    return;
                }
                hints.next().await.unwrap();
            }
        };
        let done = timeout(PATIENCE, wait).await;
        assert!(done.is_ok(), "still {last:?} after {:?}", self.orchestrator.calls());
    }

    pub(crate) async fn until_state(&self, slug: &str, state: protocol::State) {
        self.until(slug, |tenant| tenant.is_some_and(|t| t.state == state)).await;
    }

    pub(crate) async fn row(&self, slug: &str) -> tenant::Tenant {
        let all = tenant::all(&mut self.database.conn().await).await.unwrap();
        all.into_iter().find(|t| t.slug.as_str() == slug).unwrap()
    }
}

pub(crate) fn owner_wish() -> Value {
    json!({ "email": EMAIL, "password": PASSWORD, "name": "Ada" })
}

pub(crate) fn acme() -> Value {
    json!({ "slug": "acme", "name": "Acme Ltd" })
}
