//! A sign-in begins at the tenant and ends in the same browser, where it began.

use hyper::header::SET_COOKIE;
use hyper::{Method, StatusCode};
use protocol::inside::SSO_KEY;
use serde_json::{Value, json};
use tenant_service::user::SESSION_PATH;

use crate::harness::{Core, TestResponse, code, cookie, header};
use crate::tokens::{KEY, claims, hs256, with};

const ADMIN: (&str, &str) =
    ("x-cial-sign-in-url", "http://localhost:3100/admin/tenants/acme/sign-in");

fn core() -> Core {
    Core::start(&[(SSO_KEY, &KEY)])
}

async fn begin(core: &Core, query: &str) -> TestResponse {
    core.ask(Method::GET, &format!("/.cial/sign-in{query}"), &[ADMIN]).await
}

/// The parameters of the redirect to the admin.
fn sent(begun: &TestResponse) -> (String, String) {
    assert_eq!(begun.status(), StatusCode::SEE_OTHER, "{}", begun.body());
    let query = header(begun, "location").unwrap().strip_prefix(ADMIN.1).unwrap();
    let (nonce, rest) = query.strip_prefix("?nonce=").unwrap().split_once("&site=").unwrap();
    let (_, to) = rest.split_once("&to=").unwrap();
    (nonce.to_owned(), to.to_owned())
}

async fn end(core: &Core, token: &str, cookie: &str) -> TestResponse {
    core.ask(Method::GET, &format!("/.cial/sso?token={token}"), &[("cookie", cookie)]).await
}

#[tokio::test]
async fn the_browser_that_began_ends_where_it_began() {
    let core = core();
    let begun = begin(&core, "?to=/reports%3Fyear=2026%26q=a%2525b").await;
    let line = header(&begun, "set-cookie").unwrap();
    assert!(line.contains("; HttpOnly; SameSite=Lax; Max-Age=600"), "{line}");
    assert_eq!(header(&begun, "cache-control"), Some("no-store"));
    let (nonce, to) = sent(&begun);
    assert_eq!(to, "/reports?year=2026%26q=a%2525b");
    let mut claims = with("a", "nonce", json!(nonce));
    claims["to"] = json!("/reports?year=2026&q=a%25b");
    let ended = end(&core, &hs256(&claims), &cookie(&begun)).await;
    assert_eq!(ended.status(), StatusCode::SEE_OTHER);
    assert_eq!(header(&ended, "location"), Some("/reports?year=2026&q=a%25b"));
    let lines: Vec<_> = ended.headers().get_all(SET_COOKIE).iter().collect();
    assert_eq!(lines.len(), 2, "the session begins and the nonce goes: {lines:?}");
    assert_eq!(core.who(&cookie(&ended)).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_token_in_another_browser_is_refused_and_stays_good_in_its_own() {
    let core = core();
    let (begun, other) = (begin(&core, "").await, begin(&core, "").await);
    let token = hs256(&with("a", "nonce", json!(sent(&begun).0)));
    let (own, foreign) = (cookie(&begun), cookie(&other));
    let (name, _) = own.split_once('=').unwrap();
    let (_, nonce) = foreign.split_once('=').unwrap();
    for carried in ["a=b".to_owned(), foreign.clone(), format!("{name}={nonce}")] {
        let refused = end(&core, &token, &carried).await;
        assert_eq!(refused.status(), StatusCode::UNAUTHORIZED, "{carried}");
        assert_eq!(refused.headers().get(SET_COOKIE), None);
        assert_eq!(code(&refused), "invalid_token");
    }
    assert_eq!(end(&core, &token, &own).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_person_continues_at_paths_of_this_tenant_only() {
    let core = core();
    for to in ["//evil.example", "https://evil.example", "/%5Cevil", "/a%0d%0ab", "x", "", "%ff"] {
        let (_, to) = sent(&begin(&core, &format!("?to={to}")).await);
        assert_eq!(to, "/");
    }
    let (_, twice) = sent(&begin(&core, "?to=/a&to=/b").await);
    assert_eq!(twice, "/");
    assert_eq!(header(&core.sign_in(&hs256(&claims("a"))).await, "location"), Some("/"));
}

#[tokio::test]
async fn nobody_signs_in_where_there_is_no_admin() {
    let without_admin = core().get("/.cial/sign-in").await;
    assert_eq!(without_admin.status(), StatusCode::NOT_FOUND);
    let without_key = begin(&Core::start(&[]), "").await;
    assert_eq!(without_key.status(), StatusCode::NOT_FOUND);
    let posted = core().ask(Method::POST, "/.cial/sign-in", &[ADMIN]).await;
    assert_eq!(posted.status(), StatusCode::METHOD_NOT_ALLOWED);
}

#[tokio::test]
async fn each_sign_in_has_a_nonce_of_its_own() {
    let core = core();
    let (first, second) = (begin(&core, "").await, begin(&core, "").await);
    assert_ne!(sent(&first).0, sent(&second).0);
    assert_ne!(cookie(&first), cookie(&second));
}

#[tokio::test]
async fn the_two_sites_have_sessions_of_their_own() {
    let core = core();
    let site = ("x-cial-site", "core");
    let begun = core.ask(Method::GET, "/.cial/sign-in", &[ADMIN, site]).await;
    assert!(header(&begun, "location").unwrap().contains("&site=core&"));
    let mut of_core = with("a", "nonce", json!(sent(&begun).0));
    of_core["site"] = json!("core");
    let path = format!("/.cial/sso?token={}", hs256(&of_core));
    let browser = cookie(&begun);
    let elsewhere = core.ask(Method::GET, &path, &[("cookie", &browser)]).await;
    assert_eq!(elsewhere.status(), StatusCode::UNAUTHORIZED, "on the tenant's own site");
    let ended = core.ask(Method::GET, &path, &[("cookie", &browser), site]).await;
    assert_eq!(ended.status(), StatusCode::SEE_OTHER);
    let of_core = cookie(&ended);
    let (name, core_secret) = of_core.split_once('=').unwrap();
    assert_eq!(name, "cial_core");
    // A control plane without the core's site names none.
    let of_tenant = cookie(&core.sign_in(&hs256(&with("b", "site", Value::Null))).await);
    let (_, tenant_secret) = of_tenant.split_once('=').unwrap();
    for (held, headers, status) in [
        (of_core.clone(), &[site][..], StatusCode::OK),
        (of_tenant.clone(), &[], StatusCode::OK),
        (of_core.clone(), &[], StatusCode::UNAUTHORIZED),
        (of_tenant.clone(), &[site], StatusCode::UNAUTHORIZED),
        (format!("cial_core={tenant_secret}"), &[site], StatusCode::UNAUTHORIZED),
        (format!("cial_session={core_secret}"), &[], StatusCode::UNAUTHORIZED),
    ] {
        let sent = [headers, &[("cookie", held.as_str())][..]].concat();
        let seen = core.ask(Method::GET, SESSION_PATH, &sent).await;
        assert_eq!(seen.status(), status, "{held} {headers:?}");
    }
    let out = core.ask(Method::POST, "/.cial/sign-out", &[("cookie", &of_core), site]).await;
    assert_eq!(out.status(), StatusCode::NO_CONTENT);
    assert_eq!(core.who(&of_tenant).await.status(), StatusCode::OK, "the other site's lives on");
}
