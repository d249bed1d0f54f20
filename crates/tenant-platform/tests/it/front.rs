//! platform-front's home page names the tenant and the signed-in user, and shows the facts of
//! platform-back.

use hyper::{Method, StatusCode};
use tenant_platform::front::{Front, run};
use tenant_service::{BoundedListener, Drain};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use crate::world::{Platform, ask};

#[tokio::test]
async fn an_anonymous_visitor_sees_the_tenant_and_a_fact() {
    let platform = Platform::start("demo").await;
    let home = ask(platform.front, Method::GET, "/", &[]).await;
    assert_eq!(home.status(), StatusCode::OK);
    assert!(home.body().contains("<h1>Platform · Tenant demo</h1>"), "{}", home.body());
    assert!(home.body().contains("platform-back of demo"), "{}", home.body());
    assert!(!home.body().contains("signed in as"), "{}", home.body());
}

#[tokio::test]
async fn the_owner_sees_who_is_signed_in_and_the_way_out() {
    let platform = Platform::start("acme").await;
    let user = [("x-cial-user", "u-1"), ("x-cial-email", "owner@example.com")];
    let home = ask(platform.front, Method::GET, "/", &user).await;
    let line = "Tenant acme · signed in as u-1 (owner@example.com)";
    assert!(home.body().contains(line), "{}", home.body());
    assert!(home.body().contains(r#"method="post" action="/.cial/sign-out""#));
}

#[tokio::test]
async fn what_others_say_is_text_and_not_markup() {
    let platform = Platform::start("<i>demo</i>").await;
    let user = [("x-cial-user", "<script>"), ("x-cial-email", "\"><script>")];
    let home = ask(platform.front, Method::GET, "/", &user).await;
    assert!(!home.body().contains("<script>") && !home.body().contains("<i>"), "{}", home.body());
}

#[tokio::test]
async fn the_page_does_without_a_fact_when_platform_back_is_gone() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    // Nothing listens on the port of tcpmux.
    let gone = "127.0.0.1:1".parse().unwrap();
    let drain = Drain::new(CancellationToken::new());
    tokio::spawn(run(
        BoundedListener::new(listener, 64),
        Front::new("demo".to_owned(), gone, drain),
    ));
    let home = ask(address, Method::GET, "/", &[]).await;
    assert_eq!(home.status(), StatusCode::OK);
    assert!(home.body().contains("gave no fact"), "{}", home.body());
}

#[tokio::test]
async fn anything_else_is_not_there() {
    let platform = Platform::start("demo").await;
    for path in ["/nowhere", "/facts", "/health", "/.cial", "//"] {
        let response = ask(platform.front, Method::GET, path, &[("accept", "text/html")]).await;
        assert_eq!(response.status(), StatusCode::NOT_FOUND, "{path}");
        assert!(response.body().contains("<h1>404 · Not found</h1>"), "{path}");
    }
    let post = ask(platform.front, Method::POST, "/", &[]).await;
    assert_eq!(post.status(), StatusCode::METHOD_NOT_ALLOWED);
}
