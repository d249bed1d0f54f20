//! The API keeps to its own description under generated requests. schemathesis (a Python program) generates them, from
//! the description that the server serves: `cargo xtask test api`.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Stdio};

use axum::http::Method;
use serde_json::{Value, json};

use crate::harness::{EMAIL, FakeOrchestrator, Server, Setup, TestClient, acme};

/// Rules that a schema does not say, such as a free slug or a public address, make it call valid what is refused.
const UNDESCRIBED: &str = "positive_data_acceptance";
/// The program takes ids from responses, also that of its own key or session. These calls have a run of their own, with
/// credentials that may end.
const ENDS_CREDENTIALS: &str = r"(/auth/keys/\{id\}|/auth/sign-out|/sessions/\{id\})$";
/// Besides those, the stream of events, which has no end and which `events.rs` reads, and the import, whose body the program
/// cannot make: `transfers.rs` sends damaged and hostile ones.
const LEFT_OUT: &str =
    r"(/auth/keys/\{id\}|/auth/sign-out|/sessions/\{id\}|/events|/imports/\{as\})$";

/// A method and a path of the description.
type Operation = (String, String);

/// A request that the program sent.
struct Sent {
    operation: Operation,
    is_success: bool,
}

async fn start() -> (Server, TestClient) {
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.max_changes = u32::MAX;
    let server = setup.start().await;
    let owner = server.sign_up().await;
    owner.post("/v1/tenants", acme()).await;
    owner.post("/v1/webhooks", json!({ "url": "https://example.com/hook" })).await;
    let model = json!({ "base_url": "https://example.com/v1", "model": "small", "key": "a-key" });
    let set = owner.json(Method::PUT, "/v1/model", &[], model).await;
    assert_eq!(set.status, 200, "{}", set.text());
    (server, owner)
}

/// The lines of the program's configuration for a session. It must know which credential is which: it also calls without
/// them, and with wrong ones.
async fn with_session(server: &Server) -> String {
    let cookie = server.new_session_of(EMAIL).await.cookie.unwrap();
    let (_, token) = cookie.split_once('=').unwrap();
    format!("[auth.openapi.session]\napi_key = \"{token}\"\n")
}

/// The same for a key.
async fn with_key(server: &Server) -> String {
    format!("[auth.openapi.key]\nbearer = \"{}\"\n", server.admin_key().await)
}

/// Generates requests with the arguments, and returns them. `seconds` end the generation; a shrinking failure takes longer.
async fn generate(server: &Server, config: &str, arguments: &[&str], seconds: u32) -> Vec<Sent> {
    let program = testkit::installation::required("CIAL_SCHEMATHESIS").unwrap();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("schemathesis.toml"), config).unwrap();
    let mut command = Command::new(program);
    command
        .current_dir(folder.path())
        .arg("run")
        .arg(format!("http://{}/api/openapi.json", server.visitor.address()))
        .args(["--checks", "all", "--exclude-checks", UNDESCRIBED])
        .args(arguments)
        // One worker: two threads that compile Python at once end CPython before 3.11.8 with "AST constructor recursion depth
        // mismatch".
        .args(["--seed", "1", "--max-examples", "12", "--workers", "1"])
        .args(["--max-time", &seconds.to_string(), "--request-timeout", "30", "--no-color"])
        .args(["--report", "har", "--report-har-path", "requests.har"])
        .stdin(Stdio::null());
    let output = tokio::task::spawn_blocking(move || command.output()).await.unwrap().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{text}\n{}", String::from_utf8_lossy(&output.stderr));
    let operations = described(server, |_| true).await;
    sent(&folder.path().join("requests.har"), &operations)
}

/// The operations of the description that `is_wanted`, by path.
async fn described(server: &Server, is_wanted: impl Fn(&str) -> bool) -> BTreeSet<Operation> {
    let document = server.visitor.get("/api/openapi.json").await.json();
    let paths = document["paths"].as_object().unwrap().iter();
    let wanted = paths.filter(|(path, _)| is_wanted(path));
    let of_path = |(path, methods): (&String, &Value)| {
        let methods = methods.as_object().unwrap().keys();
        methods.map(|method| (method.to_uppercase(), path.clone())).collect::<Vec<_>>()
    };
    wanted.flat_map(of_path).collect()
}

/// The requests of an HTTP archive that belong to an operation.
fn sent(archive: &Path, operations: &BTreeSet<Operation>) -> Vec<Sent> {
    let archive: Value = serde_json::from_slice(&std::fs::read(archive).unwrap()).unwrap();
    let entries = archive["log"]["entries"].as_array().unwrap().iter();
    let sent = entries.filter_map(|entry| {
        let method = entry["request"]["method"].as_str().unwrap();
        let address = entry["request"]["url"].as_str().unwrap().split(['?', '#']).next().unwrap();
        let path =
            &address[address.match_indices('/').nth(2).map_or(address.len(), |(at, _)| at)..];
        let operation = operation_of(method, path, operations)?.clone();
        let is_success = matches!(entry["response"]["status"].as_u64(), Some(200..=299));
        Some(Sent { operation, is_success })
    });
    sent.collect()
}

/// The operation of a request: of two, the one with fewer parameters, like in the router.
fn operation_of<'a>(
    method: &str,
    path: &str,
    operations: &'a BTreeSet<Operation>,
) -> Option<&'a Operation> {
    let is_parameter = |part: &str| part.starts_with('{');
    let fits = |template: &str| {
        let (parts, given) = (template.split('/'), path.split('/'));
        parts.clone().count() == given.clone().count()
            && parts.zip(given).all(|(part, given)| is_parameter(part) || part == given)
    };
    let fitting = operations.iter().filter(|(own, template)| own == method && fits(template));
    fitting
        .min_by_key(|(_, template)| template.split('/').filter(|part| is_parameter(part)).count())
}

fn ends_credentials(path: &str) -> bool {
    ["/auth/keys/{id}", "/auth/sign-out", "/sessions/{id}"].iter().any(|end| path.ends_with(end))
}

fn is_left_out(path: &str) -> bool {
    ends_credentials(path) || path.ends_with("/events") || path.ends_with("/imports/{as}")
}

/// Fails for an operation that no request reached.
fn assert_reached(wanted: &BTreeSet<Operation>, sent: &[Sent]) {
    let reached: BTreeSet<_> = sent.iter().map(|sent| sent.operation.clone()).collect();
    let missing: Vec<_> = wanted.difference(&reached).collect();
    assert!(!wanted.is_empty() && missing.is_empty(), "never called: {missing:#?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis, and takes minutes: cargo xtask test api"]
async fn the_api_matches_its_description_for_a_key() {
    let (server, _owner) = start().await;
    let only = ["--include-path-regex", "^/v1/", "--exclude-path-regex", LEFT_OUT];
    let sent = generate(&server, &with_key(&server).await, &only, 110).await;
    let wanted = |path: &str| path.starts_with("/v1/") && !is_left_out(path);
    assert_reached(&described(&server, wanted).await, &sent);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis, and takes minutes: cargo xtask test api"]
async fn the_api_matches_its_description_for_a_person() {
    let (server, _owner) = start().await;
    let only = ["--include-path-regex", "^/api/", "--exclude-path-regex", LEFT_OUT];
    let sent = generate(&server, &with_session(&server).await, &only, 110).await;
    let wanted = |path: &str| path.starts_with("/api/") && !is_left_out(path);
    let wanted = described(&server, wanted).await;
    assert_reached(&wanted, &sent);
    // An owner with a session may read everything: the bodies were compared with their schemas, not with that of a refusal.
    let succeeded: BTreeSet<_> =
        sent.iter().filter(|sent| sent.is_success).map(|sent| &sent.operation).collect();
    let lists = wanted.iter().filter(|(method, path)| method == "GET" && !path.contains('{'));
    let refused: Vec<_> = lists.filter(|operation| !succeeded.contains(operation)).collect();
    assert!(refused.is_empty(), "never successful: {refused:#?}");
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs schemathesis, and takes minutes: cargo xtask test api"]
async fn the_api_matches_its_description_where_credentials_end() {
    let (server, _owner) = start().await;
    let config = with_key(&server).await + &with_session(&server).await;
    let only = ["--include-path-regex", ENDS_CREDENTIALS];
    let sent = generate(&server, &config, &only, 30).await;
    assert_reached(&described(&server, ends_credentials).await, &sent);
    server.stop().await;
}

#[test]
fn a_request_belongs_to_the_operation_with_the_fewest_parameters() {
    let operation = |path: &str| ("GET".to_owned(), path.to_owned());
    let all = ["/v1/users", "/v1/users/{id}", "/v1/users/me", "/v1/{a}/{b}"].map(operation);
    let all = BTreeSet::from(all);
    for (path, expected) in [
        ("/v1/users/me", Some("/v1/users/me")),
        ("/v1/users/7", Some("/v1/users/{id}")),
        ("/v1/tenants/7", Some("/v1/{a}/{b}")),
        ("/v1/users", Some("/v1/users")),
        ("/v1/users/7/keys", None),
    ] {
        let found = operation_of("GET", path, &all).map(|(_, path)| path.as_str());
        assert_eq!(found, expected, "{path}");
    }
    assert_eq!(operation_of("POST", "/v1/users", &all), None);
}
