//! The router receives every route, also after a manual change, and keeps the routes during a database outage.

use std::time::Instant;

use app_api::db::Database;
use app_api::db::change_listener::{BURST, ChangeListener, MIN_INTERVAL};
use protocol::State;
use protocol::routes::Route;
use service::Secret;
use service::client::{CallError, Client};
use service::watch::{WatchEnded, follow};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::harness::{FakeOrchestrator, ROUTES_TOKEN, Server, TEST_TIMEOUT, TestDatabase, acme};

/// Receives all routes after each change.
pub(crate) fn watch(server: &Server) -> mpsc::UnboundedReceiver<Vec<Route>> {
    let client = Client::new(format!("http://{}", server.internal), Secret::new(ROUTES_TOKEN));
    let (tell, received) = mpsc::unbounded_channel();
    tokio::spawn(async move {
        loop {
            follow::<Route>(&client, "/v1/routes/watch", |replica, _| {
                let _ = tell.send(replica.items().values().cloned().collect());
            })
            .await;
            tokio::task::yield_now().await;
        }
    });
    received
}

pub(crate) async fn until(
    received: &mut mpsc::UnboundedReceiver<Vec<Route>>,
    fits: impl Fn(&[Route]) -> bool,
) -> Vec<Route> {
    let wait = async {
        loop {
            let routes = received.recv().await.unwrap();
            if fits(&routes) {
                return routes;
            }
        }
    };
    timeout(TEST_TIMEOUT, wait).await.expect("the expected routes did not arrive")
}

#[tokio::test(flavor = "multi_thread")]
async fn the_router_learns_where_visitors_sign_in_and_whether_they_must() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let mut received = watch(&server);
    owner.post("/api/admin/tenants", acme()).await;
    for required in [true, false] {
        let change = serde_json::json!({ "policy": { "require_sign_in": required } });
        let changed = owner.json(axum::http::Method::PATCH, "/v1/tenants/acme", &[], change).await;
        assert_eq!(changed.status, 200, "{}", changed.text());
        let is_told = |routes: &[Route]| {
            routes.first().is_some_and(|route| route.requires_sign_in == required)
        };
        let routes = until(&mut received, is_told).await;
        let url = "http://localhost:3100/admin/tenants/acme/sign-in";
        assert_eq!(routes[0].sign_in_url.as_deref(), Some(url));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_tenant_is_routed_from_creation_to_deletion() {
    let (server, owner) = Server::with_owner(FakeOrchestrator::obedient()).await;
    let mut received = watch(&server);
    owner.post("/api/admin/tenants", acme()).await;
    let running = |r: &[Route]| r.iter().any(|r| r.state == State::Running);
    let routes = until(&mut received, running).await;
    assert_eq!(routes[0].slug.as_str(), "acme");
    assert!(routes[0].upstream.is_some());
    owner.send(axum::http::Method::DELETE, "/api/admin/tenants/acme", &[], "").await;
    until(&mut received, |routes| routes.is_empty()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_changed_by_hand_reaches_the_router() {
    let (server, _) = Server::with_acme(FakeOrchestrator::unreachable()).await;
    let mut received = watch(&server);
    until(&mut received, |r| !r.is_empty()).await;
    let is = |state: State| move |r: &[Route]| r.iter().any(|r| r.state == state);
    server.database.sql("UPDATE tenants SET state = 'stopped', desired = 'stopped'").await;
    until(&mut received, is(State::Stopped)).await;
    // Also without a notification.
    server.database.sql("ALTER TABLE tenants DISABLE TRIGGER ALL").await;
    server.database.sql("UPDATE tenants SET state = 'frozen'").await;
    until(&mut received, is(State::Frozen)).await;
}

/// Each role of the server may notify, as often as it likes.
#[tokio::test(flavor = "multi_thread")]
#[expect(clippy::disallowed_methods, reason = "the bound on reads is one on real time")]
async fn many_notifications_lead_to_few_reads_until_the_connection_ends() {
    let database = TestDatabase::new().await;
    let of_app = Database::new(&database.url, None).unwrap();
    let mut changes = ChangeListener::connect(&of_app).await.unwrap();
    let begin = Instant::now();
    database.sql("SELECT pg_notify('tenants', n::text) FROM generate_series(1, 10000) n").await;
    changes.next_change().await.unwrap();
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
        WHERE datname = current_database() AND query = 'LISTEN tenants'";
    assert_eq!(database.sql(end).await, 1);
    let mut reads = 1;
    let until_ended = async {
        while changes.next_change().await.is_ok() {
            reads += 1;
        }
    };
    timeout(TEST_TIMEOUT, until_ended).await.expect("the end of the connection is not noticed");
    let intervals = begin.elapsed().as_millis() / MIN_INTERVAL.as_millis();
    assert!(reads <= u128::from(BURST) + intervals + 1, "{reads} reads in {intervals} intervals");
}

#[tokio::test(flavor = "multi_thread")]
async fn only_the_router_may_watch() {
    let server = Server::with(FakeOrchestrator::unreachable()).await;
    let client = Client::new(format!("http://{}", server.internal), Secret::new("wrong"));
    let ended = follow::<Route>(&client, "/v1/routes/watch", |_, _| {}).await;
    let WatchEnded::Call(CallError::Refused(problem)) = ended else { panic!("{ended}") };
    assert_eq!((problem.status, problem.code.as_str()), (401, "unauthenticated"));
}
