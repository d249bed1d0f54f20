//! The first key: made once, readable by its owner alone, replaced by the documented recovery.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use app_api::auth::api_key::KeyText;
use axum::http::Method;
use diesel_async::RunQueryDsl as _;
use futures_util::future::join_all;
use protocol::api_keys::Role;
use serde_json::{Value, json};

use crate::harness::{FakeOrchestrator, Server, Setup, acme};

/// The statement of docs/api-keys.md.
fn recovery() -> &'static str {
    let document = include_str!("../../../../docs/api-keys.md");
    let (_, statement) = document.split_once("```sql\n").expect("the document has a statement");
    statement.split("\n```").next().unwrap()
}

/// The names of the tables with a row that holds `text`, as text or as bytes.
async fn tables_with(server: &Server, text: &str) -> Vec<String> {
    #[derive(diesel::QueryableByName)]
    struct Table {
        #[diesel(sql_type = diesel::sql_types::Text)]
        name: String,
    }
    let query = "SELECT format('%I.%I', schemaname, tablename) AS name FROM pg_tables \
        WHERE schemaname NOT IN ('pg_catalog', 'information_schema')";
    let tables: Vec<Table> =
        diesel::sql_query(query).load(&mut server.database.conn().await).await.unwrap();
    assert!(tables.len() > 20, "{}", tables.len());
    let bytes = app_api::audit::chain::hex(text.as_bytes());
    let mut found = Vec::new();
    for Table { name } in tables {
        let with = format!("{name} t WHERE t::text LIKE '%{text}%' OR t::text LIKE '%{bytes}%'");
        if server.database.count(&with).await > 0 {
            found.push(name);
        }
    }
    found
}

async fn setup_with(directory: &Path) -> Setup {
    in_directory(directory, Setup::new(FakeOrchestrator::unreachable()).await)
}

fn in_directory(directory: &Path, mut setup: Setup) -> Setup {
    setup.env.push(("CIAL_STATE_DIR", directory.to_str().unwrap().to_owned()));
    setup
}

async fn status(server: &Server, key: &str, path: &str) -> u16 {
    server.visitor.with_key(key.trim()).get(path).await.status.as_u16()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_start_writes_a_key_and_later_starts_do_not() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bootstrap-key");
    let server = setup_with(directory.path()).await.start().await;
    let key = fs::read_to_string(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(status(&server, &key, "/v1/auth/keys").await, 200);
    assert_eq!(tables_with(&server, &key[5..30]).await, [""; 0]);
    // The column of the audit log, and not the event `key.created`.
    assert_eq!(tables_with(&server, ",key.create,").await, ["public.audit_log"]);
    let written = fs::metadata(&file).unwrap().modified().unwrap();

    let again = in_directory(directory.path(), server.replica());
    server.kill().await;
    let server = again.start().await;
    assert_eq!(server.database.count("api_keys").await, 1);
    assert_eq!(fs::metadata(&file).unwrap().modified().unwrap(), written);
    assert_eq!(status(&server, &key, "/v1/auth/whoami").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_key_outlives_the_first_one_and_needs_no_third() {
    let directory = tempfile::tempdir().unwrap();
    let server = setup_with(directory.path()).await.start().await;
    let first = fs::read_to_string(directory.path().join("bootstrap-key")).unwrap();
    let call = async |key: &str, method: Method, path: &str, body: Value| {
        server.visitor.with_key(key.trim()).json(method, path, &[], body).await
    };
    let new = json!({ "name": "second", "role": "admin", "is_admin": true });
    let created = call(&first, Method::POST, "/v1/auth/keys", new).await;
    assert_eq!(created.status, 201, "{}", created.text());
    let second = created.json()["key"].as_str().unwrap().to_owned();
    let whoami = call(&first, Method::GET, "/v1/auth/whoami", Value::Null).await.json();
    let path = format!("/v1/auth/keys/{}", whoami["key"]["id"].as_str().unwrap());
    assert_eq!(call(&second, Method::DELETE, &path, Value::Null).await.status, 204);
    assert_eq!(status(&server, &first, "/v1/auth/whoami").await, 401);
    assert_eq!(call(&second, Method::POST, "/v1/tenants", acme()).await.status, 201);

    let again = in_directory(directory.path(), server.replica());
    server.kill().await;
    let server = again.start().await;
    assert_eq!(server.database.count("api_keys").await, 2);
    assert_eq!(status(&server, &first, "/v1/auth/whoami").await, 401);
    assert_eq!(status(&server, &second, "/v1/auth/keys").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn ten_replicas_on_an_empty_database_write_one_key() {
    let directories: Vec<_> = (0..10).map(|_| tempfile::tempdir().unwrap()).collect();
    let first = Setup::new(FakeOrchestrator::unreachable()).await;
    let setups = directories.iter().map(|own| in_directory(own.path(), first.replica()));
    let servers = join_all(setups.map(Setup::start)).await;
    let files = directories.iter().map(|directory| directory.path().join("bootstrap-key"));
    let keys: Vec<_> = files.filter_map(|file| fs::read_to_string(file).ok()).collect();
    assert_eq!(keys.len(), 1);
    assert_eq!(servers[0].database.count("api_keys").await, 1);
    assert_eq!(servers[0].database.count("audit_log WHERE action = 'key.create'").await, 1);
    for server in &servers {
        assert_eq!(status(server, &keys[0], "/v1/auth/keys").await, 200);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_documented_recovery_replaces_the_admin_keys_and_no_other() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("bootstrap-key");
    let server = setup_with(directory.path()).await.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    let of_tenant = server.key_of(Some("acme"), Role::Read).await;
    let old = fs::read_to_string(&file).unwrap();
    server.database.sql(recovery()).await;
    assert_eq!(status(&server, &old, "/v1/auth/whoami").await, 401);

    let again = in_directory(directory.path(), server.replica());
    server.kill().await;
    let server = again.start().await;
    let new = fs::read_to_string(&file).unwrap();
    assert_ne!(new, old);
    assert_eq!(status(&server, &new, "/v1/auth/keys").await, 200);
    assert_eq!(status(&server, &old, "/v1/auth/whoami").await, 401);
    assert_eq!(status(&server, &of_tenant, "/v1/tenants/acme").await, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_supplied_key_works_and_a_revoked_one_is_refused() {
    let key = KeyText::random().unwrap().reveal().to_owned();
    let directory = tempfile::tempdir().unwrap();
    let supplied = async |server: Option<&Server>| {
        let mut setup = match server {
            Some(server) => in_directory(directory.path(), server.replica()),
            None => setup_with(directory.path()).await,
        };
        setup.env.push(("CIAL_BOOTSTRAP_KEY", key.clone()));
        setup
    };
    let server = supplied(None).await.start().await;
    assert_eq!(status(&server, &key, "/v1/auth/keys").await, 200);
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "nothing is written");

    let again = supplied(Some(&server)).await;
    server.kill().await;
    let server = again.start().await;
    assert_eq!(server.database.count("api_keys").await, 1);

    server.database.sql(recovery()).await;
    let refused = supplied(Some(&server)).await;
    server.kill().await;
    let ended = refused.start_unready().await.wait_ended().await;
    let error = format!("{:?}", ended.unwrap_err());
    assert!(error.contains("CIAL_BOOTSTRAP_KEY: this key was revoked"), "{error}");
    assert!(!error.contains(&key), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_directory_that_cannot_be_written_ends_the_start() {
    let server = setup_with(Path::new("/nowhere")).await.start_unready().await;
    let database = server.database.clone();
    let error = format!("{:?}", server.wait_ended().await.unwrap_err());
    assert!(error.contains("CIAL_STATE_DIR"), "{error}");
    // Nothing remains of the attempt.
    assert_eq!(database.count("api_keys").await, 0);
}
