//! Passkeys: added after the password and the code, each challenge answered once, and a signature of this admin's pages only.

use std::time::Duration;

use axum::http::Method;
use serde_json::{Value, json};
use testkit::authenticator::Authenticator;

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, TestClient, TestResponse};
use crate::second_factor::{AuthenticatorApp, FACTOR, password, proof};

const PASSKEYS: &str = "/v1/users/me/passkeys";
const SIGN_IN: &str = "/api/auth/sign-in/passkey";
const ORIGIN: &str = "http://localhost:3100";

pub(crate) fn authenticator() -> Authenticator {
    Authenticator::new(ORIGIN).unwrap()
}

/// Begins a ceremony, and returns the options for the browser.
async fn begin(client: &TestClient, path: &str) -> Value {
    let begun = client.post(&format!("{path}/challenge"), Value::Null).await;
    assert_eq!(begun.status, 200, "{}", begun.text());
    begun.json()["public_key"].clone()
}

/// The request that the account's page sends.
fn new_passkey(authenticator: &mut Authenticator, options: &Value) -> Value {
    let credential = authenticator.create(options).unwrap();
    json!({ "name": "laptop", "password": PASSWORD, "credential": credential })
}

pub(crate) async fn add(person: &TestClient, authenticator: &mut Authenticator) -> TestResponse {
    let options = begin(person, PASSKEYS).await;
    person.post(PASSKEYS, new_passkey(authenticator, &options)).await
}

pub(crate) async fn sign_in(server: &Server, authenticator: &mut Authenticator) -> TestResponse {
    let options = begin(&server.visitor, SIGN_IN).await;
    let credential = authenticator.get(&options).unwrap();
    server.visitor.post(SIGN_IN, json!({ "credential": credential })).await
}

/// Keeps the token of a session that a change has replaced.
async fn follow_rotation(person: &mut TestClient) {
    let rotated = person.get("/api/auth/session").await;
    assert_eq!(rotated.status, 200, "{}", rotated.text());
    assert_ne!(rotated.header("set-cookie"), "", "the session has another token");
    person.store_cookie(&rotated);
}

async fn change(person: &TestClient, method: Method, path: &str, body: Value) -> TestResponse {
    person.json(method, path, &[], body).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_adds_a_passkey_signs_in_with_it_renames_and_removes_it() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mut laptop = authenticator();
    let added = add(&owner, &mut laptop).await;
    assert_eq!(added.status, 201, "{}", added.text());
    follow_rotation(&mut owner).await;
    assert_eq!(add(&owner, &mut laptop).await.problem(), "409 passkey_conflict");

    let signed_in = sign_in(&server, &mut laptop).await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
    assert_eq!(signed_in.json()["user"]["email"], EMAIL);
    let mut person = server.visitor.new_client();
    person.store_cookie(&signed_in);
    let listed = person.get(PASSKEYS).await.json();
    assert_eq!(listed["passkeys"][0]["name"], "laptop", "{listed}");
    assert_ne!(listed["passkeys"][0]["last_used_at"], Value::Null, "{listed}");
    let exclude = begin(&person, PASSKEYS).await["excludeCredentials"].clone();
    assert_eq!(exclude.as_array().unwrap().len(), 1, "{exclude}");

    let path = format!("{PASSKEYS}/{}", listed["passkeys"][0]["id"].as_str().unwrap());
    let mia = server.sign_in_as("mia", "admin", &[]).await;
    let named = |name: &str| json!({ "name": name });
    for method in [Method::PATCH, Method::DELETE] {
        let foreign = change(&mia, method, &path, named("mine")).await;
        assert_eq!(foreign.problem(), "404 not_found");
    }
    let blank = change(&person, Method::PATCH, &path, named(" ")).await;
    assert_eq!(blank.problem(), "422 invalid_fields");
    let renamed = change(&person, Method::PATCH, &path, named("work")).await;
    assert_eq!((renamed.status.as_u16(), &renamed.json()["name"]), (200, &json!("work")));

    assert_eq!(person.send(Method::DELETE, &path, &[], "").await.status, 204);
    follow_rotation(&mut owner).await;
    assert_eq!(sign_in(&server, &mut laptop).await.problem(), "401 invalid_passkey");
    for action in ["user.passkey_add", "user.passkey_rename", "user.passkey_remove"] {
        let entries = format!("audit_log WHERE action = '{action}'");
        assert_eq!(server.database.count(&entries).await, 1, "{action}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_page_renames_and_removes_passkeys() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    assert_eq!(add(&owner, &mut authenticator()).await.status, 201);
    follow_rotation(&mut owner).await;
    let id = owner.get(PASSKEYS).await.json()["passkeys"][0]["id"].as_str().unwrap().to_owned();
    let path = format!("/admin/account/passkeys/{id}");
    assert_eq!(owner.submit(&path, &[("name", "work & play")]).await.status, 303);
    let page = owner.visit("/admin/account").await.text();
    assert!(page.contains("work &#38; play"), "{page}");
    assert!(!page.contains("passkey_code"), "no code without a second factor");
    assert_eq!(owner.submit(&format!("{path}/revoke"), &[]).await.status, 303);
    assert_eq!(server.database.count("passkeys").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_is_added_with_the_password_and_an_own_fresh_challenge() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mia = server.sign_in_as("mia", "viewer", &[]).await;
    let mut laptop = authenticator();
    let options = begin(&owner, PASSKEYS).await;
    for (field, value, refused_field) in [
        ("password", json!("wrong"), "password"),
        ("name", json!(""), "name"),
        ("credential", json!({}), "credential"),
        ("credential", json!("text"), "credential"),
    ] {
        let mut request = new_passkey(&mut laptop, &options);
        request[field] = value;
        let refused = owner.post(PASSKEYS, request).await;
        assert_eq!(refused.problem(), "422 invalid_fields");
        assert_eq!(refused.json()["errors"][0]["field"], refused_field);
    }

    let used = begin(&owner, PASSKEYS).await;
    let mut elsewhere = Authenticator::new("http://acme.localhost:8080").unwrap();
    let of_page = owner.post(PASSKEYS, new_passkey(&mut elsewhere, &used)).await;
    assert_eq!(of_page.problem(), "401 invalid_passkey", "a page of a tenant");
    let expired = begin(&owner, PASSKEYS).await;
    let (foreign, mut sign_in) = (begin(&mia, PASSKEYS).await, begin(&owner, SIGN_IN).await);
    // The options of a sign-in have no person; the rest makes a registration of them.
    sign_in["user"] = used["user"].clone();
    sign_in["rp"] = used["rp"].clone();
    let mut invented = used.clone();
    invented["challenge"] = json!("AAAAAAAAAAAAAAAAAAAAAA");
    for options in [used, foreign, sign_in, invented] {
        let refused = owner.post(PASSKEYS, new_passkey(&mut laptop, &options)).await;
        assert_eq!(refused.problem(), "401 invalid_passkey", "{options}");
    }
    server.advance_clock(Duration::from_secs(300));
    let late = owner.post(PASSKEYS, new_passkey(&mut laptop, &expired)).await;
    assert_eq!(late.problem(), "401 invalid_passkey");
    assert_eq!(server.database.count("passkeys").await, 0);
    begin(&owner, PASSKEYS).await;
    assert_eq!(server.database.count("passkey_challenges").await, 1, "those that expired are gone");
}

/// A passkey signs in without the second factor, so that the second factor guards it.
#[tokio::test(flavor = "multi_thread")]
async fn a_passkey_takes_the_code_of_a_second_factor_and_signs_in_without() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let begun = owner.post(FACTOR, password()).await.json();
    let app = AuthenticatorApp::scan(begun["url"].as_str().unwrap());
    let on = owner.post(&format!("{FACTOR}/confirm"), proof(&app.code(&server))).await;
    assert_eq!(on.status, 200, "{}", on.text());
    follow_rotation(&mut owner).await;
    server.advance_clock(Duration::from_secs(30));
    assert!(owner.visit("/admin/account").await.text().contains("passkey_code"));

    let mut laptop = authenticator();
    let options = begin(&owner, PASSKEYS).await;
    for code in [None, Some("000000")] {
        let mut request = new_passkey(&mut laptop, &options);
        if let Some(code) = code {
            request["code"] = json!(code);
        }
        let refused = owner.post(PASSKEYS, request).await;
        assert_eq!(refused.problem(), "422 invalid_fields");
        assert_eq!(refused.json()["errors"][0]["field"], "code");
    }
    let mut request = new_passkey(&mut laptop, &options);
    request["code"] = json!(app.code(&server));
    let added = owner.post(PASSKEYS, request).await;
    assert_eq!(added.status, 201, "{}", added.text());
    let signed_in = sign_in(&server, &mut laptop).await;
    assert_eq!(signed_in.status, 200, "{}", signed_in.text());
}

#[tokio::test(flavor = "multi_thread")]
async fn each_signature_signs_in_once_and_every_refusal_is_the_same() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mut laptop = authenticator();
    assert_eq!(add(&owner, &mut laptop).await.status, 201);
    let options = begin(&server.visitor, SIGN_IN).await;
    let response = json!({ "credential": laptop.get(&options).unwrap() });
    let both = tokio::join!(
        server.visitor.post(SIGN_IN, response.clone()),
        server.visitor.post(SIGN_IN, response.clone())
    );
    let mut statuses = [both.0.status.as_u16(), both.1.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401]);
    let again = server.visitor.post(SIGN_IN, response).await;

    // A copy of the key whose counter is behind; a page elsewhere; a key that nobody registered.
    laptop.count = 0;
    let copied = sign_in(&server, &mut laptop).await;
    laptop.count = 10;
    laptop.origin = "http://localhost:9999".to_owned();
    let elsewhere = sign_in(&server, &mut laptop).await;
    let mut unknown_device = authenticator();
    unknown_device.user_handle.clone_from(&laptop.user_handle);
    let unknown = sign_in(&server, &mut unknown_device).await;
    for refused in [again, copied, elsewhere, unknown] {
        assert_eq!(refused.problem(), "401 invalid_passkey");
        let expected = "The passkey was not accepted. Try again, or sign in with your password.";
        assert_eq!(refused.json()["detail"], expected);
        assert_eq!(refused.header("set-cookie"), "");
    }
    let malformed = server.visitor.post(SIGN_IN, json!({ "credential": { "id": 7 } })).await;
    assert_eq!(malformed.problem(), "422 invalid_fields");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_account_has_up_to_twenty_passkeys() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let rows = "INSERT INTO passkeys \
        SELECT gen_random_uuid(), users.id, decode(md5(n::text), 'hex'), '', '', 'old', now() FROM users, generate_series(1, 19) n";
    server.database.sql(rows).await;
    follow_rotation(&mut owner).await;
    let added = add(&owner, &mut authenticator()).await;
    assert_eq!(added.status, 201, "{}", added.text());
    follow_rotation(&mut owner).await;
    assert_eq!(add(&owner, &mut authenticator()).await.problem(), "409 passkey_conflict");
    assert_eq!(server.database.count("passkeys").await, 20);
}

#[tokio::test(flavor = "multi_thread")]
async fn anonymous_clients_begin_a_bounded_number_of_sign_ins() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let path = format!("{SIGN_IN}/challenge");
    let mut begun = 0;
    let refused = loop {
        let response = server.visitor.post(&path, Value::Null).await;
        if response.status != 200 {
            break response;
        }
        begun += 1;
        assert!(begun <= 50, "no limit");
    };
    assert_eq!(refused.problem(), "429 too_many_attempts");
    assert_eq!(server.database.count("passkey_challenges").await, begun);
    let unread = server.visitor.post(SIGN_IN, json!({ "credential": {} })).await;
    assert_eq!(unread.problem(), "429 too_many_attempts");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_new_password_removes_the_passkeys() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mut laptop = authenticator();
    assert_eq!(add(&owner, &mut laptop).await.status, 201);
    server.database.sql("UPDATE users SET password_hash = 'x'").await;
    assert_eq!(sign_in(&server, &mut laptop).await.problem(), "401 invalid_passkey");
    assert_eq!(server.database.count("passkeys").await, 0);
}
