//! A sign-in that a tenant began: a member's browser gets a token for one tenant, one minute and that browser.

use aws_lc_rs::encoding::{AsDer as _, Pkcs8V1Der, PublicKeyX509Der};
use aws_lc_rs::rsa::{KeyPair, KeySize};
use aws_lc_rs::signature::KeyPair as _;
use axum::http::Method;
use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD};
use jsonwebtoken::{Algorithm, DecodingKey, Validation};
use protocol::sign_in::MAX_RETURN_PATH_BYTES;
use protocol::{State, TenantId};
use serde_json::{Value, json};
use service::Secret;
use service::keys::sso_key;

use crate::harness::{EMAIL, FakeOrchestrator, MASTER, PASSWORD, Server, Setup, TestClient, acme};

const OPEN: &str = "/api/admin/tenants/acme/open";

/// The hash of the nonce of a browser that began at the tenant.
const NONCE: &str = "LPJNul-wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ";

fn sign_in() -> String {
    format!("/admin/tenants/acme/sign-in?nonce={NONCE}")
}

async fn token(owner: &TestClient) -> String {
    let response = owner.visit(&sign_in()).await;
    assert_eq!(response.status, 303, "{}", response.text());
    assert_eq!(response.header("cache-control"), "no-store");
    assert_eq!(response.header("referrer-policy"), "no-referrer");
    let there = "http://acme.localhost:8080/.cial/sso?token=";
    response.header("location").strip_prefix(there).unwrap().to_owned()
}

fn part(token: &str, place: usize) -> Value {
    let part = token.split('.').nth(place).unwrap();
    serde_json::from_slice(&URL_SAFE_NO_PAD.decode(part).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn head_and_prefetch_get_no_token() {
    let (_server, owner) = Server::with_running_acme().await;
    for (method, headers) in [
        (Method::HEAD, &[][..]),
        (Method::GET, &[("sec-purpose", "prefetch;prerender")]),
        (Method::GET, &[("purpose", "prefetch")]),
    ] {
        let response = owner.send(method, &sign_in(), headers, "").await;
        assert_eq!(response.status, 403, "{headers:?}");
    }
    assert_eq!(owner.get(&sign_in()).await.status, 303);
}

#[tokio::test(flavor = "multi_thread")]
async fn open_leads_to_where_the_tenant_begins_a_sign_in() {
    let (_server, owner) = Server::with_running_acme().await;
    for method in [Method::GET, Method::POST] {
        let opened = owner.send(method, OPEN, &[], "").await;
        assert_eq!(opened.status, 303);
        assert_eq!(opened.header("location"), "http://acme.localhost:8080/.cial/sign-in");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_needs_a_browser_that_began_and_keeps_where_it_continues() {
    let (_server, owner) = Server::with_running_acme().await;
    for query in ["", "?nonce=", "?nonce=short", "?nonce=%22%3E%3Cscript%3E"] {
        let refused = owner.get(&format!("/admin/tenants/acme/sign-in{query}")).await;
        assert_eq!(refused.problem(), "400 invalid_query", "{query}");
    }
    for (to, kept) in [("/a%3Fb%3D1%26c", json!("/a?b=1&c")), ("//evil.example", Value::Null)] {
        let signed = owner.visit(&format!("{}&to={to}", sign_in())).await;
        let (_, token) = signed.header("location").split_once("token=").unwrap();
        assert_eq!(part(token, 1)["to"], kept);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_for_the_site_on_which_the_sign_in_began() {
    let (_server, owner) = Server::with_running_acme().await;
    for (site, host) in [("tenant", "acme"), ("core", "core--acme")] {
        let signed = owner.visit(&format!("{}&site={site}", sign_in())).await;
        let there = format!("http://{host}.localhost:8080/.cial/sso?token=");
        let token = signed.header("location").strip_prefix(&there).unwrap();
        assert_eq!(part(token, 1)["site"], site);
    }
    let unknown = owner.visit(&format!("{}&site=evil.example", sign_in())).await;
    assert_eq!(unknown.status, 400);
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_not_signed_in_comes_back_after_the_password() {
    let (server, _) = Server::with_running_acme().await;
    let path = format!("{}&to=%2Freports%3Fyear%3D2026", sign_in());
    let asked = server.visitor.visit(&path).await;
    let login = asked.header("location").to_owned();
    let (_, next) = login.split_once("/admin/login?next=").unwrap();
    let next = percent_encoding::percent_decode_str(next).decode_utf8().unwrap();
    assert_eq!(next, path);
    let form = [("email", EMAIL), ("password", PASSWORD), ("next", &*next)];
    let signed_in = server.visitor.submit("/admin/login", &form).await;
    assert_eq!((signed_in.status.as_u16(), signed_in.header("location")), (303, &*path));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_longest_return_path_survives_the_password() {
    let (server, owner) = Server::with_running_acme().await;
    // Each of its characters takes three in the address of the sign-in, and five in that of the password.
    let to = format!("/{}", "%".repeat(MAX_RETURN_PATH_BYTES - 1));
    let path = format!("{}&to={}", sign_in(), to.replace('%', "%25"));
    let asked = server.visitor.visit(&path).await;
    let login = server.visitor.visit(asked.header("location")).await.text();
    let (_, next) = login.split_once(r#"name="next" value=""#).unwrap();
    let next = next.split('"').next().unwrap().replace("&#38;", "&");
    assert_eq!(next, path);
    let form = [("email", EMAIL), ("password", PASSWORD), ("next", &*next)];
    let signed_in = server.visitor.submit("/admin/login", &form).await;
    assert_eq!((signed_in.status.as_u16(), signed_in.header("location")), (303, &*path));
    let landed = owner.visit(&next).await;
    let (_, token) = landed.header("location").split_once("token=").unwrap();
    assert_eq!(part(token, 1)["to"], to);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_token_carries_the_role_on_the_tenant_and_others_get_none() {
    let (server, _) = Server::with_running_acme().await;
    for (platform, membership, role) in [
        ("none", Some("viewer"), "viewer"),
        ("none", Some("member"), "member"),
        ("none", Some("admin"), "admin"),
        ("viewer", None, "viewer"),
        ("viewer", Some("member"), "member"),
        ("admin", None, "admin"),
        ("admin", Some("viewer"), "admin"),
    ] {
        let name = format!("{platform}-{}", membership.unwrap_or_default());
        let memberships: Vec<_> = membership.map(|role| ("acme", role)).into_iter().collect();
        let person = server.sign_in_as(&name, platform, &memberships).await;
        let claims = part(&token(&person).await, 1);
        assert_eq!(claims["role"], role, "{name}");
    }
    let outsider = server.sign_in_as("outsider", "none", &[]).await;
    let refused = outsider.visit(&sign_in()).await;
    assert_eq!(refused.status, 403);
    for text in ["acme", "Acme", EMAIL] {
        assert!(!refused.text().contains(text), "{text}: {}", refused.text());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_valid_for_one_tenant_and_one_minute() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let made = owner.post("/api/admin/tenants", acme()).await.json();
    server.until_state("acme", State::Running).await;
    let session = owner.get("/api/auth/session").await.json();
    let token = token(&owner).await;
    assert_eq!(part(&token, 0), json!({ "alg": "HS256", "typ": "JWT" }));
    let mut claims = part(&token, 1);
    let jti = claims.as_object_mut().unwrap().remove("jti").unwrap();
    assert!(jti.as_str().unwrap().parse::<uuid::Uuid>().is_ok());
    let now = server.now().timestamp();
    let expected = json!({
        "iss": "cial", "aud": made["id"], "sub": made["owner_id"], "email": EMAIL,
        "name": "Ada", "tenant": "acme", "role": "admin", "iat": now, "exp": now + 60,
        "sid": session["session"]["id"], "nonce": NONCE, "site": "tenant",
    });
    assert_eq!(claims, expected);
    let id: TenantId = made["id"].as_str().unwrap().parse().unwrap();
    let mut rules = Validation::new(Algorithm::HS256);
    rules.set_audience(&[made["id"].as_str().unwrap()]);
    rules.validate_exp = false;
    let key = sso_key(&Secret::new(MASTER), id);
    assert!(jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_secret(&key), &rules).is_ok());
    let other = sso_key(&Secret::new(MASTER), TenantId::new(uuid::Uuid::nil()));
    for wrong in [&other[..], MASTER.as_bytes()] {
        let key = DecodingKey::from_secret(wrong);
        assert!(jsonwebtoken::decode::<Value>(&token, &key, &rules).is_err());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_first_membership_replaces_the_role_of_a_viewer_of_the_platform() {
    let (server, owner) = Server::with_running_acme().await;
    let mut viewer = server.sign_in_as("viewer", "viewer", &[]).await;
    let before = part(&token(&viewer).await, 1);
    let me = viewer.get("/v1/users/me").await.json();
    let path = format!("/v1/tenants/acme/members/{}", me["id"].as_str().unwrap());
    let set = owner.json(Method::PUT, &path, &[], json!({ "role": "member" })).await;
    assert_eq!(set.status, 200);
    let ended = before["sid"].as_str().unwrap().parse().unwrap();
    until_revoked(&server, &[ended]).await;
    let renewed = viewer.get("/api/auth/session").await;
    viewer.store_cookie(&renewed);
    let after = part(&token(&viewer).await, 1);
    assert_eq!((&before["role"], &after["role"]), (&json!("viewer"), &json!("member")));
    assert_ne!(before["sid"], after["sid"], "the tenant refuses tokens of the ended session");
}

#[tokio::test(flavor = "multi_thread")]
async fn each_token_has_its_own_id() {
    let (_server, owner) = Server::with_running_acme().await;
    assert_ne!(part(&token(&owner).await, 1)["jti"], part(&token(&owner).await, 1)["jti"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_admin_site_can_open_a_tenant() {
    let (server, owner) = Server::with_running_acme().await;
    for (site, status) in [
        (None, 303),
        (Some("same-origin"), 303),
        (Some("none"), 303),
        (Some("same-site"), 403),
        (Some("cross-site"), 403),
    ] {
        let headers: Vec<_> = site.map(|s| ("sec-fetch-site", s)).into_iter().collect();
        for method in [Method::GET, Method::POST] {
            let response = owner.send(method, OPEN, &headers, "").await;
            assert_eq!(response.status, status, "{site:?}");
        }
    }
    assert_eq!(server.visitor.get(OPEN).await.problem(), "401 unauthenticated");
    let unknown = owner.get("/api/admin/tenants/none/open").await;
    assert_eq!(unknown.problem(), "404 tenant_not_found");
    owner.send(Method::POST, "/api/admin/tenants/acme/stop", &[], "").await;
    assert_eq!(owner.get(OPEN).await.problem(), "409 tenant_not_running");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_provisioning_tenant_cannot_be_opened() {
    let (_server, owner) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    for path in [OPEN, &sign_in()] {
        assert_eq!(owner.get(path).await.problem(), "409 tenant_not_running", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn with_a_private_key_tokens_are_rs256() {
    let (private, public) = rsa_pair();
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(&file, private).unwrap();
    let mut setup = Setup::new(FakeOrchestrator::obedient()).await;
    setup.env.push(("CIAL_SSO_PRIVATE_KEY_FILE", file.path().to_str().unwrap().to_owned()));
    let server = setup.start().await;
    let owner = server.sign_up().await;
    let made = owner.post("/api/admin/tenants", acme()).await.json();
    server.until_state("acme", State::Running).await;
    let token = token(&owner).await;
    assert_eq!(part(&token, 0)["alg"], "RS256");
    let mut rules = Validation::new(Algorithm::RS256);
    rules.set_audience(&[made["id"].as_str().unwrap()]);
    rules.validate_exp = false;
    let key = DecodingKey::from_rsa_pem(public.as_bytes()).unwrap();
    assert!(jsonwebtoken::decode::<Value>(&token, &key, &rules).is_ok());
}

/// Private and public, in PEM.
fn rsa_pair() -> (String, String) {
    let pair = KeyPair::generate(KeySize::Rsa2048).unwrap();
    let private: Pkcs8V1Der<'_> = pair.as_der().unwrap();
    let public: PublicKeyX509Der<'_> = pair.public_key().as_der().unwrap();
    (pem("PRIVATE KEY", private.as_ref()), pem("PUBLIC KEY", public.as_ref()))
}

fn pem(kind: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> = text.as_bytes().chunks(64).map(String::from_utf8_lossy).collect();
    format!("-----BEGIN {kind}-----\n{}\n-----END {kind}-----\n", lines.join("\n"))
}

/// The admin sessions that the orchestrator last received as ended.
fn revoked(server: &Server) -> Vec<uuid::Uuid> {
    let specs = server.orchestrator.specs.lock().unwrap();
    specs.last().map(|apply| apply.revoked_sessions.clone()).unwrap_or_default()
}

async fn until_revoked(server: &Server, expected: &[uuid::Uuid]) {
    server.until("acme", |t| t.is_some_and(|t| t.changes_done == t.changes_asked)).await;
    assert_eq!(revoked(server), expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_end_of_an_admin_session_revokes_its_tenant_sessions() {
    let (server, owner) = Server::with_running_acme().await;
    let sid = |token: &str| part(token, 1)["sid"].as_str().unwrap().parse().unwrap();
    let mut second = owner.new_client();
    let credentials = json!({ "email": EMAIL, "password": PASSWORD });
    let signed_in = second.post("/api/auth/sign-in/email", credentials).await;
    second.store_cookie(&signed_in);
    let (first_sid, second_sid) = (sid(&token(&owner).await), sid(&token(&second).await));
    assert_ne!(first_sid, second_sid);
    second.send(Method::POST, "/api/auth/sign-out", &[], "").await;
    until_revoked(&server, &[second_sid]).await;
    // A new password ends the sessions of all devices.
    server.reset_password("another good one").await;
    let mut both = vec![first_sid, second_sid];
    both.sort();
    until_revoked(&server, &both).await;
    assert_eq!(owner.get(OPEN).await.problem(), "401 unauthenticated");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_role_or_password_changed_by_hand_revokes_and_an_expired_session_does_not() {
    let (server, owner) = Server::with_running_acme().await;
    token(&owner).await;
    let asked = server.row("acme").await.changes_asked;
    server.advance_clock(std::time::Duration::from_secs(1_800));
    assert_eq!(owner.get(OPEN).await.problem(), "401 unauthenticated", "expired");
    assert_eq!(server.row("acme").await.changes_asked, asked, "tenant sessions live on");
    server.database.sql("UPDATE users SET password_hash = 'x'").await;
    assert_eq!(server.row("acme").await.changes_asked, asked + 1);
    server.until("acme", |t| t.is_some_and(|t| t.changes_done == t.changes_asked)).await;
    assert_eq!(revoked(&server).len(), 1);
}
