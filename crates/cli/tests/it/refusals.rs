//! Refusals of the server, in words and as JSON.

use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, problem, response};

fn refused(args: &[&str], response: Vec<u8>) -> String {
    Cial::at(&Server::always(response)).run(args)
}

#[test]
fn a_key_that_is_not_accepted_is_exit_code_4() {
    let detail = "This key is not valid.";
    let response = problem("401 Unauthorized", "", "invalid_key", detail, Value::Null);
    insta::assert_snapshot!(refused(&["tenants"], response));
}

#[test]
fn a_clock_far_off_is_named_beside_an_invalid_key() {
    let date = "date: Sat, 01 Jan 2000 00:00:00 GMT\r\n";
    let response =
        problem("401 Unauthorized", date, "invalid_key", "This key is not valid.", Value::Null);
    let text = refused(&["tenants"], response);
    let line = text.lines().find(|line| line.contains("clock")).unwrap_or_default();
    assert!(
        line.starts_with("  why:  this machine's clock is ")
            && line.ends_with(" s ahead of the server's"),
        "{text}"
    );
}

#[test]
fn what_a_key_may_not_do_is_403_forbidden() {
    let detail = "This key does not reach there.";
    let response = problem("403 Forbidden", "", "forbidden", detail, Value::Null);
    insta::assert_snapshot!(refused(&["--tenant", "globex", "keys", "list"], response));
}

#[test]
fn an_unknown_tenant_is_a_failure() {
    let detail = "There is no tenant of this name.";
    let response = problem("404 Not Found", "", "tenant_not_found", detail, Value::Null);
    insta::assert_snapshot!(refused(&["tenants", "get", "nope"], response));
}

#[test]
fn a_taken_slug_is_a_failure() {
    let detail = "A tenant with the slug acme exists already. Choose another.";
    let response = problem("409 Conflict", "", "slug_taken", detail, Value::Null);
    insta::assert_snapshot!(refused(&["tenants", "create", "acme"], response));
}

#[test]
fn every_field_at_fault_is_named() {
    let errors = json!([
        { "field": "slug", "code": "invalid_slug", "message": "must have 2 to 40 of a-z, 0-9 and -" },
        { "field": "name", "code": "too_long", "message": "must have at most 100 characters" },
    ]);
    let response = problem(
        "422 Unprocessable Entity",
        "",
        "invalid_fields",
        "Some fields need another value.",
        errors,
    );
    insta::assert_snapshot!(refused(&["tenants", "create", "A"], response));
}

#[test]
fn a_limit_says_when_to_try_again() {
    let detail = "Too many requests.";
    let response =
        problem("429 Too Many Requests", "retry-after: 7\r\n", "rate_limited", detail, Value::Null);
    insta::assert_snapshot!(refused(&["tenants", "-o", "json"], response));
}

#[test]
fn a_fault_of_the_server_asks_for_a_report() {
    let response =
        problem("500 Internal Server Error", "", "internal", "Something failed.", Value::Null);
    insta::assert_snapshot!(refused(&["tenants"], response));
}

#[test]
fn a_proxy_without_a_server_behind_it_is_not_the_api() {
    let response = response("502 Bad Gateway", "", "text/html", "<h1>Bad Gateway</h1>");
    insta::assert_snapshot!(refused(&["tenants"], response));
}

#[test]
fn a_call_of_the_api_prints_refusals_as_data() {
    let response = problem("404 Not Found", "", "not_found", "There is nothing here.", Value::Null);
    insta::assert_snapshot!(refused(&["api", "get", "/v1/nothing"], response));
}

#[test]
fn a_key_of_the_whole_installation_needs_a_tenant_where_one_is_meant() {
    let whoami = json!({ "kind": "key", "user": null, "key": { "id": "k1", "name": "root" }, "tenant": null, "role": "admin", "is_admin": true });
    let server = Server::always(json_response("200 OK", &whoami));
    insta::assert_snapshot!(Cial::at(&server).run(&["members", "list"]));
}

#[test]
fn a_key_of_a_tenant_brings_its_tenant() {
    let server = Server::new(|_, request| {
        if request.starts_with("GET /v1/auth/whoami") {
            let whoami = json!({ "kind": "key", "key": { "id": "k1" }, "tenant": "globex", "role": "read", "is_admin": false });
            return json_response("200 OK", &whoami);
        }
        json_response("200 OK", &json!({ "members": [] }))
    });
    let text = Cial::at(&server).run(&["members", "list"]);
    assert!(text.contains("exit code 0"), "{text}");
    assert_eq!(server.requests(), ["GET /v1/auth/whoami", "GET /v1/tenants/globex/members"]);
}
