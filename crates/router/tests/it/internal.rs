//! Health, readiness and metrics are on the internal listener only.

use crate::harness::{Client, Response, Running, TempDir, eventually};
use crate::tenant::Tenant;

fn get(router: &Running, path: &str) -> Response {
    let mut client = Client::connect(router.internal);
    client.send(format!("GET {path} HTTP/1.1\r\nHost: router:8081\r\n\r\n"));
    client.response()
}

#[test]
fn ready_is_who_has_a_table() {
    let folder = TempDir::new("router").unwrap();
    let nowhere = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let router = Running::start(nowhere, &folder);
    assert_eq!(get(&router, "/healthz").status, 200);
    let response = get(&router, "/readyz");
    assert_eq!((response.status, response.code().as_str()), (503, "waiting"));
    assert!(
        response.body.contains("routes: none") && response.has("x-request-id: "),
        "{response:?}"
    );
    let nothing = get(&router, "/nothing");
    assert_eq!((nothing.status, nothing.code().as_str()), (404, "not_found"));
    router.end();
    let (_control, router) = Running::knowing(vec![], &folder);
    assert_eq!(get(&router, "/readyz").status, 200, "an empty table is one");
}

#[test]
fn metrics_count_what_happened() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.get("acme.localhost", "/bare");
    router.get("acme.localhost", "/");
    let _client = Client::connect(router.public);
    let has = |line: &str| get(&router, "/metrics").body.contains(line);
    eventually("the requests have ended", || has("cial_router_in_flight 0\n"));
    eventually("who is connected is counted", || has("cial_router_connections_current 1\n"));
    eventually("and who waits for a request", || has("cial_router_idle_upstreams 1\n"));
    let text = get(&router, "/metrics").body;
    for line in [
        "cial_router_routes 1\n",
        "cial_router_control_plane_up 1\n",
        "cial_router_forwarded_total 2\n",
        "cial_router_wrong_proof_total 1\n",
        "cial_router_responses_total{class=\"5xx\"} 1\n",
        "cial_router_accept_pauses_total 0\n",
    ] {
        assert!(text.contains(line), "{line} not in {text}");
    }
    let limit: usize = router.metric("cial_router_connections_limit").parse().unwrap();
    assert!((32..=2 * 16_384).contains(&limit), "{limit}");
    for path in ["/metrics", "/healthz", "/readyz"] {
        assert_eq!(router.get("localhost:8080", path).status, 404, "{path} in public");
    }
}
