//! Idle connections give way to new ones, and a connection is kept or its end announced.

use axum::http::Method;
use chrono::DateTime;
use protocol::TenantId;
use protocol::gauges::{Gauge, GaugeName, GaugeReport};
use protocol::summaries::{ConversationSummary, SummaryReport};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use uuid::Uuid;

use crate::support::PATIENCE;
use crate::wire::{MAX_CONNECTIONS, Server, TOKEN, ready_tenant};

#[tokio::test]
async fn idle_connections_do_not_shut_out_callers() {
    let server = Server::start().await;
    let mut idle = Vec::new();
    let mut open_idle = async || {
        for n in 0..3 * MAX_CONNECTIONS {
            let mut stream = TcpStream::connect(server.address).await.unwrap();
            // Silent from the beginning, within a head, and after a response.
            match n % 3 {
                0 => {}
                1 => stream.write_all(b"G").await.unwrap(),
                _ => {
                    let request = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n";
                    stream.write_all(request).await.unwrap();
                    let mut piece = [0; 1_024];
                    let read = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await;
                    assert!(piece.starts_with(b"HTTP/1.1 200 "), "{read:?}");
                }
            }
            idle.push(stream);
        }
    };
    open_idle().await;
    // A call that is under way keeps its connection.
    let mut watch = TcpStream::connect(server.address).await.unwrap();
    let head = format!(
        "GET /v1/tenants/watch HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {TOKEN}\r\n\r\n"
    );
    watch.write_all(head.as_bytes()).await.unwrap();
    let mut piece = [0; 1_024];
    assert!(watch.read(&mut piece).await.unwrap() > 0);
    open_idle().await;
    let metrics = server.bare(&Method::GET, "/metrics", None, b"").await;
    assert_eq!(metrics.status, 200);
    let limit = format!("cial_connections_limit {MAX_CONNECTIONS}\n");
    assert!(metrics.body.contains(&limit), "{}", metrics.body);
    // The oldest idle connections were closed, the watch was not.
    for stream in &mut idle[..3] {
        let closed = tokio::time::timeout(PATIENCE, stream.read(&mut piece)).await.unwrap();
        assert_eq!(closed.unwrap_or(0), 0);
    }
    let spec = ready_tenant(&server).await;
    let mut text = String::new();
    while !text.contains(&spec.id.to_string()) {
        let n = tokio::time::timeout(PATIENCE, watch.read(&mut piece)).await.unwrap().unwrap();
        assert!(n > 0, "the watch was closed: {text}");
        text.push_str(std::str::from_utf8(&piece[..n]).unwrap());
    }
}

#[tokio::test]
async fn an_unread_body_is_drained_or_the_end_of_the_connection_announced() {
    let server = Server::start().await;
    let mut stream = TcpStream::connect(server.address).await.unwrap();
    let post = |path: &str, length: usize| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\n")
    };
    // Without a token and to unknown paths: refused before the body is read.
    for path in ["/v1/leases", "/nothing", "/healthz"] {
        stream.write_all(post(path, 1_000).as_bytes()).await.unwrap();
        stream.write_all(&[b'x'; 1_000]).await.unwrap();
        let head = response_head(&mut stream).await;
        assert!(!head.contains("connection: close"), "{path}: {head}");
    }
    stream.write_all(post("/v1/leases", 50_000_000).as_bytes()).await.unwrap();
    let head = response_head(&mut stream).await;
    assert!(head.contains("connection: close"), "{head}");
}

/// Reads one response and returns its head in lower case.
async fn response_head(stream: &mut TcpStream) -> String {
    let mut text = Vec::new();
    while !text.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await.unwrap();
        text.push(byte.unwrap());
    }
    let head = String::from_utf8(text).unwrap().to_ascii_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    let mut body = vec![0; length.map_or(0, |length| length.parse().unwrap())];
    stream.read_exact(&mut body).await.unwrap();
    head
}

#[tokio::test]
async fn the_summaries_of_a_running_tenant_are_those_after_a_position() {
    let server = Server::start().await;
    let tenant = ready_tenant(&server).await.id;
    let summary = ConversationSummary {
        user_id: Uuid::from_u128(1),
        conversation: Uuid::from_u128(2),
        messages: 4,
        tokens: 17,
        last_activity_at: DateTime::UNIX_EPOCH,
    };
    let report = SummaryReport { summaries: vec![summary], position: 9 };
    server.engine.set_summaries(tenant, report.clone());
    let bearer = format!("Bearer {TOKEN}");
    let get = async |tenant: TenantId, query: &str| {
        let path = format!("/v1/tenants/{tenant}/summaries{query}");
        server.bare(&Method::GET, &path, Some(&bearer), b"").await
    };
    let read = |body: &str| serde_json::from_str::<SummaryReport>(body).unwrap();
    assert_eq!(read(&get(tenant, "?after=0").await.body), report);
    let later = SummaryReport { summaries: Vec::new(), position: 9 };
    assert_eq!(read(&get(tenant, "?after=9").await.body), later);
    for query in ["", "?after=x", "?after=1&until=2"] {
        assert_eq!(get(tenant, query).await.status, 400, "{query}");
    }
    let mute = ready_tenant(&server).await.id;
    assert_eq!(get(mute, "?after=0").await.status, 502);
    let nobody = TenantId::new(Uuid::from_u128(3));
    assert_eq!(get(nobody, "?after=0").await.status, 409);
}

#[tokio::test]
async fn the_gauges_of_running_tenants_are_metrics_of_their_own() {
    let server = Server::start().await;
    let spec = ready_tenant(&server).await;
    let mute = ready_tenant(&server).await;
    let gauge = Gauge::new(GaugeName::EdgeConnections, 3, 4_096);
    server.engine.set_gauges(spec.id, GaugeReport { gauges: vec![gauge] });
    let response = server.bare(&Method::GET, "/metrics/tenants", None, b"").await;
    assert_eq!(response.status, 200);
    for line in [
        "# TYPE cial_tenant_edge_connections_limit gauge\n".to_owned(),
        format!("cial_tenant_edge_connections_current{{tenant=\"{}\"}} 3\n", spec.id),
        format!("cial_tenant_edge_connections_limit{{tenant=\"{}\"}} 4096\n", spec.id),
    ] {
        assert!(response.body.contains(&line), "{line} is not in {}", response.body);
    }
    assert!(!response.body.contains(&mute.id.to_string()), "{}", response.body);
}
