//! Servers that are unreachable, wrong, or break off.

use std::net::TcpListener;

use serde_json::json;

use crate::support::{Cial, Server, json as json_response, response};

#[test]
fn an_unreachable_server_is_named_with_where_its_address_comes_from() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let cial =
        Cial::new().server(&format!("http://127.0.0.1:{port}")).variable("CIAL_API_KEY", "cial_x");
    insta::assert_snapshot!(cial.run(&["tenants"]));
}

#[test]
fn an_unknown_host_is_named() {
    let cial = Cial::new().variable("CIAL_API_KEY", "cial_x");
    insta::assert_snapshot!(cial.run(&["tenants", "--server", "http://cial.invalid"]));
}

#[test]
fn a_page_is_not_the_api() {
    let page = response("200 OK", "", "text/html; charset=utf-8", "<html>Welcome!</html>");
    insta::assert_snapshot!(Cial::at(&Server::always(page)).run(&["tenants"]));
}

#[test]
fn a_redirect_is_not_followed() {
    let redirect =
        response("302 Found", "location: https://login.example.com/\r\n", "text/html", "");
    let server = Server::always(redirect);
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants"]));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn something_else_than_http_is_named() {
    let server = Server::always("SSH-2.0-OpenSSH_9.2\r\n");
    insta::assert_snapshot!(Cial::at(&server).run(&["whoami"]));
}

/// Half of a response, then the end of the connection.
fn half() -> Vec<u8> {
    b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 500\r\n\r\n{\"tenants\":[".to_vec()
}

#[test]
fn reading_is_repeated_once_after_a_broken_response() {
    let server = Server::new(|number, _| match number {
        0 => half(),
        _ => json_response("200 OK", &json!({ "tenants": [] })),
    });
    let text = Cial::at(&server).run(&["tenants"]);
    assert!(text.contains("exit code 0"), "{text}");
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_response_that_breaks_off_twice_is_a_failure() {
    let server = Server::always(half());
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants"]));
    assert_eq!(server.requests().len(), 2);
}

#[test]
fn a_creation_is_repeated_with_its_key_and_another_change_is_not() {
    let server = Server::always(half());
    Cial::at(&server).run(&["tenants", "create", "acme"]);
    let texts = server.texts();
    let key = |text: &String| {
        let line = text.lines().find(|line| line.starts_with("idempotency-key: "));
        line.map(str::to_owned)
    };
    assert_eq!(texts.len(), 2);
    assert!(key(&texts[0]).is_some());
    assert_eq!(key(&texts[0]), key(&texts[1]));

    let server = Server::always(half());
    insta::assert_snapshot!(Cial::at(&server).run(&[
        "keys",
        "create",
        "ci",
        "--role",
        "read",
        "--is-admin"
    ]));
    assert_eq!(server.requests().len(), 1);
}

#[test]
fn a_server_of_another_time_is_warned_of() {
    let of_version = |version: &str| {
        let head = format!("x-cial-release: {version}\r\n");
        response("200 OK", &head, "application/json", "{\"tenants\":[]}")
    };
    let text = Cial::at(&Server::always(of_version("0.9.0"))).run(&["tenants"]);
    assert!(
        text.contains("warning: cial 0.1.0 may not fit the server's release 0.9.0: upgrade cial"),
        "{text}"
    );
    let text = Cial::at(&Server::always(of_version("0.2.0"))).run(&["tenants"]);
    assert!(!text.contains("warning"), "{text}");
}

#[test]
fn a_key_on_an_unencrypted_way_is_warned_of() {
    let cial = Cial::new().variable("CIAL_API_KEY", "cial_x");
    let text = cial.run(&["tenants", "--server", "http://cial.invalid"]);
    assert!(
        text.contains("warning: the key travels unencrypted to http://cial.invalid: use https"),
        "{text}"
    );
}

#[test]
fn the_doctor_names_each_check_and_its_fix() {
    let head = "x-cial-release: 0.9.0\r\ndate: Sat, 01 Jan 2000 00:00:00 GMT\r\n";
    let whoami = json!({ "kind": "key", "key": { "id": "k", "expires_at": "2020-01-01T00:00:00.000Z" }, "tenant": "acme", "role": "read" });
    let server = Server::always(response("200 OK", head, "application/json", &whoami.to_string()));
    let text = Cial::at(&server).run(&["doctor"]);
    let results: Vec<_> = text
        .lines()
        .filter_map(|line| {
            Some(line.split_once('\t')?.0.to_owned() + " " + line.split('\t').nth(1)?)
        })
        .collect();
    assert_eq!(
        results,
        [
            "configuration PASSED",
            "connection PASSED",
            "clock FAILED",
            "versions FAILED",
            "key PASSED",
            "key's expiry FAILED",
            "audit log SKIPPED",
            "disk limits SKIPPED",
            "databases SKIPPED",
            "backups SKIPPED"
        ],
        "{text}"
    );
    assert!(text.contains("exit code 1"), "{text}");
    assert_eq!(server.requests().len(), 1, "one response serves every check");
}

#[test]
fn the_doctor_reports_a_broken_audit_log() {
    let server = Server::new(|_, request| {
        let body = if request.starts_with("GET /v1/audit/chain ") {
            json!({ "entries": null, "hash": null, "fault": "entry 3 was changed, or an entry before it" })
        } else {
            json!({ "kind": "key", "key": { "id": "k", "expires_at": null }, "tenant": null, "role": "admin" })
        };
        response("200 OK", "", "application/json", &body.to_string())
    });
    let text = Cial::at(&server).run(&["doctor"]);
    assert!(text.contains("audit log\tFAILED\tentry 3 was changed"), "{text}");
    assert!(text.contains("exit code 1"), "{text}");
}

#[test]
fn the_doctor_says_what_enforces_the_disk_limits() {
    let server = Server::new(|_, request| {
        let tenant = |slug: &str, way: &str| json!({ "slug": slug, "disk": { "used_bytes": 1, "enforced_by": way } });
        let body = if request.starts_with("GET /v1/audit/chain ") {
            json!({ "entries": 1, "hash": null, "fault": null })
        } else if request.starts_with("GET /v1/tenants?limit=500&cursor=b ") {
            json!({ "tenants": [tenant("b", "measurement")], "next_cursor": null })
        } else if request.starts_with("GET /v1/tenants?limit=500 ") {
            json!({ "tenants": [tenant("a", "filesystem")], "next_cursor": "b" })
        } else {
            json!({ "kind": "key", "key": { "id": "k", "expires_at": null }, "tenant": null, "role": "admin" })
        };
        response("200 OK", "", "application/json", &body.to_string())
    });
    let text = Cial::at(&server).run(&["doctor"]);
    let line = "disk limits\tPASSED\t1 enforced by the file system (a); 1 measured (b)";
    assert!(text.contains(line), "{text}");
}
