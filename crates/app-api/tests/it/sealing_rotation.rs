//! `app-api rotate-secrets`: another key for secrets at rest, as a process that can be killed.

use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use axum::http::Method;
use diesel_async::{RunQueryDsl as _, SimpleAsyncConnection as _};
use protocol::State;
use serde_json::{Value, json};
use service::Secret;
use service::sealing_keys::{KeyId, Purpose, SSO_SECRET_ID, SealingKeys, read_file};
use tempfile::TempDir;
use testkit::eventually;

use crate::harness::{
    FakeOrchestrator, MASTER, Server, Setup, TEST_TIMEOUT, TestClient, TestDatabase,
};

const REGISTRY: &str = "registry.example.com";

/// The folders of both services' secrets.
struct Secrets(TempDir);

impl Secrets {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        for name in ["app-api", "orchestrator"] {
            std::fs::create_dir(directory.path().join(name)).unwrap();
        }
        std::fs::write(directory.path().join("sso"), MASTER).unwrap();
        std::fs::write(directory.path().join("password"), "unused-unused-unused-unused-unused")
            .unwrap();
        Self(directory)
    }

    fn keys(&self, service: &str) -> PathBuf {
        self.0.path().join(service).join("sealing-keys")
    }

    fn env(&self) -> Vec<(&'static str, String)> {
        vec![("CIAL_SEALING_KEYS_FILE", self.keys("app-api").display().to_string())]
    }

    /// The keys as the orchestrator reads them.
    fn of_orchestrator(&self) -> SealingKeys {
        SealingKeys::new(Secret::new(MASTER), Some(self.keys("orchestrator")))
    }

    fn ids(&self, service: &str) -> Vec<KeyId> {
        read_file(&self.keys(service)).unwrap().into_iter().map(|key| key.id).collect()
    }

    fn command(&self, database: &TestDatabase, step: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_app-api"));
        command
            .args(["rotate-secrets", "--orchestrator-keys"])
            .args([self.keys("orchestrator").as_os_str(), step.as_ref()])
            .envs(self.env())
            .env("CIAL_DATABASE_URL", &database.url)
            .env("CIAL_DATABASE_PASSWORD_FILE", self.0.path().join("password"))
            .env("CIAL_SSO_SECRET_FILE", self.0.path().join("sso"))
            .stdin(Stdio::null());
        command
    }

    fn spawn(&self, database: &TestDatabase, step: &str) -> Child {
        let mut command = self.command(database, step);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    }

    async fn run(&self, database: &TestDatabase, step: &str) -> Output {
        let mut command = self.command(database, step);
        tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap()
    }

    async fn succeed(&self, database: &TestDatabase, step: &str) -> String {
        let output = self.run(database, step).await;
        assert!(output.status.success(), "{step}: {}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }

    /// Finishes once the tenants' variables have reached the orchestrator.
    async fn finish(&self, database: &TestDatabase) {
        eventually("the removal", TEST_TIMEOUT, async || {
            let output = self.run(database, "finish").await;
            let is_waiting = said(&output).contains("have not reached the orchestrator");
            assert!(output.status.success() || is_waiting, "{}", said(&output));
            Ok(output.status.success())
        })
        .await
        .unwrap();
    }
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&[output.stdout.as_slice(), &output.stderr].concat()).into_owned()
}

async fn put(owner: &TestClient, path: &str, body: Value) {
    let response = owner.json(Method::PUT, path, &[], body).await;
    assert_eq!(response.status, 204, "{path}: {}", response.text());
}

/// An app with two tenants, each with something to encrypt, and a registry.
async fn with_secrets(secrets: &Secrets) -> (Server, TestClient) {
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.env = secrets.env();
    let server = setup.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/apps", json!({ "slug": "notes", "name": "Notes" })).await;
    owner.post("/v1/apps/notes/releases", json!({ "image": "notes:1" })).await;
    for slug in ["acme", "globex"] {
        let new = json!({ "slug": slug, "name": slug, "app": "notes" });
        assert_eq!(owner.post("/v1/tenants", new).await.status, 201);
        server.until_state(slug, State::Running).await;
        let path = format!("/v1/tenants/{slug}/env/OWN");
        put(&owner, &path, json!({ "value": format!("of-{slug}") })).await;
    }
    put(&owner, "/v1/apps/notes/env/SHARED", json!({ "value": "of-all" })).await;
    let login = json!({ "username": "robot", "password": "hunter2-hunter2" });
    put(&owner, &format!("/v1/registries/{REGISTRY}"), login).await;
    (server, owner)
}

/// Reads everything as app-api does, and as the orchestrator does.
async fn read_all(server: &Server, owner: &TestClient, secrets: &Secrets) {
    for slug in ["acme", "globex"] {
        let env = owner.get(&format!("/v1/tenants/{slug}/env")).await.json();
        let own = json!([{ "name": "OWN", "value": format!("of-{slug}") }]);
        assert_eq!(env["env"], own, "{slug}");
        let spec = server.row(slug).await.spec();
        let keys = secrets.of_orchestrator();
        let own = keys.open(&Purpose::TenantEnv(spec.id), &spec.sealed_env.unwrap()).unwrap();
        assert!(String::from_utf8(own).unwrap().contains(&format!("of-{slug}")));
        let of_app = spec.app_env.unwrap();
        keys.open(&Purpose::AppEnv(of_app.app), &of_app.sealed).unwrap();
    }
    let env = owner.get("/v1/apps/notes/env").await.json();
    assert_eq!(env["env"], json!([{ "name": "SHARED", "value": "of-all" }]));
}

async fn key_of(server: &Server, slug: &str) -> KeyId {
    KeyId::of_text(&server.row(slug).await.spec().sealed_env.unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_rotation_that_is_killed_in_the_middle_goes_on_and_loses_nothing() {
    let secrets = Secrets::new();
    let (server, owner) = with_secrets(&secrets).await;
    assert!(secrets.succeed(&server.database, "status").await.contains("seals: sso-secret"));
    let started = secrets.succeed(&server.database, "start").await;
    assert!(
        started.ends_with("was added.\n6 texts are encrypted with the new key.\n"),
        "{started}"
    );
    let first = secrets.ids("app-api");
    assert_eq!((first.len(), &first), (1, &secrets.ids("orchestrator")));
    read_all(&server, &owner, &secrets).await;
    secrets.finish(&server.database).await;
    assert_eq!(secrets.ids("orchestrator"), first, "there is no older key in the file");
    let old_text = server.row("globex").await.spec().sealed_env.unwrap();

    // The row of the second tenant is not free, so the process stands between the two.
    let mut other = server.database.conn().await;
    other.batch_execute("BEGIN").await.unwrap();
    other.batch_execute("SELECT FROM tenants WHERE slug = 'globex' FOR UPDATE").await.unwrap();
    let mut process = secrets.spawn(&server.database, "start");
    eventually("the first tenant", TEST_TIMEOUT, async || {
        Ok(key_of(&server, "acme").await != first[0])
    })
    .await
    .unwrap();
    process.kill().unwrap();
    process.wait().unwrap();
    // The server would execute what the process had sent, once the row is free.
    let sent = "SELECT pg_terminate_backend(pid, 60000) FROM pg_stat_activity
        WHERE datname = current_database() AND query LIKE 'UPDATE tenants SET app = jsonb_set%' AND pid <> pg_backend_pid()
          AND wait_event_type = 'Lock'";
    server.database.sql(sent).await;
    other.batch_execute("ROLLBACK").await.unwrap();

    let both = secrets.ids("app-api");
    assert_eq!((both.len(), &both[1]), (2, &first[0]), "the new key is in front of the old one");
    assert_eq!(key_of(&server, "acme").await, both[0]);
    assert_eq!(key_of(&server, "globex").await, both[1]);
    read_all(&server, &owner, &secrets).await;
    let status = secrets.succeed(&server.database, "status").await;
    assert!(status.contains(&format!("opens: {}", both[1])), "{status}");
    let refused = secrets.run(&server.database, "finish").await;
    assert_eq!(refused.status.code(), Some(1));
    let text = said(&refused);
    assert!(text.contains(both[1].as_str()) && text.contains("tenant globex"), "{text}");
    assert_eq!(secrets.ids("orchestrator"), both, "a refusal removes nothing");

    let started = secrets.succeed(&server.database, "start").await;
    assert!(started.contains("No key was added"), "{started}");
    assert_eq!(secrets.ids("app-api"), both, "the rotation goes on with its key");
    secrets.finish(&server.database).await;
    for service in ["app-api", "orchestrator"] {
        assert_eq!(secrets.ids(service), both[..1]);
    }
    read_all(&server, &owner, &secrets).await;
    assert_eq!(server.audited("sealing_key.add").await.len(), 2);
    let removed = server.audited("sealing_key.remove").await;
    assert_eq!(removed[0].2, json!({ "ids": [both[1].as_str()] }));

    // A request that sealed before the rotation and writes after the removal.
    let late = "UPDATE tenants SET app = jsonb_set(app, '{sealed_env}', to_jsonb($1::text)) WHERE slug = 'globex'";
    let late = diesel::sql_query(late).bind::<diesel::sql_types::Text, _>(&old_text);
    let error = late.execute(&mut other).await.unwrap_err().to_string();
    assert!(error.contains(both[1].as_str()), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_interrupted_copy_of_the_new_key_is_completed() {
    let secrets = Secrets::new();
    let (server, owner) = with_secrets(&secrets).await;
    secrets.succeed(&server.database, "start").await;
    let added = std::fs::read_to_string(secrets.keys("orchestrator")).unwrap();
    let another = format!("Zt5h8vY2m0Qz1rKp7sXw3uBn6cEd9fGb\n{added}");
    std::fs::remove_file(secrets.keys("orchestrator")).unwrap();
    std::fs::write(secrets.keys("orchestrator"), another).unwrap();
    let refused = secrets.run(&server.database, "finish").await;
    assert!(said(&refused).contains("call `start` first"), "{}", said(&refused));
    let started = secrets.succeed(&server.database, "start").await;
    assert!(started.contains("interrupted addition") && started.contains("6 texts"), "{started}");
    assert_eq!(secrets.ids("app-api"), secrets.ids("orchestrator"));
    read_all(&server, &owner, &secrets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_text_of_an_unknown_key_is_named_and_stops_no_other() {
    let secrets = Secrets::new();
    let (server, owner) = with_secrets(&secrets).await;
    let lost = "UPDATE registries SET sealed_login = '0123456789ab:AAAA'";
    server.database.sql(lost).await;
    // Without a file, its loss would be hidden by a new one.
    let refused = secrets.run(&server.database, "start").await;
    assert_eq!(refused.status.code(), Some(1));
    assert!(said(&refused).contains("1 text is sealed with 0123456789ab"), "{}", said(&refused));
    assert_eq!(secrets.ids("app-api"), []);
    let path = format!("/v1/registries/{REGISTRY}");
    put(&owner, &path, json!({ "username": "robot", "password": "hunter2-hunter2" })).await;
    secrets.succeed(&server.database, "start").await;
    server.database.sql(lost).await;
    let output = secrets.run(&server.database, "start").await;
    let text = said(&output);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("5 texts are encrypted"), "{text}");
    assert_eq!(secrets.ids("app-api").len(), 2, "the text keeps no key from being added: {text}");
    let named =
        "account of registry registry.example.com: the text is sealed with the key 0123456789ab";
    assert!(text.contains(named), "{text}");
    let status = secrets.succeed(&server.database, "status").await;
    assert!(
        status.contains("1 text sealed with 0123456789ab, which is not in the file"),
        "{status}"
    );
    read_all(&server, &owner, &secrets).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn no_key_is_removed_that_the_orchestrator_may_need_for_a_start() {
    let secrets = Secrets::new();
    let (server, _owner) = with_secrets(&secrets).await;
    secrets.succeed(&server.database, "start").await;
    secrets.finish(&server.database).await;
    let setup = Setup { env: secrets.env(), ..server.replica() };
    let database = server.database.clone();
    server.kill().await;
    secrets.succeed(&database, "start").await;
    let refused = secrets.run(&database, "finish").await;
    assert_eq!(refused.status.code(), Some(1));
    let named = "have not reached the orchestrator: acme, globex";
    assert!(said(&refused).contains(named), "{}", said(&refused));
    assert_eq!(secrets.ids("orchestrator").len(), 2);
    let server = setup.start().await;
    secrets.finish(&server.database).await;
    assert_eq!(secrets.ids("orchestrator").len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_at_once_one_is_refused() {
    let secrets = Secrets::new();
    let (server, owner) = with_secrets(&secrets).await;
    // The row of the second tenant is not free, so the process stands between the two.
    let mut other = server.database.conn().await;
    other.batch_execute("BEGIN").await.unwrap();
    other.batch_execute("SELECT FROM tenants WHERE slug = 'globex' FOR UPDATE").await.unwrap();
    let mut process = secrets.spawn(&server.database, "start");
    eventually("the first tenant", TEST_TIMEOUT, async || {
        Ok(key_of(&server, "acme").await.as_str() != SSO_SECRET_ID)
    })
    .await
    .unwrap();
    let before = secrets.ids("app-api");
    for step in ["start", "finish"] {
        let refused = secrets.run(&server.database, step).await;
        assert_eq!(refused.status.code(), Some(1), "{step}");
        let text = said(&refused);
        assert!(text.contains("another `rotate-secrets` is under way"), "{step}: {text}");
    }
    other.batch_execute("ROLLBACK").await.unwrap();
    let ended = tokio::task::spawn_blocking(move || process.wait()).await.unwrap().unwrap();
    assert!(ended.success());
    assert_eq!((before.len(), &secrets.ids("app-api")), (1, &before));
    assert_eq!(secrets.ids("orchestrator"), before);
    read_all(&server, &owner, &secrets).await;
}

/// The first rotation removes no key, and is unfinished while a text of `CIAL_SSO_SECRET` is left.
#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_the_first_rotation_is_checked() {
    let secrets = Secrets::new();
    let (server, _owner) = with_secrets(&secrets).await;
    let before = server.row("globex").await.spec().sealed_env.unwrap();
    secrets.succeed(&server.database, "start").await;
    let late = format!(
        "UPDATE tenants SET app = jsonb_set(app, '{{sealed_env}}', to_jsonb('{before}'::text)) WHERE slug = 'globex'"
    );
    server.database.sql(&late).await;
    let refused = secrets.run(&server.database, "finish").await;
    assert_eq!(refused.status.code(), Some(1));
    let named = "1 text sealed with sso-secret: variables of tenant globex";
    assert!(said(&refused).contains(named), "{}", said(&refused));
    secrets.succeed(&server.database, "start").await;
    secrets.finish(&server.database).await;
}
