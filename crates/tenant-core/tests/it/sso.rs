//! A valid token signs in once; any other token gets 401 and no cookie.

use hyper::header::SET_COOKIE;
use hyper::{Method, StatusCode};
use jsonwebtoken::Algorithm;
use protocol::inside::{SSO_KEY, SSO_PUBLIC_KEY};
use serde_json::{Value, json};

use crate::harness::{Core, TENANT, TestResponse, code, cookie, header};
use crate::tokens::{KEY, claims, hs256, nonce_cookie, now, raw, rsa_pair, signed, with};
use tenant_core::token::Verifier;

const GOOD_HEADER: &str = r#"{"typ":"JWT","alg":"HS256"}"#;

fn core() -> Core {
    Core::start(&[(SSO_KEY, &KEY)])
}

#[track_caller]
fn assert_refused(answer: &TestResponse, case: &str) {
    assert_eq!(answer.status(), StatusCode::UNAUTHORIZED, "{case}");
    assert_eq!(answer.headers().get(SET_COOKIE), None, "{case}");
    assert_eq!(header(answer, "cache-control"), Some("no-store"), "{case}");
    assert_eq!(code(answer), "invalid_token", "{case}");
}

#[tokio::test]
async fn a_good_token_signs_in_and_leads_home() {
    let core = core();
    let answer = core.sign_in(&hs256(&claims("a"))).await;
    assert_eq!(answer.status(), StatusCode::SEE_OTHER);
    assert_eq!(header(&answer, "location"), Some("/"));
    assert_eq!(header(&answer, "referrer-policy"), Some("no-referrer"));
    assert_eq!(header(&answer, "cache-control"), Some("no-store"));
    let line = header(&answer, "set-cookie").unwrap();
    assert!(line.starts_with("cial_session="), "{line}");
    assert!(line.ends_with("; Path=/; HttpOnly; SameSite=Lax"), "{line}");

    let who = core.who(&cookie(&answer)).await;
    assert_eq!(who.status(), StatusCode::OK);
    let session: Value = serde_json::from_str(who.body()).unwrap();
    assert_eq!(session["email"], "owner@example.com");
    assert_eq!((&session["name"], &session["role"]), (&"Olivia Owner".into(), &"admin".into()));
}

#[tokio::test]
async fn over_https_the_cookie_is_host_bound_and_secure() {
    let core = core();
    let path = format!("/.cial/sso?token={}", hs256(&claims("a")));
    let https = ("x-forwarded-proto", "https");
    let insecure = core.ask(Method::GET, &path, &[https, ("cookie", &nonce_cookie(""))]).await;
    assert_refused(&insecure, "a cookie that anyone could have set");
    let begun = nonce_cookie("__Host-");
    let answer = core.ask(Method::GET, &path, &[https, ("cookie", &begun)]).await;
    let line = header(&answer, "set-cookie").unwrap();
    assert!(line.starts_with("__Host-cial_session="), "{line}");
    assert!(line.contains("; Secure;"), "{line}");
    let cookie = cookie(&answer);
    let who = core.ask(Method::GET, "/.cial/session", &[https, ("cookie", &cookie)]).await;
    assert_eq!(who.status(), StatusCode::OK);
}

#[tokio::test]
async fn forged_and_foreign_tokens_are_refused() {
    let core = core();
    // The key comes before the time, because making a key is slow: a token that is too early must
    // still be so when sent.
    let (_, rsa) = rsa_pair();
    let now = now();
    let good = claims("x").to_string();
    let twice = good.replacen('{', r#"{"aud":"someone-else","#, 1);
    let twice_unknown = good.replacen('{', r#"{"a":1,"a":2,"#, 1);
    let mut cases = vec![
        ("no token", String::new()),
        ("noise", "not.a.token".to_owned()),
        ("two parts", "a.b".to_owned()),
        ("alg none", raw(r#"{"typ":"JWT","alg":"none"}"#, &good, &KEY)),
        ("alg none, unsigned", format!("{}.", unsigned(r#"{"alg":"none"}"#, &good))),
        ("no signature", format!("{}.", unsigned(GOOD_HEADER, &good))),
        ("another key", raw(GOOD_HEADER, &good, b"another key of thirty-two bytes!")),
        ("another HMAC", raw(r#"{"alg":"HS384"}"#, &good, &KEY)),
        (
            "RS256 where HS256 is pinned",
            signed(r#"{"alg":"RS256"}"#, &good, &rsa, Algorithm::RS256),
        ),
        ("crit", raw(r#"{"alg":"HS256","crit":["x"],"x":1}"#, &good, &KEY)),
        ("empty crit", raw(r#"{"alg":"HS256","crit":[]}"#, &good, &KEY)),
        ("alg twice", raw(r#"{"alg":"HS256","alg":"HS256"}"#, &good, &KEY)),
        ("aud twice", raw(GOOD_HEADER, &twice, &KEY)),
        ("an unknown claim twice", raw(GOOD_HEADER, &twice_unknown, &KEY)),
        ("too long", hs256(&with("x", "more", json!("x".repeat(9000))))),
    ];
    let wrong = [
        ("iss", json!("someone")),
        ("aud", json!("0192f0c1-2345-7abc-8def-0123456789ac")),
        ("aud", json!(["0192f0c1-2345-7abc-8def-0123456789ab"])),
        ("aud", json!("0192F0C1-2345-7ABC-8DEF-0123456789AB")),
        ("exp", json!(now - 1)),
        ("exp", json!(now + 90)),
        ("exp", json!("soon")),
        ("exp", json!(-1)),
        ("iat", json!(now + 30)),
        ("nbf", json!(now + 30)),
        ("sub", json!("a\r\nb")),
        ("email", json!("")),
        ("jti", json!("")),
        ("name", json!("a\nb")),
        ("role", json!("owner")),
        ("nonce", json!("short")),
        ("site", json!("core")),
        ("site", json!("evil")),
        ("to", json!("//evil.example/")),
    ];
    cases.extend(wrong.map(|(name, value)| (name, hs256(&with("x", name, value)))));
    for name in
        ["iss", "aud", "sub", "email", "name", "tenant", "role", "iat", "exp", "jti", "nonce"]
    {
        cases.push((name, hs256(&with("x", name, Value::Null))));
    }
    for (case, token) in cases {
        assert_refused(&core.sign_in(&token).await, case);
    }
    let fine = core.sign_in(&hs256(&claims("x"))).await;
    assert_eq!(fine.status(), StatusCode::SEE_OTHER, "none of them spent the good one");
}

#[tokio::test]
async fn a_minute_is_a_minute() {
    let core = core();
    let mut late = with("late", "iat", json!(now() - 61));
    late["exp"] = json!(now() - 1);
    assert_refused(&core.sign_in(&hs256(&late)).await, "61 s old");
    let early = with("early", "iat", json!(now() + 3));
    assert_eq!(core.sign_in(&hs256(&early)).await.status(), StatusCode::SEE_OTHER, "3 s ahead");
}

#[tokio::test]
async fn a_token_works_once_also_across_a_restart() {
    let core = core();
    let token = hs256(&claims("once"));
    let first = core.sign_in(&token).await;
    assert_eq!(first.status(), StatusCode::SEE_OTHER);
    assert_refused(&core.sign_in(&token).await, "again");
    let core = core.restarted().await;
    assert_refused(&core.sign_in(&token).await, "again after a restart");
    assert_eq!(core.who(&cookie(&first)).await.status(), StatusCode::OK, "the session survives");
}

#[tokio::test]
async fn of_a_hundred_at_once_one_wins() {
    let core = core();
    let token = hs256(&claims("race"));
    let tries = (0..100).map(|_| core.sign_in(&token));
    let answers = futures_util::future::join_all(tries).await;
    let (won, lost): (Vec<_>, Vec<_>) =
        answers.into_iter().partition(|a| a.status() == StatusCode::SEE_OTHER);
    assert_eq!(won.len(), 1);
    lost.iter().for_each(|answer| assert_refused(answer, "a loser"));
}

#[tokio::test]
async fn where_a_public_key_is_no_shared_secret_counts() {
    let (public, private) = rsa_pair();
    let core = Core::start(&[(SSO_KEY, &KEY), (SSO_PUBLIC_KEY, public.as_bytes())]);
    let good = claims("a").to_string();
    let header = r#"{"alg":"RS256"}"#;

    assert_refused(&core.sign_in(&hs256(&claims("a"))).await, "the shared secret");
    let confused = raw(GOOD_HEADER, &good, public.as_bytes());
    assert_refused(&core.sign_in(&confused).await, "the public key as a secret");
    let (_, other) = rsa_pair();
    let foreign = signed(header, &good, &other, Algorithm::RS256);
    assert_refused(&core.sign_in(&foreign).await, "another pair");

    let token = signed(header, &good, &private, Algorithm::RS256);
    assert_eq!(core.sign_in(&token).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn a_tenant_without_a_key_lets_nobody_in() {
    let core = Core::start(&[]);
    assert_refused(&core.sign_in(&hs256(&claims("a"))).await, "no key");
}

#[tokio::test]
async fn looking_ahead_does_not_spend_a_token() {
    let core = core();
    let token = hs256(&claims("a"));
    let path = format!("/.cial/sso?token={token}");
    for method in [Method::HEAD, Method::POST, Method::OPTIONS] {
        let answer = core.ask(method, &path, &[]).await;
        assert_eq!(answer.status(), StatusCode::METHOD_NOT_ALLOWED);
    }
    let two = core.sign_in(&format!("{token}&token={token}")).await;
    assert_refused(&two, "two tokens");
    assert_eq!(core.sign_in(&token).await.status(), StatusCode::SEE_OTHER);
}

#[tokio::test]
async fn signing_in_anew_ends_the_session_before() {
    let core = core();
    let first = cookie(&core.sign_in(&hs256(&claims("a"))).await);
    let path = format!("/.cial/sso?token={}", hs256(&claims("b")));
    let both = format!("{first}; {}", nonce_cookie(""));
    let second = cookie(&core.ask(Method::GET, &path, &[("cookie", &both)]).await);
    assert_ne!(first, second);
    assert_eq!(core.who(&first).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(core.who(&second).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn the_disk_holds_neither_the_cookie_nor_the_token() {
    let core = core();
    let token = hs256(&claims("a"));
    let cookie = cookie(&core.sign_in(&token).await);
    let (_, secret) = cookie.split_once('=').unwrap();
    assert!(secret.len() >= 43, "256 bits");
    let file = std::fs::read_to_string(core.dir.path().join("sessions.json")).unwrap();
    assert!(file.contains("owner@example.com"), "{file}");
    assert!(!file.contains(secret) && !file.contains(&token), "{file}");
}

#[test]
fn a_key_of_the_wrong_kind_is_told_at_the_start() {
    let dir = tempfile::tempdir().unwrap();
    let read = || Verifier::read(dir.path(), TENANT.parse().unwrap()).err().unwrap().to_string();
    std::fs::write(dir.path().join(SSO_KEY), "short").unwrap();
    assert_eq!(read(), "holds sso-key, which must be 32 bytes (is 5)");
    std::fs::write(dir.path().join(SSO_PUBLIC_KEY), "no PEM").unwrap();
    assert!(read().starts_with("holds sso-public.pem, which must be an RSA public key"));
}

fn unsigned(header: &str, claims: &str) -> String {
    let token = raw(header, claims, &KEY);
    token.rsplit_once('.').unwrap().0.to_owned()
}
