//! Waiting for a tenant: steps, ends, and what interrupts it.

use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, no_tenant, problem, tenant};

/// A server whose tenant goes through `states`, one a look; the last one stays. `None` is its absence.
fn going_through(states: &'static [Option<&'static str>]) -> Server {
    let mut looks = 0;
    Server::new(move |_, request| {
        let state = if request.starts_with("GET ") {
            looks += 1;
            states[looks.min(states.len() - 1)]
        } else {
            states[0]
        };
        match state {
            Some("error") => {
                let mut broken = tenant("acme", "error");
                broken["state_reason"] = json!("Its container ended with code 3; see its logs.");
                json_response("200 OK", &broken)
            }
            Some(state) => json_response("200 OK", &tenant("acme", state)),
            None => no_tenant(),
        }
    })
}

#[test]
fn a_creation_shows_its_steps_and_then_the_tenant() {
    let server =
        going_through(&[Some("provisioning"), Some("starting"), Some("starting"), Some("running")]);
    insta::assert_snapshot!(Cial::at(&server).run(&[
        "tenant",
        "create",
        "acme",
        "--columns",
        "slug,state,url"
    ]));
    assert_eq!(server.requests()[0], "POST /v1/tenants");
}

#[test]
fn nobody_waits_with_no_wait() {
    let server = going_through(&[Some("provisioning")]);
    let text = Cial::at(&server).run(&["tenants", "start", "acme", "--no-wait", "-q"]);
    assert!(
        text.ends_with("exit code 0\n--- standard output\nacme\n--- standard error\n"),
        "{text}"
    );
    assert_eq!(server.requests(), ["POST /v1/tenants/acme/start"]);
}

#[test]
fn a_tenant_that_fails_ends_the_wait_with_its_reason() {
    let server = going_through(&[Some("starting"), Some("error")]);
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants", "start", "acme"]));
}

#[test]
fn a_wait_that_takes_too_long_is_exit_code_3_and_can_go_on() {
    let server = going_through(&[Some("starting")]);
    let args = ["tenants", "wait", "acme", "--for", "running", "--timeout", "300ms"];
    insta::assert_snapshot!(Cial::at(&server).run(&args));
}

#[test]
fn a_deletion_waits_until_the_tenant_is_gone() {
    let server = going_through(&[Some("deleting"), Some("deleting"), None]);
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants", "delete", "acme", "--yes"]));
}

#[test]
fn a_server_that_is_away_for_a_moment_does_not_end_a_wait() {
    let server = Server::new(|number, _| match number {
        0 => json_response("202 Accepted", &tenant("acme", "starting")),
        1 => problem(
            "503 Service Unavailable",
            "retry-after: 1\r\n",
            "database_unavailable",
            "Wait.",
            Value::Null,
        ),
        2 | 3 => Vec::new(),
        _ => json_response("200 OK", &tenant("acme", "running")),
    });
    let text = Cial::at(&server).run(&["tenants", "restart", "acme"]);
    assert!(text.contains("exit code 0"), "{text}");
}

#[test]
fn ctrl_c_ends_a_wait_with_a_word_and_exit_code_130() {
    let server = going_through(&[Some("starting")]);
    let cial = Cial::at(&server);
    let args = ["tenants", "start", "acme"];
    let child = cial.spawn(&args);
    // The second look shows that the wait has begun.
    while server.requests().len() < 3 {
        std::thread::sleep(Duration::from_millis(10));
    }
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    insta::assert_snapshot!(cial.show(&args, &child.wait_with_output().unwrap()));
}

#[test]
fn a_change_of_an_apps_variables_restarts_its_tenants_that_hold_the_old_ones() {
    let of_app = |slug: &str, state: &str, app: &str| {
        let mut tenant = tenant(slug, state);
        tenant["app"] = json!(app);
        tenant
    };
    let tenants = json!({ "tenants": [
        of_app("acme", "running", "shop"),
        of_app("cold", "frozen", "shop"),
        of_app("idle", "sleeping", "shop"),
        of_app("gone", "stopped", "shop"),
        of_app("other", "running", "notes"),
    ] });
    let server = Server::new(move |_, request| match request {
        request if request.starts_with("PUT ") => json_response("200 OK", &json!({})),
        request if request.starts_with("GET /v1/tenants?") => json_response("200 OK", &tenants),
        _ => json_response("202 Accepted", &of_app("acme", "starting", "shop")),
    });
    let text =
        Cial::at(&server).run(&["apps", "env", "set", "shop", "MODE=x", "--restart", "--no-wait"]);
    assert!(text.contains("exit code 0"), "{text}");
    let changes = server.requests().into_iter().filter(|request| !request.starts_with("GET "));
    let expected = [
        "PUT /v1/apps/shop/env/MODE",
        "POST /v1/tenants/acme/restart",
        "POST /v1/tenants/cold/restart",
    ];
    assert_eq!(changes.collect::<Vec<_>>(), expected);
}

#[test]
fn a_watch_shows_each_state_once_and_ends_with_the_tenant() {
    let server = going_through(&[
        None,
        Some("starting"),
        Some("starting"),
        Some("error"),
        Some("deleting"),
        None,
    ]);
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants", "get", "acme", "--watch"]), @r"
    $ cial tenants get acme --watch
    exit code 0
    --- standard output
    2020-01-01T00:00:00.000Z	starting	-
    2020-01-01T00:00:00.000Z	error	Its container ended with code 3; see its logs.
    2020-01-01T00:00:00.000Z	deleting	-
    --- standard error
    tenant acme is deleted
    ");
    let server = going_through(&[None, Some("running"), None]);
    let text = Cial::at(&server).run(&["tenants", "get", "acme", "--watch", "--json=slug,state"]);
    assert!(text.contains("{\"slug\":\"acme\",\"state\":\"running\"}\n"), "{text}");
    let server = going_through(&[None]);
    let text = Cial::at(&server).run(&["tenants", "get", "acme", "--watch"]);
    assert!(text.contains("exit code 1") && text.contains("does not exist"), "{text}");
}
