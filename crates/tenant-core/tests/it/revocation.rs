//! The end of an admin session ends the tenant sessions that derive from it.

use std::time::Duration;

use hyper::{Method, StatusCode};
use protocol::inside::SSO_KEY;
use serde_json::json;
use tenant_service::user::SESSION_END_PATH;

use crate::harness::{Core, TestResponse, ask_with, code, cookie};
use crate::tokens::{KEY, claims, hs256, nonce_cookie, with};

const ENDED: &str = "0192f0c1-0000-7abc-8def-00000000000a";
const LIVE: &str = "0192f0c1-0000-7abc-8def-00000000000b";

fn token(jti: &str, sid: &str) -> String {
    let mut claims = claims(jti);
    claims["sid"] = json!(sid);
    hs256(&claims)
}

async fn sign_in(core: &Core, token: &str) -> String {
    let response = core.sign_in(token).await;
    assert_eq!(response.status(), StatusCode::SEE_OTHER, "{}", response.body());
    cookie(&response)
}

async fn revoke(core: &Core, socket: &str, sessions: &[&str]) -> TestResponse {
    let body = json!({ "sessions": sessions }).to_string();
    let socket = core.dir.path().join(socket);
    ask_with(&socket, Method::POST, "/sessions/revoke", &[], body).await
}

#[tokio::test]
async fn a_revoked_parent_ends_its_sessions_and_no_other() {
    let core = Core::start(&[(SSO_KEY, &KEY)]);
    let ended = sign_in(&core, &token("a", ENDED)).await;
    let live = sign_in(&core, &token("b", LIVE)).await;
    let without_parent = sign_in(&core, &hs256(&claims("c"))).await;
    for _ in 0..2 {
        let revoked = revoke(&core, "ingress-busy.sock", &[ENDED]).await;
        assert_eq!(revoked.status(), StatusCode::NO_CONTENT, "the call is idempotent");
    }
    assert_eq!(core.who(&ended).await.status(), StatusCode::UNAUTHORIZED);
    assert_eq!(core.who(&live).await.status(), StatusCode::OK);
    assert_eq!(core.who(&without_parent).await.status(), StatusCode::OK);
}

/// Waits for the end of the session of this cookie, beside what ends it.
async fn end_of(core: &Core, cookie: &str, ending: impl Future<Output = ()>) -> StatusCode {
    let headers = [("cookie", cookie)];
    let waiting = core.ask(Method::GET, SESSION_END_PATH, &headers);
    let both = futures_util::future::join(waiting, ending);
    let (response, ()) = tokio::time::timeout(Duration::from_secs(30), both).await.unwrap();
    response.status()
}

#[tokio::test]
async fn who_waits_for_the_end_of_a_session_learns_of_each_end() {
    let core = Core::start(&[(SSO_KEY, &KEY)]);
    let revoked = sign_in(&core, &token("a", ENDED)).await;
    let seen = end_of(&core, &revoked, async {
        revoke(&core, "ingress-busy.sock", &[ENDED]).await;
    });
    assert_eq!(seen.await, StatusCode::UNAUTHORIZED);
    let left = sign_in(&core, &token("b", LIVE)).await;
    let seen = end_of(&core, &left, async {
        core.ask(Method::POST, "/.cial/sign-out", &[("cookie", &left)]).await;
    });
    assert_eq!(seen.await, StatusCode::UNAUTHORIZED);
    let replaced = sign_in(&core, &token("c", LIVE)).await;
    let seen = end_of(&core, &replaced, async {
        let both = format!("{replaced}; {}", nonce_cookie(""));
        let path = format!("/.cial/sso?token={}", token("d", LIVE));
        core.ask(Method::GET, &path, &[("cookie", &both)]).await;
    });
    assert_eq!(seen.await, StatusCode::UNAUTHORIZED);
    let nobody = end_of(&core, "a=b", async {}).await;
    assert_eq!(nobody, StatusCode::UNAUTHORIZED);
}

#[tokio::test]
async fn an_unused_token_of_a_revoked_parent_is_refused_also_after_a_restart() {
    let core = Core::start(&[(SSO_KEY, &KEY)]);
    let session = sign_in(&core, &token("a", ENDED)).await;
    revoke(&core, "ingress-busy.sock", &[ENDED]).await;
    let core = core.restarted().await;
    assert_eq!(core.who(&session).await.status(), StatusCode::UNAUTHORIZED);
    let late = core.sign_in(&token("b", ENDED)).await;
    assert_eq!((late.status(), code(&late)), (StatusCode::UNAUTHORIZED, "invalid_token".into()));
}

#[tokio::test]
async fn only_the_orchestrator_s_socket_revokes() {
    let core = Core::start(&[(SSO_KEY, &KEY)]);
    let session = sign_in(&core, &token("a", ENDED)).await;
    for socket in ["back.sock", "core-busy.sock", "agent-busy.sock"] {
        let response = revoke(&core, socket, &[ENDED]).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{socket}");
    }
    let malformed = revoke(&core, "ingress-busy.sock", &["not an id"]).await;
    assert_eq!(malformed.status(), StatusCode::BAD_REQUEST);
    assert_eq!(core.who(&session).await.status(), StatusCode::OK);
}

#[tokio::test]
async fn a_token_with_a_malformed_parent_is_refused() {
    let core = Core::start(&[(SSO_KEY, &KEY)]);
    for sid in [json!(""), json!("a\nb"), json!(7)] {
        let response = core.sign_in(&hs256(&with("a", "sid", sid))).await;
        assert_eq!(response.status(), StatusCode::UNAUTHORIZED);
    }
}
