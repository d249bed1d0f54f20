//! core-front: every page under `/.cial`, with the facts from the edge as text and never as markup.

use hyper::{Method, StatusCode};
use tempfile::TempDir;
use tenant_service::{BoundedListener, Drain};
use tokio::net::UnixListener;
use tokio_util::sync::CancellationToken;

use crate::harness::{TestResponse, ask, header};

fn start(tenant: &str) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let listener = UnixListener::bind(dir.path().join("front.sock")).unwrap();
    let drain = Drain::new(CancellationToken::new());
    tokio::spawn(tenant_core::front::run(
        BoundedListener::new(listener, 64),
        tenant.to_owned(),
        drain,
    ));
    dir
}

async fn get(dir: &TempDir, path: &str, headers: &[(&str, &str)]) -> TestResponse {
    ask(&dir.path().join("front.sock"), Method::GET, path, headers).await
}

#[tokio::test]
async fn the_page_shows_the_tenant_and_the_path() {
    let dir = start("demo");
    for path in ["/.cial", "/.cial/whatever"] {
        let answer = get(&dir, path, &[]).await;
        assert_eq!(answer.status(), StatusCode::OK);
        assert!(answer.body().contains("<h1>Cial Core · Tenant demo</h1>"));
        assert!(answer.body().contains(&format!("<code>{path}</code>")));
        assert!(!answer.body().contains("sign-out"), "nobody is signed in");
    }
    let policy = get(&dir, "/.cial", &[]).await;
    let policy = header(&policy, "content-security-policy").unwrap();
    assert!(policy.starts_with("default-src 'none'"), "{policy}");
}

#[tokio::test]
async fn who_is_signed_in_can_sign_out() {
    let dir = start("demo");
    let user = [("x-cial-user", "u-1"), ("x-cial-email", "<b>@example.com")];
    let answer = get(&dir, "/.cial", &user).await;
    assert!(answer.body().contains(r#"action="/.cial/sign-out""#));
    assert!(answer.body().contains("signed in as u-1 ("));
    assert!(!answer.body().contains("<b>"), "{}", answer.body());
}

#[tokio::test]
async fn a_tenant_s_name_is_text() {
    let answer = get(&start("<script>x</script>"), "/.cial", &[]).await;
    assert!(!answer.body().contains("<script>"), "{}", answer.body());
}

#[tokio::test]
async fn each_site_leads_to_the_other() {
    let dir = start("demo");
    let tenant = get(&dir, "/.cial", &[]).await;
    assert!(tenant.body().contains(r#"href="//core--acme.localhost/.cial""#), "{}", tenant.body());
    let core = get(&dir, "/.cial", &[("x-cial-site", "core")]).await;
    assert!(!core.body().contains("core--"), "{}", core.body());
}
