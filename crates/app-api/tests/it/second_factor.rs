//! A second factor: enrolled with a proof, asked for at each sign-in by password, each code once.

use std::time::Duration;

use axum::http::Method;
use diesel_async::RunQueryDsl as _;
use serde_json::{Value, json};
use totp_rs::{Builder, Secret, Totp};

use crate::harness::{EMAIL, FakeOrchestrator, PASSWORD, Server, TestClient, TestResponse};

pub(crate) const FACTOR: &str = "/v1/users/me/second-factor";
const STEP: Duration = Duration::from_secs(30);

/// The person's authenticator app.
pub(crate) struct AuthenticatorApp(Totp);

impl AuthenticatorApp {
    /// Scans the address of an enrolment.
    pub(crate) fn scan(url: &str) -> Self {
        let secret = url.split_once("secret=").unwrap().1.split('&').next().unwrap();
        let secret = Secret::try_from_base32(secret).unwrap();
        Self(Builder::new().with_secret(secret).build().unwrap())
    }

    pub(crate) fn code(&self, server: &Server) -> String {
        self.0.generate(u64::try_from(server.now().timestamp()).unwrap()).to_string()
    }
}

pub(crate) fn proof(code: &str) -> Value {
    json!({ "password": PASSWORD, "code": code })
}

pub(crate) fn password() -> Value {
    json!({ "password": PASSWORD })
}

/// Enrols, and returns the app with the recovery codes.
async fn enrol(server: &Server, person: &mut TestClient) -> (AuthenticatorApp, Vec<String>) {
    let begun = person.post(FACTOR, password()).await;
    assert_eq!(begun.status, 201, "{}", begun.text());
    let app = AuthenticatorApp::scan(begun.json()["url"].as_str().unwrap());
    let done = person.post(&format!("{FACTOR}/confirm"), proof(&app.code(server))).await;
    assert_eq!(done.status, 200, "{}", done.text());
    let codes = done.json()["recovery_codes"].as_array().unwrap().clone();
    let codes = codes.iter().map(|code| code.as_str().unwrap().to_owned()).collect();
    // The change has replaced the session's token.
    let rotated = person.get("/api/auth/session").await;
    person.store_cookie(&rotated);
    server.advance_clock(STEP);
    (app, codes)
}

/// Signs in at the API, without the cookie of a known device.
async fn sign_in(server: &Server, code: Option<&str>) -> TestResponse {
    let mut request = json!({ "email": EMAIL, "password": PASSWORD });
    if let Some(code) = code {
        request["code"] = json!(code);
    }
    server.visitor.post("/api/auth/sign-in/email", request).await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_enrolment_takes_effect_with_a_code_and_the_password() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let confirm = format!("{FACTOR}/confirm");
    assert_eq!(owner.post(&confirm, proof("000000")).await.problem(), "409 second_factor_conflict");
    let refused = owner.post(FACTOR, json!({ "password": "wrong" })).await;
    assert_eq!(refused.problem(), "422 invalid_fields");
    assert_eq!(refused.json()["errors"][0]["field"], "password");
    assert_eq!(server.database.count("second_factors").await, 0, "a session alone begins none");
    let first = owner.post(FACTOR, password()).await.json();
    let begun = owner.post(FACTOR, password()).await.json();
    let (replaced, app) = (
        AuthenticatorApp::scan(first["url"].as_str().unwrap()),
        AuthenticatorApp::scan(begun["url"].as_str().unwrap()),
    );
    let code = app.code(&server);
    for (request, field) in [
        (json!({ "password": "wrong", "code": code }), "password"),
        (proof("12345"), "code"),
        (proof(&replaced.code(&server)), "code"),
    ] {
        let refused = owner.post(&confirm, request).await;
        assert_eq!(refused.problem(), "422 invalid_fields");
        assert_eq!(refused.json()["errors"][0]["field"], field);
    }
    assert_eq!(sign_in(&server, None).await.status, 200, "not in effect yet");
    assert_eq!(owner.get(FACTOR).await.json()["is_on"], false);

    let old_cookie = owner.cookie.clone();
    let done = owner.post(&confirm, proof(&code)).await;
    assert_eq!(done.json()["recovery_codes"].as_array().unwrap().len(), 10, "{}", done.text());
    let rotated = owner.get("/api/auth/session").await;
    owner.store_cookie(&rotated);
    assert_ne!(owner.cookie, old_cookie, "the session has another token");
    let expected = json!({ "is_on": true, "recovery_codes_left": 10 });
    assert_eq!(owner.get(FACTOR).await.json(), expected);
    assert_eq!(owner.post(FACTOR, password()).await.problem(), "409 second_factor_conflict");

    // Neither the secret nor a recovery code is stored or logged as text.
    let secret = begun["secret"].as_str().unwrap().replace(' ', "");
    let recovery = done.json()["recovery_codes"][0].as_str().unwrap().to_owned();
    for text in [secret, recovery.clone(), recovery.replace('-', "")] {
        for table in ["second_factors", "recovery_codes", "audit_log"] {
            let found = format!("{table} WHERE {table}::text ILIKE '%{text}%'");
            assert_eq!(server.database.count(&found).await, 0, "{table}");
        }
    }
    assert_eq!(server.database.count("audit_log WHERE action = 'user.second_factor_on'").await, 1);
}

/// A code proves one secret: none that replaces it before the enrolment takes effect.
#[tokio::test(flavor = "multi_thread")]
async fn a_secret_that_is_replaced_while_it_is_proved_does_not_take_effect() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let begun = owner.post(FACTOR, password()).await.json();
    let app = AuthenticatorApp::scan(begun["url"].as_str().unwrap());
    let mut replacing = server.database.conn().await;
    for statement in ["BEGIN", "UPDATE second_factors SET sealed_secret = 'another'"] {
        diesel::sql_query(statement).execute(&mut replacing).await.unwrap();
    }
    let confirm = format!("{FACTOR}/confirm");
    let confirming = owner.post(&confirm, proof(&app.code(&server)));
    let committing = async {
        server.database.until_blocked().await;
        diesel::sql_query("COMMIT").execute(&mut replacing).await.unwrap();
    };
    let (refused, ()) = tokio::join!(confirming, committing);
    assert_eq!(refused.problem(), "409 second_factor_conflict");
    assert_eq!(server.database.count("second_factors WHERE confirmed_at IS NULL").await, 1);
    assert_eq!(server.database.count("recovery_codes").await, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sign_in_takes_a_code_and_each_code_works_once() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let (app, _) = enrol(&server, &mut owner).await;
    assert_eq!(sign_in(&server, None).await.problem(), "401 second_factor_required");
    let code = app.code(&server);
    assert_eq!(sign_in(&server, Some("000000x")).await.problem(), "401 invalid_code");
    assert_eq!(sign_in(&server, Some(&code)).await.status, 200);
    assert_eq!(sign_in(&server, Some(&code)).await.problem(), "401 invalid_code", "once");
    server.advance_clock(STEP);
    let next = app.code(&server);
    let both = tokio::join!(sign_in(&server, Some(&next)), sign_in(&server, Some(&next)));
    let mut statuses = [both.0.status.as_u16(), both.1.status.as_u16()];
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 401], "of two at once, one");
    assert_eq!(sign_in(&server, Some(&code)).await.problem(), "401 invalid_code", "an older one");
    // Without the right password, the response tells nothing of a second factor.
    let wrong = json!({ "email": EMAIL, "password": "wrong", "code": next });
    let refused = server.visitor.post("/api/auth/sign-in/email", wrong).await;
    assert_eq!(refused.problem(), "401 invalid_credentials");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recovery_code_signs_in_once() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let (_, codes) = enrol(&server, &mut owner).await;
    let typed = codes[3].to_uppercase().replace('-', " ");
    assert_eq!(sign_in(&server, Some(&typed)).await.status, 200);
    assert_eq!(sign_in(&server, Some(&codes[3])).await.problem(), "401 invalid_code");
    assert_eq!(owner.get(FACTOR).await.json()["recovery_codes_left"], 9);
    let used = "audit_log WHERE action = 'user.recovery_code_use'";
    assert_eq!(server.database.count(used).await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_browser_enters_the_code_on_a_page_of_its_own() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let (app, _) = enrol(&server, &mut owner).await;
    let mut browser = server.visitor.new_client();
    let credentials = [("email", EMAIL), ("password", PASSWORD), ("next", "/admin/account")];
    let first = browser.submit("/admin/login", &credentials).await;
    let code_page = "/admin/login/code?next=%2Fadmin%2Faccount";
    assert_eq!((first.status.as_u16(), first.header("location")), (303, code_page));
    assert!(first.header("set-cookie").contains("HttpOnly"), "{}", first.header("set-cookie"));
    assert_eq!(browser.visit(code_page).await.header("location"), "/admin/login", "no sign-in");
    browser.store_cookie(&first);
    assert_eq!(browser.get("/api/auth/session").await.problem(), "401 unauthenticated");
    let page = browser.visit(code_page).await;
    assert!(page.text().contains(r#"name="next" value="/admin/account""#), "{}", page.text());

    let wrong = browser.submit("/admin/login/code", &[("code", "12345")]).await;
    assert_eq!(wrong.status, 401);
    assert!(wrong.text().contains("The code is wrong"), "{}", wrong.text());
    let code = app.code(&server);
    let fields = [("code", code.as_str()), ("next", "/admin/account")];
    let done = browser.submit("/admin/login/code", &fields).await;
    assert_eq!((done.status.as_u16(), done.header("location")), (303, "/admin/account"));
    let mut signed_in = server.visitor.new_client();
    signed_in.store_cookie(&done);
    assert_eq!(signed_in.get("/api/auth/session").await.status, 200);

    // The sign-in ends after five minutes, and with the password.
    server.advance_clock(Duration::from_secs(300));
    let code = app.code(&server);
    let late = browser.submit("/admin/login/code", &[("code", &code)]).await;
    assert_eq!(late.header("location"), "/admin/login");
    let mut other = server.visitor.new_client();
    other.store_cookie(&other.submit("/admin/login", &credentials).await);
    server.database.sql("UPDATE users SET password_hash = 'x'").await;
    let changed = other.submit("/admin/login/code", &[("code", &code)]).await;
    assert_eq!(changed.header("location"), "/admin/login");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_account_page_sets_the_second_factor_up_and_turns_it_off() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    const PAGE: &str = "/admin/account/second-factor";
    assert!(owner.visit(PAGE).await.text().contains("Set up"));
    let wrong = owner.submit(PAGE, &[("password", "wrong")]).await;
    assert_eq!(wrong.status, 422);
    assert!(wrong.text().contains("This is not your password."), "{}", wrong.text());
    let page = owner.submit(PAGE, &[("password", PASSWORD)]).await.text();
    assert!(page.contains("data:image/svg+xml;base64,"), "{page}");
    let secret = page.split("<code>").nth(1).unwrap().split("</code>").next().unwrap();
    let shows_secret = |text: &str| text.contains(secret) || text.contains("data:image/svg");
    let later = owner.visit(PAGE).await.text();
    assert!(later.contains("Set up") && !shows_secret(&later), "{later}");
    let app = AuthenticatorApp::scan(&format!("?secret={}", secret.replace(' ', "")));
    let confirm = format!("{PAGE}/confirm");
    let wrong = owner.submit(&confirm, &[("password", "wrong"), ("code", "1")]).await;
    let text = wrong.text();
    assert!(text.contains("This is not your password.") && text.contains("Turn on"), "{text}");
    assert!(!shows_secret(&text), "{text}");
    let code = app.code(&server);
    let done = owner.submit(&confirm, &[("password", PASSWORD), ("code", &code)]).await;
    assert!(done.text().contains("Recovery codes"), "{}", done.text());
    let rotated = owner.visit(PAGE).await;
    assert!(rotated.text().contains("10 recovery codes are left"), "{}", rotated.text());
    owner.store_cookie(&rotated);

    server.advance_clock(STEP);
    let disable = format!("{PAGE}/disable");
    let code = app.code(&server);
    let off = owner.submit(&disable, &[("password", PASSWORD), ("code", &code)]).await;
    assert_eq!(off.header("location"), PAGE, "{}", off.text());
    assert_eq!(sign_in(&server, None).await.status, 200);
    for table in ["second_factors", "recovery_codes"] {
        assert_eq!(server.database.count(table).await, 0, "{table}");
    }
    assert_eq!(server.database.count("audit_log WHERE action = 'user.second_factor_off'").await, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn guesses_are_limited_and_a_known_device_still_signs_in() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let (app, _) = enrol(&server, &mut owner).await;
    let code = app.code(&server);
    let first = sign_in(&server, Some(&code)).await;
    let lines = first.headers.get_all("set-cookie").iter().map(|line| line.to_str().unwrap());
    let device = lines.into_iter().find(|line| line.starts_with("cial_device=")).unwrap();
    let device = device.split(';').next().unwrap().to_owned();
    server.advance_clock(STEP);
    for _ in 0..10 {
        assert_eq!(sign_in(&server, Some("12345")).await.problem(), "401 invalid_code");
    }
    let code = app.code(&server);
    let refused = sign_in(&server, Some(&code)).await;
    assert_eq!(refused.problem(), "429 too_many_attempts");
    let mut known = server.visitor.new_client();
    known.cookie = Some(device);
    let request = json!({ "email": EMAIL, "password": PASSWORD, "code": code });
    assert_eq!(known.post("/api/auth/sign-in/email", request).await.status, 200);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_owner_ends_the_second_factor_of_who_lost_it() {
    let (server, mut owner) = Server::with_owner(FakeOrchestrator::unreachable()).await;
    let mut mia = server.sign_in_as("mia", "viewer", &[]).await;
    let admin = server.sign_in_as("admin", "admin", &[]).await;
    enrol(&server, &mut mia).await;
    let id = server.user("mia@example.com").await.id;
    let path = format!("/v1/users/{id}/second-factor");
    let delete = async |client: &TestClient| client.send(Method::DELETE, &path, &[], "").await;
    assert_eq!(delete(&admin).await.problem(), "403 insufficient_role");
    assert_eq!(delete(&mia).await.problem(), "403 insufficient_role");
    // A stolen session of an owner does not weaken the owner's own account.
    enrol(&server, &mut owner).await;
    let own = server.user(EMAIL).await.id;
    let own = format!("/v1/users/{own}/second-factor");
    let refused = owner.send(Method::DELETE, &own, &[], "").await;
    assert_eq!(refused.problem(), "403 insufficient_role");
    assert_eq!(owner.get(FACTOR).await.json()["is_on"], true);
    assert_eq!(delete(&owner).await.status, 204);
    assert_eq!(delete(&owner).await.problem(), "409 second_factor_conflict");
    server.new_session_of("mia@example.com").await;
    let reset =
        "audit_log WHERE action = 'user.second_factor_reset' AND resource = 'mia@example.com'";
    assert_eq!(server.database.count(reset).await, 1);
}
