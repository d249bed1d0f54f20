//! Each path has one class for every parser; the four classes reach four services, and
//! platform-back none.

use crate::raw::{get, send};
use crate::world::Tenant;

#[tokio::test]
async fn each_path_class_reaches_its_service() {
    let tenant = Tenant::open().await;
    let cases = [
        ("/", "platform", "/"),
        ("/a/b?c=d", "platform", "/a/b?c=d"),
        ("/.cialx", "platform", "/.cialx"),
        ("/.CIAL/api", "platform", "/.CIAL/api"),
        ("/api/p/health", "platform", "/api/p/health"),
        ("/.cial", "core-front", "/.cial"),
        ("/.cial/whatever?x=1", "core-front", "/.cial/whatever?x=1"),
        ("/.cial/sso?token=a.b.c", "core-back", "/.cial/sso?token=a.b.c"),
        ("/.cial/sign-in?to=/a", "core-back", "/.cial/sign-in?to=/a"),
        ("/.cial/sign-out", "core-back", "/.cial/sign-out"),
        ("/.cial/api", "core-back", "/"),
        ("/.cial/api?x=1", "core-back", "/?x=1"),
        ("/.cial/api/echo-path", "core-back", "/echo-path"),
        ("/.cial/api/a%2fb?c=/../d", "core-back", "/a%2fb?c=/../d"),
        ("http://acme.localhost/.cial/api/x", "core-back", "/x"),
    ];
    for (asked, by, target) in cases {
        let seen = get(tenant.tcp, asked, &[]).await.json();
        assert_eq!((seen["by"].as_str(), seen["target"].as_str()), (Some(by), Some(target)));
    }
}

#[tokio::test]
async fn an_ambiguous_path_is_refused() {
    let tenant = Tenant::open().await;
    let paths = [
        "/.cial%2fapi/x",
        "/%2ecial",
        "/%252ecial",
        "/x/../.cial/api",
        "/x/%2e%2e/.cial",
        "//.cial",
        "/.cial//api",
        "/.cial/../x",
        "/.cial;x/api",
        "/.cial%3f",
        "/.cial%5capi",
        "/.cial/api/.cial/sso?token=x",
        "http://acme.localhost/x/../.cial",
    ];
    for path in paths {
        let response = get(tenant.tcp, path, &[]).await;
        assert_eq!((response.status, response.code().as_str()), (400, "ambiguous_path"), "{path}");
    }
}

#[tokio::test]
async fn options_of_the_server_are_answered_by_the_edge() {
    let tenant = Tenant::open().await;
    for target in ["*", "http://acme.localhost"] {
        let request = format!(
            "OPTIONS {target} HTTP/1.1\r\nHost: acme.localhost\r\nConnection: close\r\n\r\n"
        );
        let response = send(tenant.tcp, &request).await;
        assert_eq!(response.status, 204);
        assert_eq!(response.all("allow"), ["get, head, post, put, patch, delete, options"]);
    }
}

#[tokio::test]
async fn the_host_of_an_absolute_target_replaces_the_host_header() {
    let tenant = Tenant::open().await;
    let response = get(tenant.tcp, "http://beta.localhost?q=`ls`", &[]).await;
    let seen = response.json();
    assert_eq!((&seen["by"], &seen["target"]), (&"platform".into(), &"/?q=`ls`".into()));
    assert_eq!(seen["headers"]["host"], "beta.localhost");
}

#[tokio::test]
async fn bodies_and_methods_go_through() {
    let tenant = Tenant::open().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let head = format!("{method} /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
        let response = send(tenant.tcp, &format!("{head}Content-Length: 2\r\n\r\nhi")).await;
        assert_eq!(response.json()["method"], method);
        assert_eq!(response.json()["headers"]["content-length"], "2");
    }
}
