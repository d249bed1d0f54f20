//! `core--{slug}` is an origin of its own: it serves the core half alone, with sessions of its own, and pages of other
//! sites do nothing there.

use crate::raw::{Response, send};
use crate::world::{SIGNED_IN, SIGNED_IN_AT_CORE, Tenant};

const CORE: &str = "core--acme.localhost";
const OWN: &str = "acme.localhost";

async fn ask(tenant: &Tenant, host: &str, request: &str, lines: &[&str]) -> Response {
    let lines: String = lines.iter().map(|line| format!("{line}\r\n")).collect();
    let text = format!("{request} HTTP/1.1\r\nHost: {host}\r\n{lines}Connection: close\r\n\r\n");
    send(tenant.tcp, &text).await
}

#[tokio::test]
async fn the_core_site_serves_the_core_half_alone() {
    let tenant = Tenant::open().await;
    for (path, by) in [
        ("/.cial", "core-front"),
        ("/.cial/x", "core-front"),
        ("/.cial/api/x", "core-back"),
        ("/.cial/sso?token=x", "core-back"),
    ] {
        for (host, site) in [(CORE, "core"), ("CORE--ACME.localhost.", "core"), (OWN, "tenant")] {
            let seen = ask(&tenant, host, &format!("GET {path}"), &["X-Cial-Site: core"]).await;
            assert_eq!(
                (&seen.json()["by"], &seen.json()["headers"]["x-cial-site"]),
                (&by.into(), &site.into()),
                "{host}{path}"
            );
        }
    }
    let root = ask(&tenant, CORE, "GET /", &[]).await;
    assert_eq!((root.status, root.all("location")), (303, vec!["/.cial"]));
    assert_eq!(root.all("cross-origin-opener-policy"), ["same-origin"]);
    let ambiguous = ask(&tenant, CORE, "GET //.cial", &[]).await;
    assert_eq!(ambiguous.all("cross-origin-opener-policy"), ["same-origin"]);
    for path in ["/index.html", "/attack", "/ws", "/.cialx"] {
        let missing = ask(&tenant, CORE, &format!("GET {path}"), &[]).await;
        assert_eq!((missing.status, missing.code().as_str()), (404, "not_found"), "{path}");
    }
    let platform = ask(&tenant, OWN, "GET /", &["X-Cial-Site: core"]).await;
    assert_eq!(platform.json()["headers"].get("x-cial-site"), None);
}

#[tokio::test]
async fn the_cookie_of_the_tenants_own_site_names_nobody_on_the_core_site() {
    let tenant = Tenant::open().await;
    let both = format!("Cookie: {SIGNED_IN}; {SIGNED_IN_AT_CORE}");
    let (own, core) = (format!("Cookie: {SIGNED_IN}"), format!("Cookie: {SIGNED_IN_AT_CORE}"));
    for (host, cookie, is_signed_in) in [
        (CORE, &core, true),
        (CORE, &both, true),
        (CORE, &own, false),
        (OWN, &own, true),
        (OWN, &core, false),
    ] {
        let seen = ask(&tenant, host, "GET /.cial", &[cookie]).await.json();
        let user = seen["headers"].get("x-cial-user");
        assert_eq!(user.is_some(), is_signed_in, "{host} {cookie}");
    }
}

#[tokio::test]
async fn a_page_elsewhere_does_nothing_on_the_core_site() {
    let tenant = Tenant::open().await;
    let cookies = format!("Cookie: {SIGNED_IN}; {SIGNED_IN_AT_CORE}");
    let from = "Origin: http://acme.localhost";
    let sent = |site: &str, mode: &str, dest: &str| {
        [
            format!("Sec-Fetch-Site: {site}"),
            format!("Sec-Fetch-Mode: {mode}"),
            format!("Sec-Fetch-Dest: {dest}"),
        ]
    };
    for site in ["same-site", "cross-site"] {
        for (request, mode, dest) in [
            ("GET /.cial/api/x", "cors", "empty"),
            ("POST /.cial/api/x", "cors", "empty"),
            ("POST /.cial/api/x", "no-cors", "empty"),
            ("POST /.cial/api/x", "navigate", "document"),
            ("POST /.cial/sign-out", "navigate", "document"),
            ("GET /.cial/api/x", "navigate", "document"),
            ("GET /.cial", "navigate", "iframe"),
            ("GET /.cial", "no-cors", "script"),
            ("GET /.cial/sign-in", "navigate", "iframe"),
        ] {
            let metadata = sent(site, mode, dest);
            let lines: Vec<_> =
                metadata.iter().map(String::as_str).chain([from, &cookies]).collect();
            let refused = ask(&tenant, CORE, request, &lines).await;
            assert_eq!((refused.status, refused.code().as_str()), (403, "cross_site"), "{request}");
            assert_eq!(refused.all("cross-origin-opener-policy"), ["same-origin"], "{request}");
            assert_eq!(refused.all("cross-origin-resource-policy"), ["same-origin"], "{request}");
        }
        let metadata = sent(site, "navigate", "document");
        let lines: Vec<_> = metadata.iter().map(String::as_str).chain([&*cookies]).collect();
        let page = ask(&tenant, CORE, "GET /.cial", &lines).await;
        assert_eq!(page.status, 200, "a link leads there");
        assert_eq!(page.all("cross-origin-opener-policy"), ["same-origin"]);
        assert_eq!(page.all("cross-origin-resource-policy"), ["same-origin"]);
    }
    // A browser without Fetch Metadata names its page with every unsafe method and every WebSocket.
    let post = ask(&tenant, CORE, "POST /.cial/api/x", &[from, &cookies]).await;
    assert_eq!(post.code(), "cross_site");
    let handshake = [
        "Upgrade: websocket",
        "Sec-WebSocket-Version: 13",
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==",
        from,
        &cookies,
    ];
    let text: String = handshake.iter().map(|line| format!("{line}\r\n")).collect();
    let text = format!(
        "GET /.cial/api/ws HTTP/1.1\r\nHost: {CORE}\r\nConnection: Upgrade, close\r\n{text}\r\n"
    );
    assert_eq!(send(tenant.tcp, &text).await.status, 403);
    let own =
        ask(&tenant, CORE, "POST /.cial/api/x", &["Origin: http://core--acme.localhost"]).await;
    assert_eq!(own.status, 200);
}
