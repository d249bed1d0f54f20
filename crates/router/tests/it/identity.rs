//! Only the router sets the identity headers, and no tenant's response is taken for another
//! tenant's.

use crate::harness::{Running, TempDir, master};
use crate::tenant::Tenant;

#[test]
fn a_request_carries_what_we_say_and_nothing_that_pretends_to_be_us() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let response = router.send(
        "GET /p HTTP/1.1\r\nHost: acme.localhost:8080\r\nX-Cial-User: root\r\nX-Cial-Route-Token: guess\r\n\
         x_cial_user: root\r\nX-Forwarded-For: 6.6.6.6\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: evil\r\n\
         X_Forwarded_For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\nX-Real-IP: 6.6.6.6\r\nX-User-ID: root\r\n\
         X-Tenant-Id: other\r\nX-Request-Id: abcdefgh-1\r\nCookie: a=b; cial_admin=secret; c=d\r\n\
         Cookie: __Host-cial_admin=secret\r\nAuthorization: Bearer mine\r\nX-Custom: kept\r\n\r\n",
    );
    let token = service::keys::route_token(&master(), acme.id);
    let seen = response.body.replace(&token, "(token)").replace("\r\n", "\n");
    insta::assert_snapshot!(seen, @"
    Tenant acme
    GET /p HTTP/1.1
    Host: acme.localhost:8080
    x-forwarded-host: acme.localhost:8080
    Cookie: a=b; c=d
    Authorization: Bearer mine
    X-Custom: kept
    x-cial-route-token: (token)
    x-request-id: abcdefgh-1
    x-forwarded-proto: http
    x-forwarded-for: 127.0.0.1
    x-real-ip: 127.0.0.1
    ");
    assert!(response.has("x-request-id: abcdefgh-1"), "{response:?}");
}

#[test]
fn an_answer_loses_what_is_between_us_and_the_tenant() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let response = router.get("acme.localhost", "/");
    assert!(!response.has("x-cial-") && !response.has("theirs"), "{response:?}");
    assert!(response.has("set-cookie: a=b") && response.has("x-request-id: "), "{response:?}");
}

#[test]
fn an_answer_without_the_right_proof_goes_nowhere() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    for path in ["/bare", "/twice"] {
        let response = router.get("acme.localhost", path);
        assert_eq!(
            (response.status, response.code().as_str()),
            (502, "upstream_malformed"),
            "{path}"
        );
        assert!(!response.body.contains("secret"), "{response:?}");
    }
}

#[test]
fn a_tenant_that_sits_on_anothers_socket_is_not_mistaken_for_it() {
    let folder = TempDir::new("router").unwrap();
    let (a, b) = (Tenant::new(&folder, 1, "alpha"), Tenant::new(&folder, 2, "beta"));
    let (control, router) = Running::knowing(vec![a.running(), b.running()], &folder);
    assert_eq!(router.get("beta.localhost", "/").status, 200);

    // The socket that the table lists for beta belongs to alpha now.
    b.listen(a.id);
    let mut moved = b.running();
    moved.generation = 2;
    control.feed.put(moved);
    router.knows(control.feed.revision());
    for path in ["/", "/ws", "/events"] {
        let response = router.send(&format!(
            "GET {path} HTTP/1.1\r\nHost: beta.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
             Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
        ));
        assert_eq!(response.status, 502, "{path}: {response:?}");
        assert!(
            !response.body.contains("alpha") && !response.body.contains("Tenant"),
            "{response:?}"
        );
    }

    // On a mismatch the router lists the routes again, and serves the tenant once the proof
    // matches.
    b.listen(b.id);
    let mut back = b.running();
    back.generation = 3;
    control.feed.put(back);
    router.knows(control.feed.revision());
    assert!(router.get("beta.localhost", "/").body.starts_with("Tenant beta\n"));
    assert!(router.get("alpha.localhost", "/").body.starts_with("Tenant alpha\n"));
}
