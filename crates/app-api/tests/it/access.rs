//! Every route enforces the access of the route table, and no other route exists.

use std::time::Duration;

use app_api::access::Access;
use app_api::route::{Route, Surface};
use app_api::routes::{DEV_ROUTES, INTERNAL_ROUTES, ROUTES};
use axum::http::{Method, StatusCode};
use protocol::api_keys::Role;
use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use crate::harness::callers::{Kind, Place, TestCaller};
use crate::harness::{
    EMAIL, FakeOrchestrator, ROUTES_TOKEN, Server, Setup, TEST_TIMEOUT, TestClient, TestResponse,
    acme,
};

/// The outcome of an access check as a caller sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Admitted,
    Unauthenticated,
    InvalidKey,
    Forbidden,
    InsufficientRole,
}
use Outcome::{Admitted, Forbidden, InsufficientRole, InvalidKey, Unauthenticated};

/// The promise, written apart from the code that keeps it.
fn promised(route: &Route, kind: Kind) -> Outcome {
    let is_page = route.surface == Surface::Page;
    if let Kind::LoginKey(role, place) = kind {
        let is_for_sessions = is_page || matches!(route.access, Access::Person | Access::Member(_));
        let like = match (place, role) {
            (Place::Everywhere, Role::Admin) => Kind::AdminKey,
            (Place::Everywhere, _) if !is_for_sessions => Kind::Operator("viewer"),
            _ => Kind::Key(role, place),
        };
        return match (route.access, place) {
            (Access::Account, _) => Admitted,
            // A key of one tenant may lie in that tenant, and must not reach the rest of its person's account.
            (Access::WholeAccount(_), Place::Here | Place::Elsewhere) => Forbidden,
            (Access::WholeAccount(needed), Place::Everywhere) if role < needed => InsufficientRole,
            (Access::WholeAccount(_), Place::Everywhere) => Admitted,
            _ => promised(route, like),
        };
    }
    let at_least = |role: Role, needed| if role >= needed { Admitted } else { InsufficientRole };
    match (route.access, kind) {
        (Access::Public, _) => Admitted,
        (_, Kind::Anonymous) | (Access::Service, _) => Unauthenticated,
        // Pages take sessions only.
        (_, Kind::Key(..) | Kind::AdminKey | Kind::DeadKey) if is_page => Unauthenticated,
        (_, Kind::DeadKey) => InvalidKey,
        // A key of another tenant is refused on every path of this one, before anything else is looked at.
        (_, Kind::Key(_, Place::Elsewhere)) if route.names_tenant() => Forbidden,
        (Access::SignedIn, _) => Admitted,
        (
            Access::Person | Access::Account | Access::WholeAccount(_) | Access::Member(_),
            Kind::Key(..) | Kind::AdminKey,
        ) => Forbidden,
        (Access::Person | Access::Account | Access::WholeAccount(_), _) => Admitted,
        (Access::Global, Kind::Key(_, Place::Here | Place::Elsewhere)) => Forbidden,
        (Access::Global, _) => Admitted,
        (_, Kind::Operator("owner" | "admin") | Kind::AdminKey) => Admitted,
        (Access::Tenant(needed) | Access::Member(needed), Kind::Operator("viewer")) => {
            at_least(Role::Read, needed)
        }
        (
            Access::Tenant(needed) | Access::Member(needed),
            Kind::Member(role, Place::Here) | Kind::Key(role, Place::Here | Place::Everywhere),
        ) => at_least(role, needed),
        (Access::Tenant(_) | Access::Member(_), _) => Forbidden,
        (Access::PlatformRead, Kind::Operator("viewer")) => Admitted,
        (Access::PlatformAdmin, Kind::Operator("viewer")) => InsufficientRole,
        // A person of another tenant does not learn that this one exists.
        (
            Access::PlatformRead | Access::PlatformAdmin,
            Kind::Operator(_) | Kind::Member(_, Place::Elsewhere),
        ) if route.names_tenant() => Forbidden,
        (Access::PlatformRead | Access::PlatformAdmin, Kind::Key(_, place))
            if !route.names_tenant() || place == Place::Elsewhere =>
        {
            Forbidden
        }
        (Access::PlatformRead | Access::PlatformAdmin, _) => InsufficientRole,
    }
}

fn outcome(response: &TestResponse) -> Outcome {
    if response.header("location").starts_with("/admin/login?next=") {
        return Unauthenticated;
    }
    let is_problem = response.header("content-type") == "application/problem+json";
    let code = if is_problem { response.problem() } else { String::new() };
    match code.as_str() {
        "401 unauthenticated" => Unauthenticated,
        "401 invalid_key" => InvalidKey,
        "403 forbidden" => Forbidden,
        "403 insufficient_role" => InsufficientRole,
        _ => Admitted,
    }
}

async fn call(caller: &TestCaller, method: &Method, path: &str) -> TestResponse {
    let with_key = caller.key.as_ref().map(|key| caller.client.with_key(key));
    with_key.as_ref().unwrap_or(&caller.client).send(method.clone(), path, &[], "").await
}

/// The path with a value for each parameter.
fn concrete(path: &str, slug: &str) -> String {
    let segments = path.split('/').map(|segment| match segment {
        "{slug}" => slug,
        parameter if parameter.starts_with('{') => "00000000-0000-0000-0000-000000000000",
        segment => segment,
    });
    segments.collect::<Vec<_>>().join("/")
}

/// A server of the development profile whose reconciler removes nothing, with its owner and two tenants.
async fn with_two_tenants() -> (Server, TestClient) {
    two_tenants_with(Setup::new(FakeOrchestrator::unreachable()).await).await
}

async fn two_tenants_with(setup: Setup) -> (Server, TestClient) {
    let server = setup.with_dev_login().start().await;
    let owner = server.sign_up().await;
    owner.post("/api/admin/tenants", acme()).await;
    owner.post("/api/admin/tenants", json!({ "slug": "globex", "name": "Globex" })).await;
    (server, owner)
}

/// Calls every path of the routes as every caller. Returns what differs from the promise.
async fn faults(server: &Server, callers: &[TestCaller], routes: &[&Route]) -> Vec<String> {
    let mut faults = Vec::new();
    for route in routes {
        for path in route.paths() {
            for caller in callers {
                let path = concrete(&path, "acme");
                let response = call(caller, &route.method, &path).await;
                let (expected, found) = (promised(route, caller.kind), outcome(&response));
                if found == Admitted && route.method == Method::DELETE {
                    // A deleted tenant's keys end with it, and the next callers have such keys.
                    let keys = "UPDATE api_keys SET revoked = false WHERE tenant_id IS NOT NULL";
                    server.database.sql(keys).await;
                }
                if expected != found || response.status == StatusCode::INTERNAL_SERVER_ERROR {
                    let (method, name) = (&route.method, &caller.name);
                    faults.push(format!(
                        "{method} {path} as {name}: {expected:?}, was {found:?} {}",
                        response.text()
                    ));
                }
            }
        }
    }
    faults
}

#[tokio::test(flavor = "multi_thread")]
async fn every_route_admits_whom_the_table_says() {
    let (server, owner) = with_two_tenants().await;
    let callers = server.every_caller(&owner).await;
    let mut routes: Vec<_> = ROUTES.iter().chain(DEV_ROUTES).collect();
    // Signing out ends the session or the key of its caller, whom the route must know until then.
    routes.sort_by_key(|route| {
        let ends = route.paths().any(|path| path.contains("sign-out") || path.contains("logout"));
        (ends, route.access == Access::Public)
    });
    let faults = faults(&server, &callers, &routes).await;
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    server.stop().await;
}

/// The walk finds a check that is missing: the server lets everybody pass where this table wants administrators.
#[tokio::test(flavor = "multi_thread")]
async fn a_missing_check_is_found_for_every_caller_without_the_right() {
    let (server, owner) = with_two_tenants().await;
    let callers = server.every_caller(&owner).await;
    let is_open = |route: &&Route| route.access == Access::Public && route.surface == Surface::Api;
    let open = ROUTES.iter().filter(is_open).find(|route| route.method == Method::GET).unwrap();
    assert_eq!(faults(&server, &callers, &[open]).await, [""; 0]);
    let mut guarded = open.clone();
    guarded.access = Access::PlatformAdmin;
    let found = faults(&server, &callers, &[&guarded]).await;
    let paths = guarded.paths().count();
    let without = callers.iter().filter(|caller| promised(&guarded, caller.kind) != Admitted);
    assert_eq!(found.len(), paths * without.count(), "{found:#?}");
    assert!(found.len() > callers.len() / 2, "{found:#?}");
    server.stop().await;
}

/// A new public route is a decision, made here.
#[test]
fn the_public_routes() {
    let public = ROUTES.iter().filter(|route| route.access == Access::Public);
    let lines =
        public.flat_map(|route| route.paths().map(|path| format!("{} {path}", route.method)));
    insta::assert_snapshot!(lines.collect::<Vec<_>>().join("\n"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_internal_listener_admits_services_only() {
    let (server, owner) = with_two_tenants().await;
    let callers = server.every_caller(&owner).await;
    let internal = TestClient::new(server.internal);
    for route in INTERNAL_ROUTES {
        for path in route.paths() {
            for caller in &callers {
                let mut caller = caller.clone();
                let cookie = caller.client.cookie.take();
                caller.client = internal.new_client();
                caller.client.cookie = cookie;
                let response = call(&caller, &route.method, &path).await;
                let expected =
                    if route.access == Access::Public { Admitted } else { Unauthenticated };
                assert_eq!(outcome(&response), expected, "{path} as {}", caller.name);
            }
        }
    }
    let token = format!("Bearer {ROUTES_TOKEN}");
    let headers = [("authorization", token.as_str())];
    let watch = internal.send_streaming(Method::GET, "/v1/routes/watch", &headers, "").await;
    assert_eq!(watch.status(), 200);
    // Not on the public listener, whoever asks.
    for path in ["/v1/routes/watch", "/metrics"] {
        assert_eq!(owner.get(path).await.problem(), "404 not_found", "{path}");
    }
    let metrics = internal.get("/metrics").await;
    assert_eq!(metrics.header("content-type"), "text/plain; version=0.0.4; charset=utf-8");
    let text = metrics.text();
    let types: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("# TYPE ")).collect();
    insta::assert_snapshot!(types.join("\n"), @r"
    cial_tenants gauge
    cial_routes_revision gauge
    cial_database_ready gauge
    cial_orchestrator_connected gauge
    cial_database_pool_current gauge
    cial_database_pool_limit gauge
    cial_password_hashes_current gauge
    cial_password_hashes_limit gauge
    cial_password_queue_current gauge
    cial_password_queue_limit gauge
    cial_connections_current gauge
    cial_connections_limit gauge
    cial_internal_connections_current gauge
    cial_internal_connections_limit gauge
    cial_descriptors_current gauge
    cial_descriptors_limit gauge
    cial_throttle_cells_current gauge
    cial_throttle_cells_limit gauge
    cial_reconcile_runs_current gauge
    cial_reconcile_runs_limit gauge
    cial_password_verifications_total counter
    cial_password_hashes_total counter
    ");
    let public = server.visitor.send(Method::GET, "/v1/routes/watch", &headers, "").await;
    assert_eq!(public.problem(), "401 invalid_key");
    assert_eq!(server.visitor.get("/metrics").await.problem(), "404 not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_foreign_key_gets_one_constant_response() {
    let (server, _owner) = with_two_tenants().await;
    let key = format!("Bearer {}", server.key_of(Some("globex"), Role::Admin).await);
    let headers = [("authorization", key.as_str()), ("x-request-id", "0123456789abcdef")];
    let mut bodies = Vec::new();
    for prefix in ["/v1", "/api/admin"] {
        for slug in ["acme", "nothing", "ACME", "%ff", "%00", "a%2fb", "globex2"] {
            for rest in ["", "/start", "/logs", "/open", "/nothing", "/keys", "/keys/1"] {
                for method in
                    [Method::GET, Method::POST, Method::PATCH, Method::DELETE, Method::PUT]
                {
                    let path = format!("{prefix}/tenants/{slug}{rest}");
                    let response = server.visitor.send(method.clone(), &path, &headers, "").await;
                    assert_eq!(response.problem(), "403 forbidden", "{method} {path}");
                    bodies.push(response.text());
                }
            }
        }
    }
    bodies.sort();
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_person_learns_nothing_of_other_tenants() {
    let (server, _owner) = with_two_tenants().await;
    let member = server.sign_in_as("eve", "none", &[("globex", "admin")]).await;
    let get = |path: &'static str| {
        member.send(Method::GET, path, &[("x-request-id", "0123456789abcdef")], "")
    };
    let (exists, missing) = (get("/v1/tenants/acme").await, get("/v1/tenants/missing").await);
    assert_eq!(exists.problem(), "403 forbidden");
    assert_eq!(exists.body, missing.body);
    let listed = get("/v1/tenants").await.json();
    let slugs: Vec<_> = listed["tenants"].as_array().unwrap().iter().map(|t| &t["slug"]).collect();
    assert_eq!(slugs, ["globex"]);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_role_counts_at_the_next_request() {
    let (server, _owner) = with_two_tenants().await;
    let member = server.sign_in_as("mia", "none", &[("acme", "viewer")]).await;
    let start = || member.send(Method::POST, "/v1/tenants/acme/start", &[], "");
    assert_eq!(start().await.problem(), "403 insufficient_role");
    server.database.sql("UPDATE memberships SET role = 'member'").await;
    assert_eq!(start().await.status, 202);
    server.database.sql("DELETE FROM memberships").await;
    assert_eq!(start().await.problem(), "403 forbidden");
}

#[tokio::test(flavor = "multi_thread")]
async fn unauthenticated_callers_do_not_learn_what_exists() {
    let (server, owner) = Server::with_acme(FakeOrchestrator::obedient()).await;
    let nobody = &server.visitor;
    for prefix in ["/api/admin", "/v1"] {
        for path in ["", "/nothing", "/tenants/acme", "/tenants/none"] {
            let path = format!("{prefix}{path}");
            assert_eq!(nobody.get(&path).await.problem(), "401 unauthenticated", "{path}");
        }
        let tenants = format!("{prefix}/tenants");
        let put = nobody.send(Method::PUT, &tenants, &[], "").await;
        assert_eq!(put.problem(), "401 unauthenticated");
        let nothing = format!("{prefix}/nothing");
        assert_eq!(owner.get(&nothing).await.problem(), "404 not_found");
        for none in ["none", "%00", "%2e%2e", "ACME", "acme%2f", "%ff"] {
            let response = owner.get(&format!("{prefix}/tenants/{none}")).await;
            assert_eq!(response.problem(), "404 tenant_not_found", "{none}");
        }
        let put = owner.send(Method::PUT, &tenants, &[], "").await;
        assert_eq!(put.problem(), "405 method_not_allowed");
        assert!(put.header("allow").contains("POST"), "{:?}", put.headers);
    }
    assert_eq!(nobody.get("/nothing").await.problem(), "404 not_found");
    // A public path is no secret.
    for path in ["/api/auth/sign-in/email", "/v1/auth/cli-logins", "/admin/login"] {
        let trace = nobody.send(Method::TRACE, path, &[], "").await;
        assert_eq!(trace.problem(), "405 method_not_allowed", "{path}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_signed_in_owner_reaches_every_route_of_a_missing_tenant_as_not_found() {
    let (server, owner) = with_two_tenants().await;
    for route in ROUTES.iter().filter(|route| route.names_tenant()) {
        for path in route.paths() {
            for slug in ["unknown", "%ff"] {
                let path = concrete(&path, slug);
                let response = owner.send(route.method.clone(), &path, &[], "").await;
                assert_eq!(response.problem(), "404 tenant_not_found", "{} {path}", route.method);
            }
        }
    }
    server.stop().await;
}

/// Sends the head of a request with a body of two bytes and waits until the server reads the body, or responds without
/// it. Then runs `meanwhile`, sends the body and returns the head of the response.
async fn send_slowly(
    client: &TestClient,
    (method, path): (&Method, &str),
    (content_type, body): (&str, &str),
    meanwhile: impl Future<Output = ()>,
) -> String {
    let mut stream = TcpStream::connect(client.address()).await.unwrap();
    let (host, cookie) = (client.address(), client.cookie.as_deref().unwrap_or_default());
    let head = format!(
        "{method} {path} HTTP/1.1\r\nHost: {host}\r\nCookie: {cookie}\r\nContent-Type: {content_type}\r\n\
         Content-Length: {}\r\nExpect: 100-continue\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut interim = Vec::new();
    while !interim.ends_with(b"\r\n\r\n") {
        interim.push(stream.read_u8().await.unwrap());
    }
    let interim = String::from_utf8(interim).unwrap();
    if !interim.starts_with("HTTP/1.1 100 ") {
        return interim;
    }
    meanwhile.await;
    stream.write_all(body.as_bytes()).await.unwrap();
    let mut response = Vec::new();
    stream.read_to_end(&mut response).await.unwrap();
    let response = String::from_utf8(response).unwrap();
    response.split("\r\n\r\n").next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_ends_while_the_body_is_under_way_changes_nothing() {
    let state = tempfile::tempdir().unwrap();
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.env.push(("CIAL_STATE_DIR", state.path().display().to_string()));
    let (server, owner) = two_tenants_with(setup).await;
    // The handler of a part refuses an upload that does not exist before it reads the part.
    let upload = json!({ "size": 9, "sha256": "0".repeat(64) });
    let upload = owner.post("/v1/image-uploads", upload).await.json()["id"].clone();
    let part_path = format!("/v1/image-uploads/{}?offset=0", upload.as_str().unwrap());
    let mut faults = Vec::new();
    for route in ROUTES.iter().chain(DEV_ROUTES).filter(|route| !route.method.is_safe()) {
        if route.access == Access::Public {
            continue;
        }
        let path = concrete(&route.paths().next().unwrap(), "acme");
        let is_part = route.method == Method::PUT && path.contains("/image-uploads/");
        let path = if is_part { part_path.clone() } else { path };
        let caller = server.new_session_of(EMAIL).await;
        let body = match route.surface {
            Surface::Page => ("application/x-www-form-urlencoded", "a="),
            Surface::Api | Surface::Internal => ("application/json", "{}"),
        };
        let revoke = async {
            server.database.sql("DELETE FROM sessions").await;
        };
        let sent = send_slowly(&caller, (&route.method, &path), body, revoke);
        let response = timeout(TEST_TIMEOUT, sent).await.expect("no response");
        let is_refused = match route.surface {
            Surface::Page => response.contains("location: /admin/login"),
            Surface::Api | Surface::Internal => response.starts_with("HTTP/1.1 401 "),
        };
        if !is_refused {
            faults.push(format!("{} {path}: {response}", route.method));
        }
    }
    assert!(faults.is_empty(), "{} faults:\n{}", faults.len(), faults.join("\n"));
    assert_eq!(server.database.count("tenants").await, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_caller_changes_only_so_much_in_five_minutes() {
    let mut setup = Setup::new(FakeOrchestrator::unreachable()).await;
    setup.max_changes = 3;
    let server = setup.start().await;
    let owner = server.sign_up().await;
    let (first, second) = (server.admin_key().await, server.admin_key().await);
    let change = async |key: Option<&str>| {
        let client = key.map_or_else(|| owner.clone(), |key| owner.with_key(key));
        client.send(Method::DELETE, "/v1/tenants/none", &[], "").await
    };
    for key in [Some(first.as_str()), None] {
        for _ in 0..3 {
            assert_eq!(change(key).await.problem(), "404 tenant_not_found");
        }
        let refused = change(key).await;
        assert_eq!(refused.problem(), "429 rate_limited");
        let wait: u64 = refused.header("retry-after").parse().unwrap();
        assert!((1..=300).contains(&wait), "{wait}");
    }
    // Reading goes on, revoking too, and others are not affected: another session of the same person neither.
    assert_eq!(owner.get("/v1/tenants").await.status, 200);
    let revoke = owner.send(Method::DELETE, "/v1/sessions", &[], "").await;
    assert_eq!(revoke.status, 204, "{}", revoke.text());
    let again = server.new_session_of(EMAIL).await;
    let change_again = again.send(Method::DELETE, "/v1/tenants/none", &[], "").await;
    assert_eq!(change_again.problem(), "404 tenant_not_found");
    let client = server.visitor.with_key(&second);
    for _ in 0..4 {
        let id = "00000000-0000-0000-0000-000000000000";
        let path = format!("/v1/auth/keys/{id}");
        let revoke = client.send(Method::DELETE, &path, &[], "").await;
        assert_eq!(revoke.problem(), "404 not_found");
    }
    assert_eq!(change(Some(&second)).await.problem(), "404 tenant_not_found");
    server.advance_clock(Duration::from_secs(300));
    assert_eq!(change(Some(&first)).await.problem(), "404 tenant_not_found");
}
