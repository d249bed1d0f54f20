//! Where the router says that only members are served, an anonymous client signs in first.

use protocol::sign_in::MAX_RETURN_PATH_BYTES;

use crate::raw::{Response, send};
use crate::world::{SIGNED_IN, TOKEN, Tenant};

const NAVIGATION: &str = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n";

async fn ask(tenant: &Tenant, request: &str, lines: &str) -> Response {
    let text = format!(
        "{request} HTTP/1.1\r\nHost: acme.localhost\r\nX-Cial-Route-Token-2: {TOKEN}\r\n\
         X-Cial-Require-Sign-In: 1\r\n{lines}Connection: close\r\n\r\n"
    );
    send(tenant.tcp, &text).await
}

#[tokio::test]
async fn a_browser_is_sent_to_sign_in_and_keeps_where_it_was() {
    let tenant = Tenant::guarded().await;
    for lines in [NAVIGATION, &format!("{NAVIGATION}Cookie: cial_session=ended\r\n")] {
        let sent = ask(&tenant, "GET /reports?year=2026&q=%26", lines).await;
        assert_eq!(sent.status, 303);
        let path = "/.cial/sign-in?to=%2Freports%3Fyear%3D2026%26q%3D%2526";
        assert_eq!(sent.all("location"), [path.to_lowercase()]);
        assert_eq!(sent.all("cache-control"), ["no-store"]);
        assert_eq!(sent.all("x-cial-proof").len(), 1, "the router must believe the response");
    }
    let too_long = format!("GET /{}", "x".repeat(MAX_RETURN_PATH_BYTES));
    for request in ["POST /order", &too_long] {
        let sent = ask(&tenant, request, NAVIGATION).await;
        assert_eq!(sent.all("location"), ["/.cial/sign-in?to=%2f"]);
    }
    let longest = format!("/{}", "x".repeat(MAX_RETURN_PATH_BYTES - 1));
    let sent = ask(&tenant, &format!("GET {longest}"), NAVIGATION).await;
    assert_eq!(sent.all("location"), [format!("/.cial/sign-in?to=%2f{}", &longest[1..])]);
}

#[tokio::test]
async fn a_planted_second_cookie_is_named_instead_of_a_sign_in_without_end() {
    let tenant = Tenant::guarded().await;
    let lines = format!("{NAVIGATION}Cookie: {SIGNED_IN}; cial_session=planted\r\n");
    let refused = ask(&tenant, "GET /", &lines).await;
    assert_eq!(refused.status, 400);
    assert!(refused.body.contains("several cookies cial_session"), "{}", refused.body);
}

#[tokio::test]
async fn a_public_path_of_the_app_serves_anonymous_clients() {
    let tenant = Tenant::guarded().await;
    for (request, status) in [
        ("POST /webhooks/pay?id=1", 200),
        ("GET /webhooks", 401),
        ("GET /webhooks/../order", 401),
        ("GET /.cial", 401),
    ] {
        let response = ask(&tenant, request, "Accept: application/json\r\n").await;
        assert_eq!(response.status, status, "{request}");
    }
    let signed_in = ask(&tenant, "GET /webhooks/x", &format!("Cookie: {SIGNED_IN}\r\n")).await;
    assert_eq!(signed_in.json()["headers"]["x-cial-user"], "u-1", "who is signed in is known");
}

#[tokio::test]
async fn a_program_gets_401_and_no_response_of_the_app() {
    let tenant = Tenant::guarded().await;
    for request in ["GET /", "GET /.cial", "POST /order", "DELETE /x", "OPTIONS /x", "HEAD /"] {
        let refused = ask(&tenant, request, "Accept: application/json\r\n").await;
        assert_eq!(refused.status, 401, "{request}");
        let how = ["cial-session sign-in=\"/.cial/sign-in\""];
        assert_eq!(refused.all("www-authenticate"), how, "{request}");
    }
    let upgrade = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";
    assert_eq!(ask(&tenant, "GET /ws", upgrade).await.status, 401);
}

#[tokio::test]
async fn members_are_served_and_so_is_what_anonymous_clients_need() {
    let tenant = Tenant::guarded().await;
    let member = format!("Cookie: {SIGNED_IN}\r\n");
    for path in ["/", "/.cial"] {
        let served = ask(&tenant, &format!("GET {path}"), &member).await;
        assert_eq!(served.json()["headers"]["x-cial-user"], "u-1");
        assert_eq!(served.json()["headers"].get("x-cial-require-sign-in"), None);
    }
    for path in ["/.cial/api/healthz", "/.cial/sign-in", "/.cial/sso?token=x"] {
        assert_eq!(ask(&tenant, &format!("GET {path}"), "").await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn only_the_router_sets_the_policy() {
    let tenant = Tenant::open().await;
    assert_eq!(ask(&tenant, "GET /", "").await.status, 200, "a client cannot");
}
