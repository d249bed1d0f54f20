//! The router's memory of a tenant at rest, and the bound on held requests.

use std::time::Duration;

use protocol::State;
use protocol::spec::Desired;
use testkit::clock::now;

use crate::harness::{Client, REFUSAL_TTL, Running, TempDir, allowed_since, eventually};
use crate::orchestrator::Mode;
use crate::tenant::Tenant;

/// The shortest time between two lease requests of visitors who retry.
const MIN_WAKE_RETRY_INTERVAL: Duration = Duration::from_secs(3);
const PAGE: &str = "GET / HTTP/1.1\r\nHost: acme.localhost\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n\r\n";
const RETRY: &str = "POST /.cial/wake?to=/ HTTP/1.1\r\nHost: acme.localhost\r\nSec-Fetch-Mode: navigate\r\n\
    Accept: text/html\r\nContent-Length: 0\r\n\r\n";
const WS: &str = "GET /ws HTTP/1.1\r\nHost: acme.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn tunnels_of_a_tenant_at_rest_wait_for_it_in_one_place() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::kept(vec![acme.running()], &folder, |settings| {
        // One held request per thread.
        settings.limits.max_waiters = 2;
    });
    router.orchestrator().set_terms(3_000, 100);
    let mut clients: Vec<_> = (0..8).map(|_| Client::connect(router.public)).collect();
    for client in &mut clients {
        client.send(WS);
        client.until("\r\n\r\n");
    }
    let orchestrator = router.orchestrator();
    eventually("the lease is released", || {
        let (requests, releases) =
            (orchestrator.lease_requests().len(), orchestrator.releases().len());
        releases == requests && router.metric("cial_router_leases") == "0"
    });
    let before = router.orchestrator().lease_requests().len();
    router.orchestrator().set_mode(acme.id, Mode::Frozen);
    for client in &mut clients {
        client.send([0x82, 0x02, b'g', b'o']);
    }
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() > before);
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    clients.iter_mut().for_each(|client| drop(client.until("go")));
}

#[test]
fn a_failed_wake_is_over_once_its_tenant_runs() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (control, router) = Running::knowing(vec![route], &folder);
    router.orchestrator().set_mode(acme.id, Mode::Failed("Its image is gone."));
    assert_eq!(router.get("acme.localhost", "/").code(), "wake_failed");
    // The owner has started the tenant.
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    control.feed.put(acme.running());
    router.knows(control.feed.revision());
    assert_eq!(router.get("acme.localhost", "/").status, 200);
}

#[test]
fn a_visitor_who_retries_again_and_again_causes_a_request_once_in_a_while() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    router.orchestrator().set_mode(acme.id, Mode::Failed("Its image is gone."));
    assert_eq!(router.send(PAGE).status, 503);
    let start = now();
    for _ in 0..3 {
        assert_eq!(router.send(RETRY).status, 303);
        eventually("a lease is requested", || router.orchestrator().lease_requests().len() >= 2);
        // This response proves that the router has the refusal: this request causes no call.
        assert_eq!(router.send(PAGE).status, 503);
    }
    let requests = router.orchestrator().lease_requests().len();
    assert!(
        requests <= allowed_since(start, MIN_WAKE_RETRY_INTERVAL),
        "{requests} for three retries"
    );
}

#[test]
fn a_wake_that_nobody_waited_for_has_no_first_byte() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    router.orchestrator().set_terms(3_000, 2_000);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    assert_eq!(router.send(RETRY).status, 303);
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 1);
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    eventually("the tenant is leased", || router.metric("cial_router_leases") == "1");
    assert_eq!(router.get("acme.localhost", "/").status, 200);
    eventually("the lease is released", || router.orchestrator().releases().len() == 1);
    let usages =
        router.orchestrator().renewals().into_iter().chain(router.orchestrator().releases());
    assert_eq!(usages.filter(|used| used.first_byte_ms.is_some()).count(), 0);
}

#[test]
fn what_died_under_a_poll_is_not_woken_for_it() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_mode(acme.id, Mode::Frozen);
    let mut client = Client::connect(router.public);
    client.send("GET /late HTTP/1.1\r\nHost: acme.localhost\r\nSec-Fetch-Mode: cors\r\n\r\n");
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 1);
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    eventually("it is there", || acme.heads().len() == 1);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    acme.cue();
    assert_eq!(client.response().code(), "wake_required");
}

#[test]
fn what_is_under_way_of_one_generation_keeps_the_lease_of_the_next() {
    let folder = TempDir::new("router").unwrap();
    let (acme, moved) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "moved"));
    moved.listen(acme.id);
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("half");
    let mut next = acme.running();
    (next.generation, next.upstream) = (2, moved.running().upstream);
    control.feed.put(next);
    router.knows(control.feed.revision());
    assert!(router.get("acme.localhost", "/").body.starts_with("Tenant moved\n"));
    let (before, releases) =
        (router.orchestrator().renewals().len(), router.orchestrator().releases().len());
    eventually("the lease is renewed", || router.orchestrator().renewals().len() >= before + 4);
    assert!(router.orchestrator().renewals()[before..].iter().all(|used| used.requests == 1));
    assert_eq!(router.orchestrator().releases().len(), releases);
    acme.cue();
    client.until("half");
    eventually("the lease is released", || router.orchestrator().releases().len() > releases);
}

#[test]
fn polls_of_a_tenant_that_starts_cost_no_call_each() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let starting = acme.route(State::Starting, Desired::Running);
    let (control, router) = Running::knowing(vec![starting.clone()], &folder);
    router.orchestrator().set_mode(acme.id, Mode::Refused("tenant_not_running"));
    let start = now();
    let polls = || (0..30).for_each(|_| assert_eq!(router.send(PAGE).status, 503));
    polls();
    let requests = router.orchestrator().lease_requests().len();
    assert!((1..allowed_since(start, REFUSAL_TTL)).contains(&requests), "{requests} for 30 polls");
    // The next table makes the remembered refusal outdated.
    let other = Tenant::new(&folder, 2, "other");
    control.feed.put(other.running());
    router.knows(control.feed.revision());
    eventually("a lease is requested", || {
        router.send(PAGE);
        router.orchestrator().lease_requests().len() > requests
    });
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    control.feed.put(starting.clone());
    control.feed.put(protocol::routes::Route { generation: 2, ..starting });
    eventually("it is served", || router.send(PAGE).status == 200);
}
