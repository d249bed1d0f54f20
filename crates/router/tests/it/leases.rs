//! The router sends a tenant requests only under a lease, and holds the lease only while the tenant
//! is in use.

use protocol::leases::RequestIntent;
use protocol::orchestrator::Upstream;
use protocol::response_counts::ResponseCount;
use protocol::spec::Desired;
use protocol::{State, TenantId};

use crate::harness::{Client, Running, TempDir, eventually};
use crate::orchestrator::Mode;
use crate::tenant::Tenant;

const WS: &str = "GET /ws HTTP/1.1\r\nHost: acme.localhost\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\
    Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

#[test]
fn the_first_request_requests_a_lease_and_the_next_ones_do_not() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    for _ in 0..20 {
        assert_eq!(router.get("acme.localhost", "/").status, 200);
    }
    let requests = router.orchestrator().lease_requests();
    assert_eq!(requests.len(), 1);
    assert_eq!(
        (requests[0].tenant, requests[0].intent, requests[0].number),
        (acme.id, RequestIntent::Visit, 1)
    );
    eventually("it is counted", || router.metric("cial_router_leases") == "1");
}

#[test]
fn a_lease_is_held_to_the_last_byte_of_the_answer_and_released_after_its_linger() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("half");
    // The request is longer than the lease and its linger: each renewal reports a request in
    // flight.
    eventually("the lease is renewed", || router.orchestrator().renewals().len() >= 4);
    let renewals = router.orchestrator().renewals();
    assert!(renewals.iter().all(|r| r.requests == 1 && r.idle_ms == 0), "{renewals:?}");
    assert!(router.orchestrator().releases().is_empty());
    acme.cue();
    client.until("half");
    eventually("the lease is released", || router.orchestrator().releases().len() == 1);
    let release = router.orchestrator().releases().remove(0);
    assert_eq!((release.tenant, release.requests, release.number), (acme.id, 0, 1));
    assert!(release.idle_ms >= 100, "{release:?}");

    assert_eq!(router.get("acme.localhost", "/").status, 200);
    let requests = router.orchestrator().lease_requests();
    assert_eq!((requests.len(), requests[1].number), (2, 2), "a new lease, of a new number");
}

#[test]
fn a_websocket_keeps_its_tenant_awake_by_data_and_not_by_being_open() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send(WS);
    client.until("\r\n\r\n");
    client.send("\u{82}\u{5}hello".chars().map(|c| c as u8).collect::<Vec<_>>());
    client.until("hello");
    eventually("the lease is released", || router.orchestrator().releases().len() == 1);
    let release = router.orchestrator().releases().remove(0);
    assert_eq!((release.requests, release.streams), (0, 1));

    // The tenant freezes. A ping passes without a lease request; data waits until the thaw.
    router.orchestrator().set_mode(acme.id, Mode::Frozen);
    client.send([0x89, 0x02, b'p', b'i']);
    client.until("pi");
    assert_eq!(router.orchestrator().lease_requests().len(), 1);
    client.send([0x82, 0x02, b'g', b'o']);
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 2);
    assert_eq!(router.orchestrator().lease_requests()[1].intent, RequestIntent::Background);
    client.stream.set_nonblocking(true).unwrap();
    assert!(client.stream.peek(&mut [0]).is_err(), "nothing passed yet");
    client.stream.set_nonblocking(false).unwrap();
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    client.until("go");

    // The router renews the lease while data flows.
    let before = router.orchestrator().renewals().len();
    eventually("the lease is renewed", || {
        client.send([0x82, 0x01, b'x']);
        client.until("x");
        router.orchestrator().renewals().len() > before + 1
    });
    assert_eq!(router.orchestrator().lease_requests().len(), 2);
}

#[test]
fn a_websocket_whose_tenant_was_stopped_ends() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send(WS);
    client.until("\r\n\r\n");
    eventually("the lease is released", || router.orchestrator().releases().len() == 1);
    router.orchestrator().set_mode(acme.id, Mode::Refused("tenant_stopped"));
    client.send([0x82, 0x02, b'g', b'o']);
    assert_eq!(client.rest(), [0x88, 0x02, 0x03, 0xe9]);
}

#[test]
fn an_event_stream_keeps_its_tenant_awake_while_events_come() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send("GET /sse HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("data: first\n\n");
    let before = router.orchestrator().renewals().len();
    eventually("the lease is renewed", || {
        acme.cue();
        client.until("data: more\n\n");
        router.orchestrator().renewals().len() > before + 1
    });
    assert_eq!(router.orchestrator().lease_requests().len(), 1);
    eventually("the lease is released", || router.orchestrator().releases().len() == 1);
    let release = router.orchestrator().releases().remove(0);
    assert_eq!((release.requests, release.streams), (0, 1), "open, and quiet");
}

#[test]
fn stream_data_after_the_end_of_a_lease_requests_the_next() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send("GET /sse HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("data: first\n\n");
    for round in 1..4 {
        // The stream is silent for as long as a lease lingers.
        eventually("the lease is released", || router.orchestrator().releases().len() == round);
        assert_eq!(router.orchestrator().lease_requests().len(), round);
        acme.cue();
        client.until("data: more\n\n");
        eventually("a lease is requested", || {
            router.orchestrator().lease_requests().len() == round + 1
        });
        assert_eq!(router.orchestrator().lease_requests()[round].intent, RequestIntent::Background);
    }
    // Only a lease that was granted is released.
    eventually("the last lease is released", || router.orchestrator().releases().len() == 4);
}

#[test]
fn a_stream_whose_lease_is_lost_requests_another_with_its_next_data() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 600);
    let mut client = Client::connect(router.public);
    client.send("GET /sse HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("data: first\n\n");
    let more = |client: &mut Client| {
        acme.cue();
        client.until("data: more\n\n");
    };
    // The orchestrator restarted, and knows of no lease.
    router.orchestrator().set_grants_renewals(false);
    eventually("its renewal is refused", || {
        more(&mut client);
        !router.orchestrator().renewals().is_empty()
    });
    router.orchestrator().set_grants_renewals(true);
    let before = router.orchestrator().renewals().len();
    eventually("another is asked for, and renewed", || {
        more(&mut client);
        router.orchestrator().lease_requests().len() > 1
            && router.orchestrator().renewals().len() > before
    });
    assert_eq!(router.orchestrator().lease_requests()[1].intent, RequestIntent::Background);
    eventually("the tenant is leased", || {
        more(&mut client);
        router.metric("cial_router_leases") == "1"
    });
}

#[test]
fn an_event_stream_that_answers_a_post_is_work_also_while_it_says_nothing() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send("POST /sse HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 0\r\n\r\n");
    client.until("data: first\n\n");
    // The request is longer than the lease and its linger.
    eventually("the lease is renewed", || router.orchestrator().renewals().len() >= 4);
    let renewals = router.orchestrator().renewals();
    assert!(renewals.iter().all(|r| (r.requests, r.streams) == (1, 0)), "{renewals:?}");
    assert!(router.orchestrator().releases().is_empty());
}

#[test]
fn what_a_lease_says_wins_over_the_table() {
    let folder = TempDir::new("router").unwrap();
    let (acme, moved) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "moved"));
    moved.listen(acme.id);
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let there = moved.running().upstream.unwrap();
    router.orchestrator().set_upstream(acme.id, 2, there);
    for _ in 0..20 {
        let response = router.get("acme.localhost", "/");
        assert!(response.body.starts_with("Tenant moved\n"), "{response:?}");
    }
    assert!(acme.heads().is_empty());
    assert_eq!(router.orchestrator().lease_requests().len(), 1);
}

#[test]
fn a_lease_that_is_lost_is_asked_for_anew() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    router.orchestrator().set_terms(3_000, 100);
    let mut client = Client::connect(router.public);
    client.send("GET /drip HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    client.until("half");
    router.orchestrator().set_grants_renewals(false);
    // The new lease request is for the request in flight, which wakes no tenant.
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() >= 2);
    assert_eq!(router.orchestrator().lease_requests()[1].intent, RequestIntent::Background);
    router.orchestrator().set_grants_renewals(true);
    acme.cue();
    client.until("half");
    assert_eq!(router.get("acme.localhost", "/").status, 200);
}

#[test]
fn a_router_that_ends_gives_back_what_it_holds() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let control = crate::harness::Control::start(1);
    control.feed.put(acme.running());
    let orchestrator = crate::orchestrator::FakeOrchestrator::start(&control.feed);
    let router = Running::with(control.address, &folder, |settings| {
        settings.orchestrator = orchestrator.url();
    });
    router.knows(control.feed.revision());
    assert_eq!(router.get("acme.localhost", "/").status, 200);
    router.end();
    let releases = orchestrator.releases();
    assert_eq!((releases.len(), releases[0].tenant), (1, acme.id));
}

#[test]
fn a_tenant_with_the_name_and_the_socket_of_another_never_gets_its_requests() {
    never_gets_its_requests(|a, b| {
        let upstream = a.running().upstream.unwrap();
        a.listen(b);
        upstream
    });
}

#[test]
fn a_tenant_with_the_name_and_the_port_of_another_never_gets_its_requests() {
    never_gets_its_requests(Tenant::listen_at_port);
}

/// `take` puts tenant B at the place of tenant A and returns its upstream.
fn never_gets_its_requests(take: impl Fn(&Tenant, TenantId) -> Upstream) {
    let folder = TempDir::new("router").unwrap();
    let a = Tenant::new(&folder, 1, "acme");
    let b = TenantId::new(uuid::Uuid::from_u128(2));
    let mut route = a.running();
    route.upstream = Some(take(&a, b));
    let (control, router) = Running::knowing(vec![route.clone()], &folder);
    // A is gone; B has its slug and its place. The router has not received the change.
    let before = control.snapshots();
    let response = router.get("acme.localhost", "/");
    assert_eq!((response.status, response.code().as_str()), (502, "upstream_malformed"));
    assert!(!response.body.contains("Tenant"), "{response:?}");
    eventually("the router lists anew", || control.snapshots() > before);

    // Now the router receives the change.
    route.tenant = b;
    control.feed.replace(vec![route]);
    router.knows(control.feed.revision());
    assert_eq!(router.get("acme.localhost", "/").status, 200);
    let token = service::keys::route_token(&crate::harness::master(), b);
    assert!(a.heads().last().unwrap().contains(&token), "with B's own token");
}

#[test]
fn a_generation_that_the_table_does_not_know_makes_the_router_list_anew() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    let before = control.snapshots();
    router.orchestrator().set_upstream(acme.id, 2, acme.running().upstream.unwrap());
    assert_eq!(router.get("acme.localhost", "/").status, 200);
    eventually("the router lists anew", || control.snapshots() > before);
}

#[test]
fn a_tenant_that_died_is_asked_once_more_where_nothing_can_be_done_twice() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let count = |path: &str| acme.heads().iter().filter(|head| head.contains(path)).count();
    assert_eq!(router.get("acme.localhost", "/die-once").status, 200);
    assert_eq!((count("/die-once"), router.orchestrator().lease_requests().len()), (2, 2));
    assert_eq!(router.metric("cial_router_retries_total"), "1");

    let response = router.get("acme.localhost", "/die");
    assert_eq!((response.status, response.code().as_str()), (502, "upstream_cut_off"));
    // The router tries an idle connection, a new one, and once more under a new lease.
    assert!((2..=3).contains(&count("/die ")), "not for ever");

    let posts = router
        .send("POST /die?post HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!((posts.status, posts.code().as_str()), (502, "upstream_cut_off"));
    assert_eq!(count("/die?post"), 1);

    let late = router.get("acme.localhost", "/die-late");
    assert_eq!((late.status, late.code().as_str()), (502, "upstream_cut_off"));
    assert_eq!(count("/die-late"), 1, "it had begun to respond");
}

#[test]
fn a_request_waits_for_a_tenant_that_comes_back_after_it_died() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::kept(vec![acme.running()], &folder, |settings| {
        settings.wait_times.after_tenant_failure = std::time::Duration::from_secs(20);
    });
    let mut client = Client::connect(router.public);
    client.send("GET /late HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    eventually("it is there", || acme.heads().len() == 1);
    // The tenant dies, and its orchestrator has not noticed: the lease leads to a socket without a
    // listener.
    acme.vanish();
    acme.cue();
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() >= 2);
    // The orchestrator has noticed, and the tenant is starting.
    router.orchestrator().set_mode(acme.id, Mode::Refused("tenant_not_running"));
    let before = router.orchestrator().lease_requests().len();
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() > before);
    assert_eq!(acme.heads().len(), 1);
    acme.listen(acme.id);
    acme.cue();
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    // The second attempt gets no response either, and is the last.
    assert_eq!(client.response().code(), "upstream_cut_off");
    assert_eq!(acme.heads().len(), 2);
}

#[test]
fn a_request_whose_tenant_died_waits_for_a_slow_wake_as_any_other_would() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::kept(vec![acme.running()], &folder, |settings| {
        settings.wait_times.after_tenant_failure = std::time::Duration::from_millis(50);
    });
    let mut client = Client::connect(router.public);
    client.send("GET /late-once HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    eventually("it is there", || acme.heads().len() == 1);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    acme.cue();
    // The router probes the orchestrator in each second that the wake takes.
    eventually("a probe arrives", || router.orchestrator().probes() > 1);
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    assert_eq!(client.response().status, 200);
    assert_eq!(acme.heads().len(), 2);

    // The router does not wait for a tenant without a wake in progress.
    acme.vanish();
    router.orchestrator().set_mode(acme.id, Mode::Refused("tenant_not_running"));
    eventually("it is gone", || router.get("acme.localhost", "/").status == 502);
}

#[test]
fn a_request_that_nobody_took_is_sent_where_the_tenant_is_now() {
    let folder = TempDir::new("router").unwrap();
    let (acme, moved) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "moved"));
    moved.listen(acme.id);
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let mut pooled = Client::connect(router.public);
    pooled.send("GET / HTTP/1.1\r\nHost: acme.localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(pooled.response().status, 200);
    acme.vanish();
    router.orchestrator().set_upstream(acme.id, 2, moved.running().upstream.unwrap());
    // No byte of the request went out, so a body is no obstacle. Idle connections from before may
    // still exist.
    eventually("it is sent there", || {
        let post = "POST / HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 2\r\n\r\nhi";
        let response = router.send(post);
        assert_eq!(response.status, 200, "{response:?}");
        response.body.starts_with("Tenant moved\n")
    });
    assert_eq!(router.metric("cial_router_moves_total"), "1");
}

#[test]
fn the_first_byte_after_a_wake_is_reported_once() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    router.orchestrator().set_terms(3_000, 100);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    std::thread::scope(|scope| {
        let asking = scope.spawn(|| router.get("acme.localhost", "/"));
        eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 1);
        router.orchestrator().set_mode(acme.id, Mode::Awake);
        assert_eq!(asking.join().unwrap().status, 200);
    });
    eventually("the lease is released", || router.orchestrator().releases().len() == 1);
    let usages =
        router.orchestrator().renewals().into_iter().chain(router.orchestrator().releases());
    assert_eq!(usages.filter(|used| used.first_byte_ms.is_some()).count(), 1);
}

#[test]
fn the_responses_of_the_tenants_that_a_rollout_moved_are_reported() {
    let folder = TempDir::new("router").unwrap();
    let (acme, globex) = (Tenant::new(&folder, 1, "acme"), Tenant::new(&folder, 2, "globex"));
    let (control, router) = Running::knowing(vec![acme.running(), globex.running()], &folder);
    for host in ["acme.localhost", "globex.localhost"] {
        assert_eq!(router.get(host, "/").status, 200);
    }
    *control.responses().counted.lock().unwrap() = vec![acme.id];
    let sums = || {
        let reported = control.responses().reported.lock().unwrap();
        assert!(reported.iter().all(|c| (c.tenant, c.generation) == (acme.id, 1)), "{reported:?}");
        let sum = |count: fn(&ResponseCount) -> u64| reported.iter().map(count).sum::<u64>();
        (sum(|count| count.responses), sum(|count| count.server_errors))
    };
    eventually("what was before is counted, too", || sums() == (1, 0));
    assert_eq!(router.get("acme.localhost", "/die").status, 502);
    eventually("a tenant that does not answer failed", || sums() == (2, 1));
}
