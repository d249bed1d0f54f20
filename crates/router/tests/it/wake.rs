//! Which requests wake a tenant, how long a request waits, and which response a refused request
//! gets.

use std::io::Write as _;
use std::time::Duration;

use protocol::State;
use protocol::leases::{RequestIntent, WakeStep};
use protocol::spec::Desired;
use testkit::clock::now;

use crate::harness::{Client, Control, REFUSAL_TTL, Running, TempDir, allowed_since, eventually};
use crate::orchestrator::Mode;
use crate::tenant::Tenant;

const PAGE: &str = "Sec-Fetch-Mode: navigate\r\nAccept: text/html\r\n";
const POLL: &str = "Sec-Fetch-Mode: cors\r\nCookie: cial_session=x\r\n";

/// Starts a sleeping tenant, and a router with these wait limits for pages and for other requests.
fn asleep(folder: &TempDir, pages: u64, others: u64) -> (Tenant, Control, Running) {
    let acme = Tenant::new(folder, 1, "acme");
    let mut route = acme.route(State::Sleeping, Desired::Running);
    route.upstream = None;
    let (control, router) = Running::kept(vec![route], folder, |settings| {
        settings.wait_times.pages = Duration::from_millis(pages);
        settings.wait_times.others = Duration::from_millis(others);
        settings.limits.max_waiters_per_tenant = 2;
        settings.limits.watchers_per_tenant = 2;
    });
    router.orchestrator().set_upstream(acme.id, 1, acme.running().upstream.unwrap());
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    (acme, control, router)
}

fn get(path: &str, lines: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nHost: acme.localhost\r\n{lines}\r\n")
}

#[test]
fn a_request_is_held_until_its_tenant_is_awake_and_then_served() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    // The lease ends soon, so that the next request finds none.
    router.orchestrator().set_terms(3_000, 100);
    for lines in [PAGE, "", "Authorization: Bearer x\r\nSec-Fetch-Mode: cors\r\n"] {
        router.orchestrator().set_mode(acme.id, Mode::Sleeping);
        let before = router.orchestrator().lease_requests().len();
        let mut client = Client::connect(router.public);
        client.send(get("/", lines));
        eventually("a lease is requested", || {
            router.orchestrator().lease_requests().len() == before + 1
        });
        assert_eq!(router.orchestrator().lease_requests()[before].intent, RequestIntent::Visit);
        eventually("it is held", || router.metric("cial_router_held_requests_current") == "1");
        router.orchestrator().set_mode(acme.id, Mode::Awake);
        assert_eq!(client.response().status, 200, "{lines}");
        assert_eq!(router.metric("cial_router_held_requests_current"), "0");
        eventually("the lease is released", || {
            router.orchestrator().releases().len() == before + 1
        });
    }
}

#[test]
fn a_page_that_waits_for_long_is_replaced_by_one_that_says_so() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 50, 20_000);
    let page = router.send(&get("/a?b=c", PAGE));
    assert_eq!(page.status, 503);
    for line in ["cache-control: no-store", "x-robots-tag: noindex", "retry-after: 2", "refresh: 3"]
    {
        assert!(page.has(line), "{line}: {page:?}");
    }
    assert!(page.has("content-type: text/html") && page.body.contains("<h1>Waking up</h1>"));
    assert!(!page.body.contains("acme"), "{page:?}");
    assert_eq!(router.metric("cial_router_waiting_pages_total"), "1");
    assert_eq!(router.metric("cial_router_refusals_total{reason=\"waking\"}"), "1");
    // The client returns to the same address, and joins the wake in progress.
    router.send(&get("/a?b=c", PAGE));
    assert_eq!(router.orchestrator().lease_requests().len(), 1);
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    eventually("it is there", || router.send(&get("/a?b=c", PAGE)).status == 200);
}

#[test]
fn a_program_that_waits_for_too_long_hears_when_to_come_back() {
    let folder = TempDir::new("router").unwrap();
    let (_acme, _control, router) = asleep(&folder, 20_000, 50);
    let response = router.send(&get("/", ""));
    assert_eq!((response.status, response.code().as_str()), (503, "waking"));
    assert!((2..8).contains(&pause(&response)), "{response:?}");
    let form = "POST / HTTP/1.1\r\nHost: acme.localhost\r\nSec-Fetch-Mode: navigate\r\nAccept: text/html\r\n\
        Content-Length: 0\r\n\r\n";
    assert_eq!(
        router.send(form).code(),
        "waking",
        "what it sent would be lost by a page that moves on"
    );
}

#[test]
fn a_refused_client_learns_how_many_wakes_are_before() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    router.orchestrator().set_mode(acme.id, Mode::Behind("waking", 30));
    let response = router.send(&get("/", ""));
    assert_eq!((response.status, response.code().as_str()), (503, "waking"));
    assert!(response.body.contains("30 wakes are before it."), "{response:?}");
    assert!((5..11).contains(&pause(&response)), "{response:?}");
    let page = router.send(&get("/", PAGE));
    assert!(page.body.contains("role=\"status\">30 wakes are before it.</p>"), "{page:?}");

    router.orchestrator().set_mode(acme.id, Mode::Behind("wake_queue_full", 300));
    let response = router.send(&get("/", ""));
    assert_eq!((response.status, response.code().as_str()), (503, "wake_queue_full"));
    assert!(response.body.contains("300 requests wait already"), "{response:?}");
    assert!((25..31).contains(&pause(&response)), "{response:?}");
}

/// Returns `Retry-After` in seconds.
fn pause(response: &crate::harness::Response) -> u32 {
    let head = response.head.to_ascii_lowercase();
    let value = head.lines().find_map(|line| line.strip_prefix("retry-after: ")).unwrap();
    value.parse().unwrap()
}

#[test]
fn what_happens_in_the_background_wakes_nobody_who_sleeps() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    let start = now();
    for lines in [POLL, "Purpose: prefetch\r\n"] {
        let response = router.send(&get("/", lines));
        assert_eq!((response.status, response.code().as_str()), (503, "wake_required"), "{lines}");
        assert!(
            response.has("x-wake-required: 1") && response.has("retry-after: 30"),
            "{response:?}"
        );
    }
    let mut client = Client::connect(router.public);
    client.send("HEAD / HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    let head = client.until("\r\n\r\n");
    assert!(head.starts_with("HTTP/1.1 503 ") && head.contains("x-wake-required: 1"), "{head}");
    let ws = "GET /ws HTTP/1.1\r\nHost: acme.localhost\r\nOrigin: http://acme.localhost\r\nConnection: Upgrade\r\n\
        Upgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";
    assert_eq!(router.send(ws).code(), "wake_required");
    router.orchestrator().assert_no_visit();
    let requests = router.orchestrator().lease_requests().len();
    let allowed = allowed_since(start, REFUSAL_TTL);
    assert!(requests < allowed, "{requests}: a known refusal, so polls are no lease requests");

    // A visit does not wait for that.
    let mut client = Client::connect(router.public);
    client.send(get("/", PAGE));
    eventually("a lease is requested", || {
        router
            .orchestrator()
            .lease_requests()
            .last()
            .is_some_and(|request| request.intent == RequestIntent::Visit)
    });
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_visit_that_joins_the_request_of_a_poll_wakes_the_tenant() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    router.orchestrator().set_mode(acme.id, Mode::Frozen);
    let (mut poll, mut visit) = (Client::connect(router.public), Client::connect(router.public));
    poll.send(get("/", POLL));
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 1);
    visit.send(get("/", PAGE));
    eventually("both wait", || router.metric("cial_router_held_requests_current") == "2");
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    assert_eq!(poll.response().code(), "wake_required");
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 2);
    assert_eq!(router.orchestrator().lease_requests()[1].intent, RequestIntent::Visit);
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    assert_eq!(visit.response().status, 200);
}

#[test]
fn a_frozen_tenant_wakes_for_anybody() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    router.orchestrator().set_mode(acme.id, Mode::Frozen);
    let mut client = Client::connect(router.public);
    client.send(get("/", POLL));
    eventually("a lease is requested", || router.orchestrator().lease_requests().len() == 1);
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    assert_eq!(client.response().status, 200);
}

#[test]
fn a_thousand_requests_at_once_are_one_lease_request() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    let mut clients: Vec<_> = (0..1_000).map(|_| Client::connect(router.public)).collect();
    for client in &mut clients {
        client.send(get("/", ""));
    }
    eventually("all wait", || router.metric("cial_router_held_requests_current") == "1000");
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    assert!(clients.iter_mut().all(|client| client.response().status == 200));
    assert_eq!(router.orchestrator().lease_requests().len(), 1);
    assert_eq!(router.metric("cial_router_held_requests_current"), "0");
}

#[test]
fn a_body_is_not_read_before_its_tenant_is_awake() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    let mut client = Client::connect(router.public);
    let body = vec![b'x'; 16 << 20];
    let head = format!(
        "POST / HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    client.send(head);
    eventually("it is held", || router.metric("cial_router_held_requests_current") == "1");
    // The kernel buffers a part; no reader takes the rest.
    client.stream.set_write_timeout(Some(Duration::from_millis(300))).unwrap();
    let mut sent = 0;
    while let Ok(count) = client.stream.write(&body[sent..]) {
        sent += count;
    }
    assert!(sent < body.len(), "all {sent} bytes were taken");
    client.stream.set_write_timeout(None).unwrap();
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    let mut stream = client.stream.try_clone().unwrap();
    let rest = std::thread::spawn(move || {
        // The tenant responds before it reads the whole body.
        let _ = stream.write_all(&body[sent..]);
    });
    assert_eq!(client.response().status, 200);
    drop(client);
    rest.join().unwrap();
}

#[test]
fn a_client_that_ends_its_input_wakes_the_tenant_and_gets_the_response() {
    for lines in [PAGE, ""] {
        let folder = TempDir::new("router").unwrap();
        let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
        let mut client = Client::connect(router.public);
        client.send(get("/", lines));
        client.stream.shutdown(std::net::Shutdown::Write).unwrap();
        eventually("the wake is requested", || router.orchestrator().lease_requests().len() == 1);
        assert_eq!(router.orchestrator().lease_requests()[0].intent, RequestIntent::Visit);
        let held = || router.metric("cial_router_held_requests_current") == "1";
        eventually("the request waits", held);
        // The router finds out whether the client left by an interim response, which does not end the wait.
        assert_eq!(client.until("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
        assert!(held());
        router.orchestrator().set_mode(acme.id, Mode::Awake);
        let head = client.until("\r\n\r\n");
        assert!(head.starts_with("HTTP/1.1 200 "), "{lines}: {head}");
        assert!(!client.rest().is_empty(), "{lines}: the body, then the close");
    }
}

#[test]
fn crawlers_and_probes_do_not_wake_a_sleeping_tenant() {
    let folder = TempDir::new("router").unwrap();
    let (_acme, _control, router) = asleep(&folder, 20_000, 20_000);
    for (path, lines) in [
        ("/robots.txt", PAGE),
        ("/healthz/", ""),
        ("/", "Accept: text/html\r\nUser-Agent: Mozilla/5.0 (compatible; Googlebot/2.1)\r\n"),
        ("/", "User-Agent: kube-probe/1.31\r\n"),
        ("/", "Accept: */*\r\nUser-Agent: facebookexternalhit/1.1\r\n"),
    ] {
        let mut client = Client::connect(router.public);
        client.send(get(path, lines));
        let head = client.until("\r\n\r\n").to_ascii_lowercase();
        assert!(head.starts_with("http/1.1 503 "), "{path} {lines}: {head}");
        assert!(head.contains("x-wake-required: 1") && head.contains("retry-after: 30"), "{head}");
    }
    router.orchestrator().assert_no_visit();
}

#[test]
fn a_client_that_leaves_frees_its_place() {
    let folder = TempDir::new("router").unwrap();
    let (_acme, _control, router) = asleep(&folder, 20_000, 20_000);
    for _ in 0..5 {
        let mut client = Client::connect(router.public);
        client.send(get("/", ""));
        eventually("it is held", || router.metric("cial_router_held_requests_current") == "1");
        drop(client);
        eventually("nobody is", || router.metric("cial_router_held_requests_current") == "0");
    }
}

#[test]
fn no_more_wait_than_there_is_room_for() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    let mut clients = [Client::connect(router.public), Client::connect(router.public)];
    for client in &mut clients {
        client.send(get("/", ""));
    }
    eventually("two wait", || router.metric("cial_router_held_requests_current") == "2");
    let response = router.send(&get("/", ""));
    assert_eq!((response.status, response.code().as_str()), (503, "too_many_waiting"));
    assert!(response.has("retry-after: "), "{response:?}");
    let page = router.send(&get("/", PAGE));
    assert!(
        page.status == 503
            && page.has("refresh: ")
            && page.body.contains("<h1>Waiting for its turn</h1>")
    );
    router.orchestrator().set_mode(acme.id, Mode::Awake);
    assert!(clients.iter_mut().all(|client| client.response().status == 200));

    let limits = |settings: &mut router::settings::Settings| settings.limits.max_waiters = 1;
    let route = acme.route(State::Sleeping, Desired::Running);
    let (_control, router) = Running::kept(vec![route], &folder, limits);
    router.orchestrator().set_mode(acme.id, Mode::Sleeping);
    let mut client = Client::connect(router.public);
    client.send(get("/", ""));
    eventually("one waits", || router.metric("cial_router_held_requests_current") == "1");
    assert_eq!(router.send(&get("/", "")).code(), "too_many_waiting", "all tenants together");
}

#[test]
fn each_refusal_has_its_own_status_and_code() {
    let folder = TempDir::new("router").unwrap();
    for (mode, code) in [
        (Mode::Refused("tenant_stopped"), "stopped"),
        (Mode::Refused("tenant_not_running"), "not_running"),
        (Mode::Refused("no_such_tenant"), "not_running"),
        (Mode::Refused("wake_queue_full"), "wake_queue_full"),
        (Mode::Refused("waking"), "waking"),
        (Mode::Failed("Its image is gone."), "wake_failed"),
        (Mode::Refused("something_else"), "wake_unavailable"),
    ] {
        let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
        router.orchestrator().set_mode(acme.id, mode);
        let response = router.send(&get("/", ""));
        assert_eq!((response.status, response.code().as_str()), (503, code));
        assert!(response.has("retry-after: "), "{response:?}");
        let metric = format!("cial_router_refusals_total{{reason=\"{code}\"}}");
        assert_eq!(router.metric(&metric), "1");
    }
}

#[test]
fn a_wake_that_failed_says_why_and_is_tried_again_when_somebody_wants_it() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    router.orchestrator().set_mode(acme.id, Mode::Failed("no such file: /var/lib/cial/1"));
    let page = router.send(&get("/a?b=c", PAGE));
    assert_eq!(page.status, 503);
    assert!(page.body.contains("It ended while it started.") && !page.has("refresh: "), "{page:?}");
    let problem = router.send(&get("/", ""));
    assert!(problem.body.contains("It ended while it started."), "{problem:?}");
    for shown in [&page.body, &problem.body] {
        assert!(!shown.contains("/var/lib/cial"), "the engine's words are the owner's: {shown}");
    }
    // A tab that reloads does not start the wake again.
    router.send(&get("/a?b=c", PAGE));
    assert_eq!(router.orchestrator().lease_requests().len(), 1);

    router.orchestrator().set_mode(acme.id, Mode::Awake);
    let action = page.body.split("action=\"").nth(1).unwrap().split('"').next().unwrap();
    let retry = format!(
        "POST {action} HTTP/1.1\r\nHost: acme.localhost\r\n{PAGE}Content-Length: 0\r\n\r\n"
    );
    let response = router.send(&retry);
    assert!(response.status == 303 && response.has("location: /a?b=c\r\n"), "{response:?}");
    assert_eq!(router.send(&get("/a?b=c", PAGE)).status, 200);
    assert!(acme.heads().iter().all(|head| !head.contains("/.cial/wake")));
}

#[test]
fn retries_do_not_void_the_pause_after_a_failed_wake() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    router.orchestrator().set_mode(acme.id, Mode::Failed("no such image"));
    let retry = "POST /.cial/wake HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 0\r\n\r\n";
    for _ in 0..30 {
        assert_eq!(router.send(retry).status, 303);
        assert_eq!(router.send(&get("/", "")).code(), "wake_failed");
    }
    let requests = router.orchestrator().lease_requests().len();
    assert!((1..15).contains(&requests), "{requests} for 30 who tried again");
}

#[test]
fn a_page_does_not_look_at_one_who_sleeps_on() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    let mut client = Client::connect(router.public);
    client.send(get("/.cial/wake", "Accept: text/event-stream\r\n"));
    client.until("\r\n\r\n");
    router.orchestrator().set_progress(acme.id, WakeStep::Asleep);
    client.until("\"step\":\"asleep\"");
    client.until("0\r\n\r\n");
    eventually("nobody looks", || router.metric("cial_router_wake_watchers_current") == "0");
}

#[test]
fn a_waiting_page_hears_how_its_wake_goes() {
    let folder = TempDir::new("router").unwrap();
    let (acme, _control, router) = asleep(&folder, 20_000, 20_000);
    let watch = get("/.cial/wake", "Accept: text/event-stream\r\nSec-Fetch-Mode: cors\r\n");
    let mut clients = [Client::connect(router.public), Client::connect(router.public)];
    router.orchestrator().set_progress(acme.id, WakeStep::Queued);
    for client in &mut clients {
        client.send(&watch);
        let head = client.until("\r\n\r\n").to_lowercase();
        assert!(
            head.starts_with("http/1.1 200 ") && head.contains("content-type: text/event-stream")
        );
        assert!(head.contains("cache-control: no-store"), "{head}");
        client.until("\"step\":\"queued\"");
    }
    let more = router.send(&watch);
    assert_eq!((more.status, more.code().as_str()), (503, "too_many_waiting"));
    assert_eq!(router.metric("cial_router_wake_watchers_current"), "2");
    router.orchestrator().set_progress(acme.id, WakeStep::Booting);
    clients.iter_mut().for_each(|client| drop(client.until("\"step\":\"booting\"")));
    router.orchestrator().set_progress(acme.id, WakeStep::Ready);
    for client in &mut clients {
        client.until("\"step\":\"ready\"");
        client.until("0\r\n\r\n");
    }
    eventually("nobody looks", || router.metric("cial_router_wake_watchers_current") == "0");
    assert!(router.orchestrator().lease_requests().is_empty(), "watching wakes no tenant");
    assert!(acme.heads().is_empty());
}

#[test]
fn a_watcher_that_leaves_frees_its_place() {
    let folder = TempDir::new("router").unwrap();
    let (_acme, _control, router) = asleep(&folder, 20_000, 20_000);
    let mut client = Client::connect(router.public);
    client.send(get("/.cial/wake", "Accept: text/event-stream\r\n"));
    client.until("\r\n\r\n");
    eventually("it looks", || router.metric("cial_router_wake_watchers_current") == "1");
    drop(client);
    eventually("nobody looks", || router.metric("cial_router_wake_watchers_current") == "0");
}

#[test]
fn the_reserved_path_never_reaches_a_tenant() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    for method in ["GET", "POST", "HEAD"] {
        let text = format!(
            "{method} /.cial/wake?to=/x HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 0\r\n\r\n"
        );
        let response = router.send(&text);
        assert!(response.status == 303 && response.has("location: /x\r\n"), "{response:?}");
    }
    let delete = router.send("DELETE /.cial/wake HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    assert_eq!((delete.status, delete.code().as_str()), (405, "method_not_allowed"));
    assert!(acme.heads().is_empty());
    for path in ["/.cial/wakeup", "/.cial/wake/", "/.cial"] {
        assert_eq!(router.get("acme.localhost", path).status, 200, "{path}");
    }
    assert_eq!(acme.heads().len(), 3);
}
