//! The headers that cross between the platform and the core.

use crate::raw::get;
use crate::world::Tenant;

#[tokio::test]
async fn the_platform_cannot_touch_the_core_s_session() {
    let tenant = Tenant::open().await;
    let response = get(tenant.tcp, "/attack", &[]).await;
    assert_eq!((response.status, response.body.as_str()), (200, "attack"));
    assert_eq!(response.all("set-cookie"), ["theirs=1; path=/"]);
    for name in ["clear-site-data", "x-cial-proof", "x-cial-user"] {
        assert_eq!(response.all(name), [""; 0], "{name}");
    }
    assert_eq!(response.all("x-request-id").len(), 1);
    assert_ne!(response.all("x-request-id"), ["forged"]);
}

#[tokio::test]
async fn an_unguarded_edge_sets_the_forwarding_headers_itself() {
    let tenant = Tenant::open().await;
    let claims = [
        "X-Forwarded-For: 9.9.9.9",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: evil",
        "Forwarded: for=9.9.9.9",
        "X-Request-Id: mine",
        "X-User-ID: 1",
        "X-Tenant-Id: 1",
        "Proxy: http://evil",
    ];
    for path in ["/", "/.cial", "/.cial/api/x"] {
        let headers = &get(tenant.tcp, path, &claims).await.json()["headers"];
        assert_eq!(headers["x-forwarded-for"], "127.0.0.1");
        assert_eq!(headers["x-forwarded-proto"], "http");
        assert_eq!(headers["x-forwarded-host"], "acme.localhost");
        assert_eq!(headers["host"], "acme.localhost");
        assert_ne!(headers["x-request-id"], "mine");
        for name in ["forwarded", "x-user-id", "x-tenant-id", "proxy"] {
            assert_eq!(headers.get(name), None, "{name}");
        }
    }
}

#[tokio::test]
async fn keys_of_ours_stay_out_of_the_platform() {
    let tenant = Tenant::open().await;
    let ours = ["Authorization: Bearer cial_abc"];
    let platform = get(tenant.tcp, "/", &ours).await.json();
    assert_eq!(platform["headers"].get("authorization"), None);
    let core = get(tenant.tcp, "/.cial/api/x", &ours).await.json();
    assert_eq!(core["headers"]["authorization"], "Bearer cial_abc");
    let theirs = get(tenant.tcp, "/", &["Authorization: Bearer theirs"]).await.json();
    assert_eq!(theirs["headers"]["authorization"], "Bearer theirs");
}
