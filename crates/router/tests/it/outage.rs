//! Outages of the orchestrator and of app-api.

use std::time::Duration;

use protocol::State;
use protocol::spec::Desired;

use service::Secret;

use crate::harness::{Client, Running, TempDir, eventually, nowhere};
use crate::orchestrator::{FakeOrchestrator, Mode};
use crate::tenant::Tenant;

#[test]
fn without_an_orchestrator_what_runs_is_served_and_what_sleeps_is_not() {
    let folder = TempDir::new("router").unwrap();
    let (acme, other) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "other"));
    let routes = vec![acme.running(), other.route(State::Sleeping, Desired::Running)];
    let (control, mut router) = Running::kept(routes, &folder, |settings| {
        settings.limits.outage_grace = Duration::ZERO;
    });
    let address = router.stop_orchestrator();
    for _ in 0..3 {
        assert_eq!(router.get("acme.localhost", "/").status, 200);
        let response = router.get("other.localhost", "/");
        assert_eq!((response.status, response.code().as_str()), (503, "wake_unavailable"));
        assert!(response.has("retry-after: "), "{response:?}");
    }
    let page = router.send(
        "GET / HTTP/1.1\r\nHost: other.localhost\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n\r\n",
    );
    assert!(page.status == 503 && page.has("refresh: ") && page.body.contains("<h1>Asleep</h1>"));
    assert_eq!(router.metric("cial_router_unleased_total"), "3");
    assert_eq!(router.metric("cial_router_orchestrator_up"), "0");
    assert!(other.heads().is_empty());

    // The orchestrator is back: tenants in use are leased again.
    router.set_orchestrator(FakeOrchestrator::at(address, &control.feed));
    eventually("the tenant is leased", || {
        assert_eq!(router.get("acme.localhost", "/").status, 200);
        router.metric("cial_router_leases") == "1"
    });
    assert_eq!(router.metric("cial_router_orchestrator_up"), "1");
    let unleased = router.metric("cial_router_unleased_total");
    assert_eq!(router.get("acme.localhost", "/").status, 200);
    assert_eq!(router.metric("cial_router_unleased_total"), unleased);
}

#[test]
fn a_request_under_way_is_leased_as_soon_as_there_is_somebody_to_ask() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (control, mut router) = Running::knowing(vec![acme.running()], &folder);
    let address = router.stop_orchestrator();
    let mut client = Client::connect(router.public);
    client.send("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("half");
    router.set_orchestrator(FakeOrchestrator::at(address, &control.feed));
    eventually("the tenant is leased", || {
        router.orchestrator().lease_requests().iter().any(|request| request.tenant == acme.id)
    });
    acme.cue();
    client.until("half");
}

#[test]
fn a_request_without_a_lease_is_asked_once_more_where_nothing_can_be_done_twice() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, mut router) = Running::knowing(vec![acme.running()], &folder);
    router.stop_orchestrator();
    let count = |path: &str| acme.heads().iter().filter(|head| head.contains(path)).count();
    assert_eq!(router.get("acme.localhost", "/die-once").status, 200);
    assert_eq!(count("/die-once"), 2);
    assert_eq!(router.metric("cial_router_retries_total"), "1");
    let post = router
        .send("POST /die?post HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((post.status, post.code().as_str()), (502, "upstream_cut_off"));
    assert_eq!(count("/die?post"), 1);
}

#[test]
fn an_orchestrator_that_hangs_is_no_better_than_none() {
    let folder = TempDir::new("router").unwrap();
    let (acme, other) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "other"));
    let routes = vec![acme.running(), other.route(State::Sleeping, Desired::Running)];
    // The listener accepts connections and never sends a byte.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let (_control, router) = Running::kept(routes, &folder, |settings| {
        settings.orchestrator = url;
        settings.limits.outage_grace = Duration::ZERO;
    });
    assert_eq!(router.get("acme.localhost", "/").status, 200);
    assert_eq!(router.metric("cial_router_unleased_total"), "1");
    assert_eq!(router.metric("cial_router_orchestrator_up"), "0");
    assert_eq!(router.get("other.localhost", "/").code(), "wake_unavailable");
}

#[test]
fn an_orchestrator_that_knows_nobody_yet_is_no_better_than_none() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_listed(false);
    for _ in 0..3 {
        assert_eq!(router.get("acme.localhost", "/").status, 200);
    }
    assert_eq!(router.metric("cial_router_unleased_total"), "3");
    assert_eq!(router.metric("cial_router_orchestrator_up"), "0");
    router.orchestrator().set_listed(true);
    eventually("the tenant is leased", || router.metric("cial_router_leases") == "1");
    assert_eq!(router.metric("cial_router_orchestrator_up"), "1");
}

#[test]
fn a_request_for_a_sleeping_tenant_waits_through_a_restart_of_the_orchestrator() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (control, mut router) = Running::knowing(vec![route], &folder);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    let mut client = Client::connect(router.public);
    client.send("GET / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 1);
    // The orchestrator reports that it is shutting down; then no orchestrator listens; then the
    // next one starts.
    router.orchestrator().set_mode(acme.id, Mode::Refused("leaving"));
    eventually("a lease is requested again", || router.orchestrator().lease_requests().len() > 2);
    assert_eq!(router.metric("cial_router_orchestrator_up"), "0");
    let address = router.stop_orchestrator();
    let mut late = Client::connect(router.public);
    late.send("GET / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    eventually("both wait", || router.metric("cial_router_held_requests_current") == "2");
    let orchestrator = FakeOrchestrator::at(address, &control.feed);
    orchestrator.set_mode(acme.id, Mode::Awake);
    router.set_orchestrator(orchestrator);
    assert_eq!((client.response().status, late.response().status), (200, 200));
    assert_eq!(router.metric("cial_router_unleased_total"), "0");
}

#[test]
fn an_orchestrator_that_takes_no_call_of_ours_is_not_away() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::kept(vec![acme.running()], &folder, |settings| {
        settings.leases_token = Secret::new("another-Vd8mQ0zXc5hYt1rKp7sLw2uBn6");
    });
    // The orchestrator goes on freezing tenants without a lease, so the router sends nothing
    // without a lease.
    for _ in 0..3 {
        let response = router.get("acme.localhost", "/");
        assert_eq!((response.status, response.code().as_str()), (503, "wake_unavailable"));
    }
    assert!(acme.heads().is_empty());
    assert_eq!(router.metric("cial_router_orchestrator_up"), "1");
    let mut client = Client::connect(router.internal);
    client.send("GET /readyz HTTP/1.1\r\nHost: router:8081\r\n\r\n");
    let ready = client.response();
    assert_eq!((ready.status, ready.code().as_str()), (503, "waiting"));
    assert!(ready.body.contains("\"orchestrator: "), "{ready:?}");
}

#[test]
fn a_long_wake_is_not_taken_for_silence() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    let mut client = Client::connect(router.public);
    client.send("GET / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    eventually("a probe arrives", || router.orchestrator().probes() >= 2);
    assert_eq!(router.metric("cial_router_held_requests_current"), "1");
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    assert_eq!(client.response().status, 200);
    assert_eq!(router.orchestrator().lease_requests().len(), 1);
}

#[test]
fn a_lease_outlives_the_orchestrator_for_its_time_and_tunnels_go_on_after() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, mut router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send(
        "GET /ws HTTP/1.1\r\nHost: acme.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n",
    );
    client.until("\r\n\r\n");
    router.stop_orchestrator();
    eventually("the loss is known", || {
        client.send([0x82, 0x01, b'x']);
        client.until("x");
        router.metric("cial_router_orchestrator_up") == "0"
    });
    eventually("the lease is over", || {
        client.send([0x82, 0x01, b'x']);
        client.until("x");
        router.metric("cial_router_leases") == "0"
    });
    assert_eq!(router.get("acme.localhost", "/").status, 200);
}

#[test]
fn without_app_api_a_sleeping_tenant_wakes_where_its_lease_says() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let mut route = acme.route(State::Sleeping, Desired::Running);
    route.upstream = None;
    let (control, router) = Running::knowing(vec![route], &folder);
    let revision = control.feed.revision();
    let kept = format!("\"revision\":{revision},");
    let cache = folder.path().join("routes.json");
    eventually("the table is on disk", || {
        std::fs::read_to_string(&cache).is_ok_and(|text| text.contains(&kept))
    });
    router.end();

    let orchestrator = FakeOrchestrator::start(&control.feed);
    orchestrator.set_mode(acme.id, Mode::Awake);
    orchestrator.set_upstream(acme.id, 1, acme.running().upstream.unwrap());
    control.end();
    let router =
        Running::with(nowhere(), &folder, |settings| settings.orchestrator = orchestrator.url());
    for _ in 0..20 {
        assert_eq!(router.get("acme.localhost", "/").status, 200);
    }
    assert_eq!(orchestrator.lease_requests().len(), 1);
    assert_eq!(router.metric("cial_router_unleased_total"), "0");
}
