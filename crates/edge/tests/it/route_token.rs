//! A guarded edge answers its router and health checks; other clients learn nothing from it.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use crate::raw::{Response, get, send};
use crate::world::{PROOF, TOKEN, Tenant};

fn token() -> String {
    format!("X-Cial-Route-Token: {TOKEN}")
}

#[tokio::test]
async fn other_clients_learn_nothing() {
    let tenant = Tenant::guarded().await;
    let wrong = format!("x-cial-route-token: {}", "x".repeat(TOKEN.len()));
    for path in ["/", "/.cial", "/.cial/api/health", "/.cial/sso?token=x", "//.cial", "/x%00"] {
        for lines in [&[][..], &[wrong.as_str()], &[token().as_str(), token().as_str()]] {
            let response = get(tenant.tcp, path, lines).await;
            assert_eq!((response.status, response.body.as_str()), (404, ""), "{path}");
            let telling = ["content-type", "x-request-id", "x-cial-proof", "server"];
            assert!(telling.iter().all(|name| response.all(name).is_empty()), "{}", response.head);
        }
    }
}

#[tokio::test]
async fn other_clients_learn_nothing_from_their_mistakes_either() {
    let tenant = Tenant::guarded().await;
    let requests = [
        "GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a\r\n folded: x\r\n\r\n",
        "NONSENSE\r\n\r\n",
    ];
    for request in requests {
        let response = send(tenant.tcp, request).await;
        assert!((400..500).contains(&response.status), "{response:?}");
        assert_eq!(response.body, "");
        assert!(!response.head.contains("cial"), "{}", response.head);
    }
}

#[tokio::test]
async fn health_is_open_and_proves_nothing() {
    let tenant = Tenant::guarded().await;
    let claims = ["X-Forwarded-For: 9.9.9.9", "X-Cial-User: forged"];
    let response = get(tenant.tcp, "/.cial/api/healthz", &claims).await;
    assert_eq!(response.json()["by"], "core-back");
    assert_eq!(response.json()["target"], "/healthz");
    assert_eq!(response.json()["headers"]["x-forwarded-for"], "127.0.0.1");
    assert_eq!(response.json()["headers"].get("x-cial-user"), None);
    assert_eq!(response.all("x-cial-proof"), [""; 0]);
}

#[tokio::test]
async fn a_request_with_the_route_token_is_trusted_and_gets_the_proof() {
    let tenant = Tenant::guarded().await;
    let lines = [
        &token(),
        "X-Forwarded-For: 203.0.113.7",
        "X-Forwarded-Proto: https",
        "X-Forwarded-Host: acme.example.com",
        "X-Request-Id: 0192f0c1-abc",
        "X-Real-IP: 9.9.9.9",
    ];
    let request =
        format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n{}\r\n\r\n", lines.join("\r\n"));
    let mut stream = UnixStream::connect(&tenant.ingress).await.unwrap();
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).await.unwrap();
    let response = Response::read(&bytes);

    assert_eq!(response.all("x-cial-proof"), [PROOF]);
    assert_eq!(response.all("x-request-id"), ["0192f0c1-abc"]);
    let headers = &response.json()["headers"];
    assert_eq!(headers["x-forwarded-for"], "203.0.113.7");
    assert_eq!(headers["x-forwarded-proto"], "https");
    assert_eq!(headers["x-forwarded-host"], "acme.example.com");
    assert_eq!(headers["x-request-id"], "0192f0c1-abc");
    assert_eq!(headers.get("x-real-ip"), None);
    assert_eq!(headers.get("x-cial-route-token"), None, "the token stays with the edge");
}

#[tokio::test]
async fn errors_of_a_guarded_edge_carry_the_proof_too() {
    let tenant = Tenant::guarded().await;
    let response = get(tenant.tcp, "//.cial", &[&token()]).await;
    assert_eq!((response.status, response.all("x-cial-proof")), (400, vec![PROOF]));
    let attack = get(tenant.tcp, "/attack", &[&token()]).await;
    assert_eq!(attack.all("x-cial-proof"), [PROOF], "the platform's own proof is dropped");
}
