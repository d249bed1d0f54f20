//! A host leads to its tenant or to nothing, and the router reports a tenant that does not run.

use protocol::State;
use protocol::spec::Desired;

use crate::harness::{Running, TempDir, eventually};
use crate::tenant::Tenant;

#[test]
fn every_host_leads_to_its_own_tenant_and_no_other() {
    let folder = TempDir::new("router").unwrap();
    let tenants: Vec<_> = (1..6).map(|n| Tenant::new(&folder, n, &format!("acme-{n}"))).collect();
    let (_control, router) =
        Running::knowing(tenants.iter().map(Tenant::running).collect(), &folder);
    for round in 0..5 {
        for tenant in &tenants {
            let slug = &tenant.slug;
            let host = match round {
                0 => format!("{slug}.localhost"),
                1 => format!("{slug}.localhost:8080"),
                2 => format!("{}.LOCALHOST:8080", slug.to_uppercase()),
                3 => format!("core--{slug}.localhost:8080"),
                _ => format!("{slug}.localhost."),
            };
            let response = router.get(&host, "/");
            assert_eq!(response.status, 200, "{host}");
            assert!(
                response.body.starts_with(&format!("Tenant {slug}\nGET / HTTP/1.1\r\n")),
                "{response:?}"
            );
            assert!(
                response.body.contains(&format!("\r\nHost: {host}\r\n")),
                "unchanged: {response:?}"
            );
        }
    }
}

#[test]
fn every_host_without_a_tenant_gets_the_same_404() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let mut bodies = Vec::new();
    for text in [
        "GET / HTTP/1.1\r\nHost: nope.localhost:8080\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: core--nope.localhost:8080\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: core--core--acme.localhost:8080\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: core--.localhost:8080\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: localhost:8080\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.acme.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost:\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "GET / HTTP/1.0\r\n\r\n",
        "GET /health HTTP/1.1\r\nHost: nope.localhost\r\n\r\n",
        "GET http://nope.localhost/ HTTP/1.1\r\nHost: nope.localhost\r\n\r\n",
    ] {
        let response = router.send(text);
        assert_eq!((response.status, response.code().as_str()), (404, "not_found"), "{text:?}");
        let all = format!("{}{}", response.head, response.body).to_lowercase();
        for word in ["tenant", "org", "forbidden", "denied"] {
            assert!(!all.contains(word), "{word} in {all}");
        }
        let id = response.body.rsplit('"').nth(1).unwrap().to_owned();
        assert!(response.has(&format!("x-request-id: {id}")), "{response:?}");
        bodies.push(response.body.replace(&id, ""));
    }
    bodies.dedup();
    assert_eq!(bodies.len(), 1, "{bodies:?}");
}

#[test]
fn only_the_beginning_of_a_sign_in_names_the_admin() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let url = "\r\nx-cial-sign-in-url: http://localhost:3100/admin/tenants/acme/sign-in\r\n";
    for (target, is_named) in [
        ("/.cial/sign-in", true),
        ("/.cial/sign-in?to=/a", true),
        ("/.cial/sign-in/", false),
        ("/?to=/.cial/sign-in", false),
        ("/.cial/sso", false),
    ] {
        let lie = "x-cial-sign-in-url: http://evil.example\r\n";
        let text = format!("GET {target} HTTP/1.1\r\nHost: acme.localhost\r\n{lie}\r\n");
        let response = router.send(&text);
        assert_eq!(response.body.contains(url), is_named, "{target}: {response:?}");
        assert!(!response.body.contains("evil"), "{response:?}");
    }
}

#[test]
fn a_policy_that_requires_sign_in_reaches_the_next_request() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    for required in [false, true, false] {
        let route = protocol::routes::Route { requires_sign_in: required, ..acme.running() };
        control.feed.put(route);
        router.knows(control.feed.revision());
        let lie = "x-cial-require-sign-in: lie\r\n";
        let response = router.send(&format!("GET / HTTP/1.1\r\nHost: acme.localhost\r\n{lie}\r\n"));
        let is_told = response.body.contains("\r\nx-cial-require-sign-in: 1\r\n");
        assert_eq!(is_told, required, "{response:?}");
        assert!(!response.body.contains("lie"), "{response:?}");
    }
}

/// An earlier edge would serve the app where this request must not reach it.
#[test]
fn a_request_that_an_earlier_edge_would_serve_wrongly_gets_503() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    for (required, host, status) in [
        (false, "acme.localhost", 200),
        (false, "core--acme.localhost", 503),
        (true, "acme.localhost", 503),
        (true, "core--acme.localhost", 503),
        (false, "acme.localhost", 200),
    ] {
        let route = protocol::routes::Route { requires_sign_in: required, ..acme.running() };
        control.feed.put(route);
        router.knows(control.feed.revision());
        assert_eq!(router.get(host, "/").status, 200);
        let leases = router.orchestrator().lease_requests().len();
        let refused = router.get(host, "/earlier-edge");
        assert_eq!(refused.status, status, "{required} {host}: {refused:?}");
        if status == 503 {
            assert_eq!(refused.code(), "restart_needed");
            assert!(refused.has("retry-after: 60"), "{refused:?}");
        }
        assert_eq!(router.get(host, "/").status, 200, "an edge that knows both names");
        let leases_after = router.orchestrator().lease_requests().len();
        assert_eq!(leases_after, leases, "a refused request costs nobody the lease");
    }
    assert_eq!(router.metric("cial_router_wrong_proof_total"), "0");
}

#[test]
fn an_invalid_host_is_refused() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    for host in [
        "acme.localhost:http",
        "u@acme.localhost",
        "acme..localhost",
        "acme.localhost/x",
        "acme localhost",
    ] {
        let response = router.get(host, "/");
        assert_eq!((response.status, response.code().as_str()), (400, "invalid_host"), "{host}");
    }
    for text in [
        "GET / HTTP/1.1\r\nHost: acme.localhost\r\nHost: acme.localhost\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: acme.localhost\r\nHost: other.localhost\r\n\r\n",
        "POST / HTTP/1.1\r\nHost: acme.localhost\r\nContent-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    ] {
        let response = router.send(text);
        assert_eq!(
            (response.status, response.code().as_str()),
            (400, "malformed_request"),
            "{text:?}"
        );
    }
    // The authority of an absolute target replaces `Host` (RFC 9112 §3.2.2).
    let other = router.send("GET http://other.localhost/ HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    assert_eq!((other.status, other.code().as_str()), (404, "not_found"));
    let acme = router.send("GET http://acme.localhost:80?q=1 HTTP/1.1\r\nHost: b\r\n\r\n");
    assert!(acme.body.contains("GET /?q=1 HTTP/1.1"), "{acme:?}");
    let same = router.send("GET http://ACME.localhost/x HTTP/1.1\r\nHost: acme.localhost\r\n\r\n");
    assert!(same.body.contains("GET /x HTTP/1.1"), "{same:?}");
}

#[test]
fn only_running_tenants_get_requests() {
    let folder = TempDir::new("router").unwrap();
    let (control, router) = Running::knowing(vec![], &folder);
    let mut number = 0;
    for state in State::ALL {
        for desired in [Desired::Running, Desired::Stopped, Desired::Deleted] {
            number += 1;
            let acme = Tenant::new(&folder, number, &format!("acme-{number}"));
            control.feed.put(acme.route(state, desired));
            router.knows(control.feed.revision());
            let response = router.get(&format!("acme-{number}.localhost"), "/");
            if state == State::Running && desired == Desired::Running {
                assert_eq!(response.status, 200);
                continue;
            }
            if desired == Desired::Deleted {
                let nobody = router.get("nobody.localhost", "/");
                assert_eq!((response.status, response.code()), (404, nobody.code()), "{state}");
                continue;
            }
            assert_eq!(response.status, 503, "{state} {desired:?}");
            assert!(response.has("retry-after: "), "{response:?}");
            let code = if desired == Desired::Running { "not_running" } else { "stopped" };
            assert_eq!(response.code(), code, "{state} {desired:?}");
        }
    }
    let acme = Tenant::new(&folder, 1_000, "acme");
    control.feed.put(acme.running());
    router.knows(control.feed.revision());
    assert_eq!(router.get("acme.localhost", "/").status, 200);
    control.feed.put(acme.route(State::Running, Desired::Stopped));
    router.knows(control.feed.revision());
    assert_eq!(router.get("acme.localhost", "/").code(), "stopped", "a live lease does not matter");
    control.feed.remove(&acme.id);
    router.knows(control.feed.revision());
    assert_eq!(router.get("acme.localhost", "/").status, 404);
}

#[test]
fn a_running_tenant_without_an_address_is_not_running_yet() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = protocol::routes::Route { upstream: None, ..acme.running() };
    let (_control, router) = Running::knowing(vec![route], &folder);
    assert_eq!(router.get("acme.localhost", "/").code(), "not_running");
}

#[test]
fn a_socket_that_refuses_is_a_bad_gateway() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    std::fs::remove_file(&acme.socket).unwrap();
    let (_control, router) = Running::knowing(vec![acme.running()], &folder);
    let response = router.get("acme.localhost", "/");
    assert_eq!((response.status, response.code().as_str()), (502, "upstream_unreachable"));
    assert!(!response.body.contains("acme") && !response.body.contains(".sock"), "{response:?}");
    acme.listen(acme.id);
    assert_eq!(router.get("acme.localhost", "/").status, 200, "the tenant is reached again");
}

#[test]
fn a_browser_gets_a_page_and_other_clients_a_problem() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Starting, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    let get = |lines: &str| {
        router.send(&format!("GET / HTTP/1.1\r\nHost: acme.localhost\r\n{lines}\r\n"))
    };
    let html = "Accept: text/html,application/xhtml+xml,*/*;q=0.8\r\n";
    for lines in [html.to_owned(), format!("{html}Sec-Fetch-Mode: navigate\r\n")] {
        let page = get(&lines);
        assert!(page.status == 503 && page.has("content-type: text/html"), "{page:?}");
        let id = page.head.split("x-request-id: ").nth(1).unwrap().split('\r').next().unwrap();
        assert!(page.body.contains("<h1>Not running</h1>") && page.body.contains(id), "{page:?}");
        assert!(!page.body.contains("acme"), "{page:?}");
    }
    for lines in [
        "",
        "Accept: */*\r\n",
        "Accept: application/json\r\n",
        &format!("{html}Sec-Fetch-Mode: cors\r\n"),
    ] {
        assert_eq!(get(lines).code(), "not_running", "{lines:?}");
    }
    let post =
        format!("POST / HTTP/1.1\r\nHost: acme.localhost\r\n{html}Content-Length: 0\r\n\r\n");
    assert_eq!(router.send(&post).code(), "not_running");
}

#[test]
fn the_bare_host_reports_health() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let (control, router) = Running::knowing(vec![acme.running()], &folder);
    eventually("it is connected", || router.health("control_plane") == "\"connected\"");
    let response = router.get("localhost:8080", "/health");
    assert!(
        response.status == 200 && response.has("content-type: application/json"),
        "{response:?}"
    );
    assert_eq!(router.health("status"), "\"ok\"");
    assert_eq!(router.health("routes"), "1");
    assert_eq!(router.health("revision"), control.feed.revision().to_string());
}

#[test]
fn a_public_installation_shows_anonymous_clients_its_status_and_nothing_else() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let control = crate::harness::Control::start(1);
    control.feed.put(acme.running());
    let router = Running::with(control.address, &folder, |settings| {
        settings.exposure = router::settings::Exposure::Public;
    });
    // Each connection may reach another thread.
    let has_routes = || (0..24).all(|_| router.health("status") == "\"ok\"");
    eventually("every thread has routes", has_routes);
    assert_eq!(router.get("localhost:8080", "/health").body, "{\"status\":\"ok\"}");
}

#[test]
fn options_about_the_server_are_answered_by_the_router() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Sleeping, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    for host in ["acme.localhost", "localhost", "nope.localhost"] {
        let response = router.send(&format!("OPTIONS * HTTP/1.1\r\nHost: {host}\r\n\r\n"));
        assert_eq!(response.status, 204, "{response:?}");
        assert!(
            response.has("allow: GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS\r\n"),
            "{response:?}"
        );
    }
    assert!(
        acme.heads().is_empty() && router.orchestrator().lease_requests().is_empty(),
        "no lease is requested"
    );
}

#[test]
fn the_page_of_a_failed_tenant_says_that_its_owner_must_act() {
    let folder = TempDir::new("router").unwrap();
    let acme = Tenant::new(&folder, 1, "acme");
    let route = acme.route(State::Error, Desired::Running);
    let (_control, router) = Running::knowing(vec![route], &folder);
    let page = router.send("GET / HTTP/1.1\r\nHost: acme.localhost\r\nAccept: text/html\r\n\r\n");
    assert_eq!(page.status, 503);
    assert!(page.body.contains("Its owner must start it again."), "{page:?}");
    assert!(!page.body.contains("few seconds"), "{page:?}");
    assert_eq!(router.get("acme.localhost", "/").code(), "not_running");
}

#[test]
fn a_sign_on_token_stays_in_no_address_and_on_no_page_of_the_router() {
    let folder = TempDir::new("router").unwrap();
    let html = "Accept: text/html\r\nSec-Fetch-Mode: navigate\r\n";
    let sso = |host: &str| {
        format!("GET /.cial/sso?token=s3cr3t HTTP/1.1\r\nHost: {host}.localhost\r\n{html}\r\n")
    };
    let tenants: Vec<_> = (1..6).map(|n| Tenant::new(&folder, n, &format!("t-{n}"))).collect();
    let states = [State::Sleeping, State::Error, State::Stopped, State::Starting, State::Running];
    let mut routes: Vec<_> = tenants
        .iter()
        .zip(states)
        .map(|(tenant, state)| tenant.route(state, Desired::Running))
        .collect();
    // The last tenant has no listener.
    tenants[4].vanish();
    routes[2].desired = Desired::Stopped;
    let control = crate::harness::Control::start(1);
    control.feed.replace(routes);
    // This router has no orchestrator.
    let router = Running::with(control.address, &folder, |settings| {
        settings.limits.outage_grace = std::time::Duration::ZERO;
        settings.wait_times.pages = std::time::Duration::from_millis(50);
    });
    router.knows(control.feed.revision());
    for tenant in &tenants {
        let response = router.send(&sso(&tenant.slug));
        assert_eq!(response.status, 303, "{}: {response:?}", tenant.slug);
        assert!(
            response.has("location: /\r\n") && response.has("referrer-policy: no-referrer"),
            "{response:?}"
        );
        assert!(!response.head.contains("s3cr3t") && response.body.is_empty(), "{response:?}");
    }
    let unknown = router.send(&sso("nope"));
    assert!(unknown.status == 303 && unknown.has("location: /\r\n"), "{unknown:?}");
    // A program gets the plain problem.
    let problem = router.get("t-2.localhost", "/.cial/sso?token=s3cr3t");
    assert_eq!(problem.code(), "not_running");
}
