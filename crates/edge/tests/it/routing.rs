//! Each path has one class, whoever reads it; the four classes reach four doors and platform-back none.

use crate::raw::{get, send};
use crate::world::Tenant;

#[tokio::test]
async fn four_classes_lead_to_four_answers() {
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
async fn what_can_be_read_in_two_ways_is_refused() {
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
        let answer = get(tenant.tcp, path, &[]).await;
        assert_eq!((answer.status, answer.code().as_str()), (400, "ambiguous_path"), "{path}");
    }
    let options = "OPTIONS * HTTP/1.1\r\nHost: acme.localhost\r\nConnection: close\r\n\r\n";
    assert_eq!(send(tenant.tcp, options).await.status, 400);
    let other = get(tenant.tcp, "http://beta.localhost/", &[]).await;
    assert_eq!((other.status, other.code().as_str()), (400, "malformed_request"));
}

#[tokio::test]
async fn bodies_and_methods_go_through() {
    let tenant = Tenant::open().await;
    for method in ["POST", "PUT", "PATCH", "DELETE", "OPTIONS", "PROPFIND"] {
        let head = format!("{method} /x HTTP/1.1\r\nHost: a\r\nConnection: close\r\n");
        let answer = send(tenant.tcp, &format!("{head}Content-Length: 2\r\n\r\nhi")).await;
        assert_eq!(answer.json()["method"], method);
        assert_eq!(answer.json()["headers"]["content-length"], "2");
    }
}
