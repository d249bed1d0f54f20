//! The command line signs in by a person who confirms in the browser.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use diesel_async::RunQueryDsl as _;
use protocol::api_keys::Role;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};

use crate::harness::callers::TestKey;
use crate::harness::{EMAIL, FakeOrchestrator, Server, TestClient, TestResponse};

const VERIFIER: &str = "a-verifier-that-only-the-command-knows";
const REDIRECT: &str = "http://127.0.0.1:49152/path";

fn challenge() -> String {
    URL_SAFE_NO_PAD.encode(Sha256::digest(VERIFIER))
}

/// Begins a sign-in like `cial` does.
async fn begin(server: &Server, redirect: Option<&str>) -> Value {
    let mut request = json!({ "device": "laptop", "challenge": challenge() });
    if let Some(redirect) = redirect {
        request["redirect"] = json!(redirect);
    }
    let begun = server.visitor.post("/v1/auth/cli-logins", request).await;
    assert_eq!(begun.status, 201, "{}", begun.text());
    begun.json()
}

async fn fetch(server: &Server, begun: &Value, proof: Value) -> TestResponse {
    let path = format!("/v1/auth/cli-logins/{}/key", begun["id"].as_str().unwrap());
    server.visitor.post(&path, proof).await
}

async fn decide(person: &TestClient, begun: &Value, decision: &str, scope: &str) -> TestResponse {
    let path = format!("/admin/cli-login/{}", begun["id"].as_str().unwrap());
    person.submit(&path, &[("decision", decision), ("scope", scope)]).await
}

/// The value of a parameter in the address that the page hands the browser on to.
fn handed_over(page: &TestResponse, parameter: &str) -> String {
    let text = page.text();
    let (_, rest) = text
        .split_once(&format!("0; url={REDIRECT}?{parameter}="))
        .unwrap_or_else(|| panic!("{text}"));
    rest.split('"').next().unwrap().to_owned()
}

async fn whoami(server: &Server, key: &str) -> TestResponse {
    server.visitor.with_key(key).get("/v1/auth/whoami").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_confirmed_sign_in_yields_one_key_to_who_began_it() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let begun = begin(&server, Some(REDIRECT)).await;
    let path = begun["url"].as_str().unwrap().split_once("/admin").unwrap().1;
    let path = format!("/admin{path}");
    let anonymous = server.visitor.visit(&path).await;
    assert!(anonymous.header("location").starts_with("/admin/login?next=/admin/cli-login?id"));
    let page = owner.visit(&path).await;
    for shown in
        ["laptop", begun["user_code"].as_str().unwrap(), "127.0.0.1", "All tenants, as owner"]
    {
        assert!(page.text().contains(shown), "{shown}: {}", page.text());
    }
    assert_eq!(
        fetch(&server, &begun, json!({ "verifier": VERIFIER })).await.problem(),
        "409 login_pending"
    );

    let done = decide(&owner, &begun, "confirm", "").await;
    assert_eq!(done.status, 200);
    let code = handed_over(&done, "code");
    assert_eq!(decide(&owner, &begun, "confirm", "").await.status, 410, "once");
    for proof in [
        json!({ "verifier": VERIFIER }),
        json!({ "verifier": VERIFIER, "code": "another" }),
        json!({ "verifier": "another", "code": code }),
    ] {
        assert_eq!(fetch(&server, &begun, proof).await.problem(), "410 login_ended");
    }
    let fetched = fetch(&server, &begun, json!({ "verifier": VERIFIER, "code": code })).await;
    assert_eq!(fetched.status, 201, "{}", fetched.text());
    let created = fetched.json();
    assert_eq!((&created["name"], &created["is_admin"]), (&json!("laptop"), &json!(false)));
    let days = chrono::DateTime::parse_from_rfc3339(created["expires_at"].as_str().unwrap())
        .unwrap()
        - chrono::DateTime::<chrono::FixedOffset>::from(server.now());
    assert_eq!(days.num_days(), 30);
    let again = fetch(&server, &begun, json!({ "verifier": VERIFIER, "code": code })).await;
    assert_eq!(again.problem(), "410 login_ended");
    let caller = whoami(&server, created["key"].as_str().unwrap()).await.json();
    assert_eq!((&caller["user"]["email"], &caller["is_admin"]), (&json!(EMAIL), &json!(true)));
    assert_eq!(caller["key"]["expires_at"], created["expires_at"]);

    let audit = owner.get("/v1/audit").await.json();
    let actions: Vec<_> = audit["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    for action in ["cli_login.confirm", "key.create"] {
        assert!(actions.contains(&action), "{actions:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_browser_the_person_types_the_code_in() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let begun = begin(&server, None).await;
    assert!(begun["url"].as_str().unwrap().ends_with("/admin/cli-login"));
    let link = format!("/admin/cli-login?id={}", begun["id"].as_str().unwrap());
    assert_eq!(owner.visit(&link).await.status, 410, "a link alone leads nowhere");
    assert_eq!(owner.visit("/admin/cli-login").await.status, 200);
    let unknown = owner.submit("/admin/cli-login", &[("code", "BBBB-BBBB")]).await;
    assert_eq!(unknown.status, 422);
    assert!(unknown.text().contains("No sign-in waits under this code"), "{}", unknown.text());
    let typed = begun["user_code"].as_str().unwrap().to_lowercase().replace('-', " ");
    let page = owner.submit("/admin/cli-login", &[("code", &typed)]).await;
    assert!(page.text().contains("Sign in cial on laptop?"), "{}", page.text());
    let done = decide(&owner, &begun, "confirm", "").await;
    assert!(!done.text().contains("http-equiv=\"refresh\""), "{}", done.text());
    let created = fetch(&server, &begun, json!({ "verifier": VERIFIER })).await;
    assert_eq!(created.status, 201, "{}", created.text());
    // A code with a redirect cannot be typed in: it belongs to the browser beside the command.
    let beside = begin(&server, Some(REDIRECT)).await;
    let typed =
        owner.submit("/admin/cli-login", &[("code", beside["user_code"].as_str().unwrap())]).await;
    assert_eq!(typed.status, 422);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_key_has_no_more_rights_than_the_person() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let created = async |person: &TestClient, scope: &str| {
        let begun = begin(&server, None).await;
        let done = decide(person, &begun, "confirm", scope).await;
        if done.status != 200 {
            return format!("{}", done.status.as_u16());
        }
        let key = fetch(&server, &begun, json!({ "verifier": VERIFIER })).await.json();
        format!("{} {} {}", key["tenant"], key["role"], key["is_admin"])
    };
    assert_eq!(created(&owner, "").await, r#"null "admin" false"#);
    assert_eq!(created(&owner, "acme").await, r#""acme" "admin" false"#);
    let admin = server.sign_in_as("admin", "admin", &[]).await;
    assert_eq!(created(&admin, "").await, r#"null "admin" false"#);
    let viewer = server.sign_in_as("viewer", "viewer", &[]).await;
    assert_eq!(created(&viewer, "").await, r#"null "read" false"#);
    let member = server.sign_in_as("member", "none", &[("acme", "member")]).await;
    assert_eq!(created(&member, "acme").await, r#""acme" "write" false"#);
    assert_eq!(created(&member, "").await, "403");
    assert_eq!(created(&member, "other").await, "403");
    let without = server.sign_in_as("without", "none", &[]).await;
    assert_eq!(created(&without, "").await, "403");

    // Rights that went between the confirmation and the key count at the key.
    let begun = begin(&server, None).await;
    assert_eq!(decide(&member, &begun, "confirm", "acme").await.status, 200);
    server.database.sql("DELETE FROM memberships").await;
    let late = fetch(&server, &begun, json!({ "verifier": VERIFIER })).await;
    assert_eq!(late.problem(), "403 forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_ends_by_refusal_by_time_and_with_the_session() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let verifier = || json!({ "verifier": VERIFIER });
    let refused = begin(&server, Some(REDIRECT)).await;
    let page = decide(&owner, &refused, "refuse", "").await;
    assert_eq!(handed_over(&page, "error"), "access_denied");
    let address = json!({ "address": "127.0.0.1" });
    let entry = (EMAIL.to_owned(), "cli_login:laptop".to_owned(), address, Value::Null);
    assert_eq!(server.audited("cli_login.refuse").await, [entry]);
    assert_eq!(fetch(&server, &refused, verifier()).await.problem(), "410 login_ended");

    let ended = begin(&server, None).await;
    let person = server.sign_in_as("second", "admin", &[]).await;
    assert_eq!(decide(&person, &ended, "confirm", "").await.status, 200);
    person.send("POST".parse().unwrap(), "/v1/auth/sign-out", &[], "").await;
    assert_eq!(fetch(&server, &ended, verifier()).await.problem(), "410 login_ended");

    let old = begin(&server, None).await;
    assert_eq!(decide(&owner, &old, "confirm", "").await.status, 200);
    server.advance_clock(Duration::from_secs(300));
    assert_eq!(fetch(&server, &old, verifier()).await.problem(), "410 login_ended");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_malformed_sign_in_and_a_page_elsewhere_are_refused() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let request = json!({ "device": "", "challenge": "x", "redirect": "http://evil.example:1/" });
    let refused = server.visitor.post("/v1/auth/cli-logins", request).await;
    assert_eq!(refused.problem(), "422 invalid_fields");
    assert_eq!(refused.json()["errors"].as_array().unwrap().len(), 3);
    let begun = begin(&server, Some(REDIRECT)).await;
    let path = format!("/admin/cli-login/{}", begun["id"].as_str().unwrap());
    let headers = [
        ("content-type", "application/x-www-form-urlencoded"),
        ("origin", "http://acme.localhost:8080"),
        ("sec-fetch-site", "same-site"),
    ];
    let forged = owner.send("POST".parse().unwrap(), &path, &headers, "decision=confirm").await;
    assert_eq!(forged.problem(), "403 cross_site");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_revokes_itself() {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let read = server.key_of(Some("acme"), protocol::api_keys::Role::Read).await;
    for key in [read, server.admin_key().await] {
        let client = server.visitor.with_key(&key);
        let out = client.send("POST".parse().unwrap(), "/v1/auth/sign-out", &[], "").await;
        assert_eq!(out.status, 204, "{}", out.text());
        assert_eq!(whoami(&server, &key).await.problem(), "401 invalid_key");
    }
}

/// Signs in like `cial` without a browser, and returns the key.
async fn login(server: &Server, person: &TestClient, scope: &str) -> String {
    let begun = begin(server, None).await;
    let done = decide(person, &begun, "confirm", scope).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let fetched = fetch(server, &begun, json!({ "verifier": VERIFIER })).await;
    assert_eq!(fetched.status, 201, "{}", fetched.text());
    fetched.json()["key"].as_str().unwrap().to_owned()
}

async fn call(server: &Server, key: &str, method: &str, path: &str, body: Value) -> TestResponse {
    server.visitor.with_key(key).json(method.parse().unwrap(), path, &[], body).await
}

async fn status(server: &Server, key: &str, method: &str, path: &str) -> String {
    let response = call(server, key, method, path, Value::Null).await;
    if response.status.is_success() { "ok".to_owned() } else { response.problem() }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_key_has_the_rights_that_its_person_has_at_each_request() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let admin = server.sign_in_as("admin", "admin", &[]).await;
    let key = login(&server, &admin, "").await;
    let user = server.user("admin@example.com").await.id;
    let role = async |role: &str| {
        let body = json!({ "role": role });
        let path = format!("/v1/users/{user}");
        let changed = owner.json("PATCH".parse().unwrap(), &path, &[], body).await;
        assert_eq!(changed.status, 200, "{}", changed.text());
    };
    // As a platform admin the person creates tenants, and the tenant belongs to them.
    let new = json!({ "slug": "made", "name": "Made" });
    let made = call(&server, &key, "POST", "/v1/tenants", new).await;
    assert_eq!(made.json()["owner_id"], json!(user), "{}", made.text());
    role("viewer").await;
    assert_eq!(status(&server, &key, "GET", "/v1/tenants/acme").await, "ok");
    assert_eq!(
        status(&server, &key, "POST", "/v1/tenants/acme/stop").await,
        "403 insufficient_role"
    );
    role("none").await;
    assert_eq!(status(&server, &key, "GET", "/v1/tenants/acme").await, "403 forbidden");
    assert_eq!(
        call(&server, &key, "GET", "/v1/tenants", Value::Null).await.json()["tenants"],
        json!([])
    );
    role("admin").await;
    assert_eq!(status(&server, &key, "POST", "/v1/tenants/acme/stop").await, "ok");
    // Never wider than its own role.
    let narrow = TestKey { person: Some("admin@example.com"), ..TestKey::new(None, Role::Read) };
    let narrow = server.insert_key(narrow).await;
    assert_eq!(status(&server, &narrow, "GET", "/v1/audit").await, "ok");
    assert_eq!(
        status(&server, &narrow, "POST", "/v1/tenants/acme/start").await,
        "403 insufficient_role"
    );
    assert_eq!(status(&server, &narrow, "GET", "/v1/webhooks").await, "403 insufficient_role");

    let invited = json!({ "email": "new@example.com", "role": "viewer" });
    let invited = call(&server, &key, "POST", "/v1/invitations", invited).await.json();
    let link = invited["url"].as_str().unwrap().split_once("/admin").unwrap().1.to_owned();
    let path = format!("/v1/users/{user}");
    assert_eq!(owner.send("DELETE".parse().unwrap(), &path, &[], "").await.status, 204);
    assert_eq!(status(&server, &key, "GET", "/v1/auth/whoami").await, "401 invalid_key");
    assert_eq!(server.visitor.visit(&format!("/admin{link}")).await.status, 410);
    let live = "api_keys WHERE person_id IS NOT NULL AND NOT revoked";
    assert_eq!(server.database.count(live).await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_key_of_a_tenant_ends_with_the_membership() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let member = server.sign_in_as("mia", "none", &[("acme", "admin")]).await;
    let key = login(&server, &member, "acme").await;
    let user = server.user("mia@example.com").await.id;
    let path = format!("/v1/tenants/acme/members/{user}");
    assert_eq!(status(&server, &key, "GET", "/v1/tenants/acme/keys").await, "ok");
    owner.json("PUT".parse().unwrap(), &path, &[], json!({ "role": "viewer" })).await;
    assert_eq!(status(&server, &key, "GET", "/v1/tenants/acme").await, "ok");
    assert_eq!(
        status(&server, &key, "GET", "/v1/tenants/acme/keys").await,
        "403 insufficient_role"
    );
    assert_eq!(owner.send("DELETE".parse().unwrap(), &path, &[], "").await.status, 204);
    assert_eq!(status(&server, &key, "GET", "/v1/tenants/acme").await, "401 invalid_key");
    // A person who comes back has to sign in again.
    owner.json("PUT".parse().unwrap(), &path, &[], json!({ "role": "admin" })).await;
    assert_eq!(status(&server, &key, "GET", "/v1/tenants/acme").await, "401 invalid_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn people_see_and_revoke_their_own_login_keys() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let member = server.sign_in_as("mia", "none", &[("acme", "viewer")]).await;
    let (first, second) =
        (login(&server, &member, "acme").await, login(&server, &member, "acme").await);
    let listed = call(&server, &first, "GET", "/v1/users/me/keys", Value::Null).await.json();
    let keys = listed["keys"].as_array().unwrap();
    assert_eq!(keys.len(), 2, "{listed}");
    assert_eq!(
        (&keys[0]["person"], &keys[0]["tenant"]),
        (&json!("mia@example.com"), &json!("acme"))
    );
    assert_eq!(owner.get("/v1/users/me/keys").await.json()["keys"], json!([]));
    // The key that was used is the first one: the newest is listed first.
    let id = |n: usize| keys[n]["id"].as_str().unwrap().to_owned();
    let path = format!("/v1/users/me/keys/{}", id(0));
    assert_eq!(
        owner.send("DELETE".parse().unwrap(), &path, &[], "").await.problem(),
        "404 not_found"
    );
    // A key that only reads ends no other, in whichever scope it lies.
    assert_eq!(status(&server, &first, "DELETE", &path).await, "403 insufficient_role");
    assert_eq!(status(&server, &second, "GET", "/v1/auth/whoami").await, "ok");
    assert_eq!(status(&server, &second, "DELETE", &path).await, "ok", "itself");
    assert_eq!(status(&server, &second, "GET", "/v1/auth/whoami").await, "401 invalid_key");
    let page = member.visit("/admin/account").await.text();
    let button = format!("/admin/account/keys/{}/revoke", id(1));
    assert!(page.contains(&button) && !page.contains(&id(0)), "{page}");
    assert_eq!(member.submit(&button, &[]).await.status, 303);
    assert_eq!(status(&server, &first, "GET", "/v1/auth/whoami").await, "401 invalid_key");
    let third = login(&server, &member, "acme").await;
    server
        .database
        .sql("UPDATE users SET password_hash = 'x' WHERE email = 'mia@example.com'")
        .await;
    assert_eq!(status(&server, &third, "GET", "/v1/auth/whoami").await, "401 invalid_key");
    let unbound = server.admin_key().await;
    assert_eq!(status(&server, &unbound, "GET", "/v1/users/me/keys").await, "403 forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_key_that_nobody_uses_ends_within_a_minute() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let (lost, used) = (login(&server, &owner, "").await, login(&server, &owner, "").await);
    assert_eq!(status(&server, &used, "GET", "/v1/auth/whoami").await, "ok");
    server.advance_clock(Duration::from_secs(60));
    assert_eq!(status(&server, &lost, "GET", "/v1/auth/whoami").await, "401 invalid_key");
    assert_eq!(status(&server, &used, "GET", "/v1/auth/whoami").await, "ok");
    server.advance_clock(Duration::from_secs(30 * 24 * 3_600));
    assert_eq!(status(&server, &used, "GET", "/v1/auth/whoami").await, "401 invalid_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_that_yields_no_key_can_be_fetched_again() {
    let (server, _owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let person = server.sign_in_as("mia", "viewer", &[]).await;
    let begun = begin(&server, None).await;
    assert_eq!(decide(&person, &begun, "confirm", "").await.status, 200);
    let verifier = || json!({ "verifier": VERIFIER });
    server.database.sql("UPDATE users SET role = 'none' WHERE name = 'mia'").await;
    let refused = fetch(&server, &begun, verifier()).await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    server.database.sql("UPDATE users SET role = 'viewer' WHERE name = 'mia'").await;
    let both = futures_util::future::join(
        fetch(&server, &begun, verifier()),
        fetch(&server, &begun, verifier()),
    );
    let both = both.await;
    let mut statuses = [both.0.status.as_u16(), both.1.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [201, 410]);
    assert_eq!(server.database.count("api_keys WHERE person_id IS NOT NULL").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_a_login_key_creates_belongs_to_its_person() {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let admin = server.sign_in_as("admin", "owner", &[]).await;
    let key = login(&server, &admin, "").await;
    let new = |is_admin: bool| json!({ "name": "ci", "role": "admin", "is_admin": is_admin, "expires_in_days": 0 });
    let refused = call(&server, &key, "POST", "/v1/auth/keys", new(true)).await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    let made = call(&server, &key, "POST", "/v1/auth/keys", new(false)).await.json();
    let parent = call(&server, &key, "GET", "/v1/auth/whoami", Value::Null).await.json();
    assert_eq!(made["expires_at"], parent["key"]["expires_at"], "no later than the key itself");
    let made = made["key"].as_str().unwrap().to_owned();
    let whoami = call(&server, &made, "GET", "/v1/auth/whoami", Value::Null).await.json();
    assert_eq!(whoami["key"]["person"], "admin@example.com", "{whoami}");
    assert_eq!(
        whoami["key"]["expires_at"], parent["key"]["expires_at"],
        "also after its first use"
    );

    server.database.sql("UPDATE users SET role = 'viewer' WHERE name = 'admin'").await;
    let stop = "/v1/tenants/acme/stop";
    assert_eq!(status(&server, &made, "POST", stop).await, "403 insufficient_role");
    server.database.sql("DELETE FROM users WHERE name = 'admin'").await;
    assert_eq!(status(&server, &made, "GET", "/v1/auth/whoami").await, "401 invalid_key");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_key_ends_with_the_keys_that_it_created() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let create = async |key: &str| {
        let new = json!({ "name": "ci", "role": "read" });
        let made = call(&server, key, "POST", "/v1/auth/keys", new).await;
        assert_eq!(made.status, 201, "{}", made.text());
        made.json()["key"].as_str().unwrap().to_owned()
    };
    let (first, other) = (login(&server, &owner, "").await, login(&server, &owner, "").await);
    let new = json!({ "name": "deploy", "role": "admin" });
    let made = call(&server, &first, "POST", "/v1/auth/keys", new).await.json();
    let made = made["key"].as_str().unwrap().to_owned();
    let made_by_made = create(&made).await;
    let of_other = create(&other).await;
    let whoami = call(&server, &first, "GET", "/v1/auth/whoami", Value::Null).await.json();
    let path = format!("/v1/users/me/keys/{}", whoami["key"]["id"].as_str().unwrap());
    assert_eq!(status(&server, &other, "DELETE", &path).await, "ok");
    for ended in [&first, &made, &made_by_made] {
        let response = status(&server, ended, "GET", "/v1/auth/whoami").await;
        assert_eq!(response, "401 invalid_key");
    }
    for live in [&other, &of_other] {
        assert_eq!(status(&server, live, "GET", "/v1/auth/whoami").await, "ok");
    }

    // A key of a program outlives the one that created it: keys replace each other.
    let admin = server.admin_key().await;
    let successor = create(&admin).await;
    assert_eq!(status(&server, &admin, "POST", "/v1/auth/sign-out").await, "ok");
    assert_eq!(status(&server, &admin, "GET", "/v1/auth/whoami").await, "401 invalid_key");
    assert_eq!(status(&server, &successor, "GET", "/v1/auth/whoami").await, "ok");
}

/// A key that is created while its creator is revoked is revoked with it, or not created.
#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_revoked_meanwhile_creates_none() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let key = login(&server, &owner, "").await;
    assert_eq!(status(&server, &key, "GET", "/v1/auth/whoami").await, "ok");
    let mut revoking = server.database.conn().await;
    for statement in ["BEGIN", "UPDATE api_keys SET revoked = true WHERE person_id IS NOT NULL"] {
        diesel::sql_query(statement).execute(&mut revoking).await.unwrap();
    }
    let new = json!({ "name": "ci", "role": "read" });
    let creating = call(&server, &key, "POST", "/v1/auth/keys", new);
    let committing = async {
        server.database.until_blocked().await;
        diesel::sql_query("COMMIT").execute(&mut revoking).await.unwrap();
    };
    let (refused, ()) = tokio::join!(creating, committing);
    assert_eq!(refused.problem(), "401 invalid_key");
    assert_eq!(server.database.count("api_keys WHERE name = 'ci'").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_login_key_of_a_tenant_sees_and_revokes_keys_of_that_tenant_only() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    for slug in ["acme", "globex"] {
        owner.post("/api/admin/tenants", json!({ "slug": slug, "name": slug })).await;
    }
    let member =
        server.sign_in_as("mia", "admin", &[("acme", "member"), ("globex", "member")]).await;
    let here = login(&server, &member, "acme").await;
    let elsewhere = login(&server, &member, "globex").await;
    let everywhere = login(&server, &member, "").await;
    let own = async |key: &str| {
        let listed = call(&server, key, "GET", "/v1/users/me/keys", Value::Null).await.json();
        let ids = listed["keys"].as_array().unwrap().iter();
        ids.map(|key| key["id"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let (of_acme, all) = (own(&here).await, own(&everywhere).await);
    assert_eq!((of_acme.len(), all.len()), (1, 3));
    for id in all.iter().filter(|id| !of_acme.contains(id)) {
        let path = format!("/v1/users/me/keys/{id}");
        assert_eq!(status(&server, &here, "DELETE", &path).await, "404 not_found");
    }
    assert_eq!(status(&server, &elsewhere, "GET", "/v1/auth/whoami").await, "ok");
    let path = format!("/v1/users/me/keys/{}", of_acme[0]);
    assert_eq!(status(&server, &everywhere, "DELETE", &path).await, "ok");
    assert_eq!(status(&server, &here, "GET", "/v1/auth/whoami").await, "401 invalid_key");
}

/// Fetches the key of a confirmed sign-in while a transaction has made `change` and not committed it, and returns how
/// the fetch ends.
async fn fetch_during(change: &str) -> String {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let member = server.sign_in_as("mia", "none", &[("acme", "admin")]).await;
    let begun = begin(&server, None).await;
    assert_eq!(decide(&member, &begun, "confirm", "acme").await.status, 200);
    let mut changing = server.database.conn().await;
    for statement in ["BEGIN", change] {
        diesel::sql_query(statement).execute(&mut changing).await.unwrap();
    }
    let fetching = fetch(&server, &begun, json!({ "verifier": VERIFIER }));
    let committing = async {
        server.database.until_blocked().await;
        diesel::sql_query("COMMIT").execute(&mut changing).await.unwrap();
    };
    let (fetched, ()) = tokio::join!(fetching, committing);
    let live = "api_keys WHERE person_id IS NOT NULL AND NOT revoked";
    assert_eq!(server.database.count(live).await, 0, "{change}");
    fetched.problem()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_that_is_fetched_while_its_rights_end_is_not_created() {
    let left = fetch_during("DELETE FROM memberships").await;
    assert_eq!(left, "403 forbidden");
    let reset = "WITH own AS (DELETE FROM sessions WHERE user_id = (SELECT id FROM users WHERE name = 'mia')) \
                 UPDATE users SET password_hash = 'x' WHERE name = 'mia'";
    assert_eq!(fetch_during(reset).await, "410 login_ended");
}
