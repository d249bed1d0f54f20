//! Before something is destroyed.

use serde_json::json;

use crate::support::{Cial, Server, json as json_response, no_tenant, tenant};

fn server() -> Server {
    Server::new(|_, request| match request.split(' ').next() {
        Some("DELETE") => json_response("202 Accepted", &tenant("acme", "deleting")),
        _ => no_tenant(),
    })
}

#[test]
fn without_a_terminal_nothing_is_destroyed() {
    let server = server();
    insta::assert_snapshot!(
        Cial::at(&server).run_with_input(&["tenants", "delete", "acme"], "y\n")
    );
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_dry_run_prints_the_plan() {
    let server = server();
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants", "delete", "acme", "--dry-run"]));
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn the_question_names_the_thing_and_no_is_the_default() {
    for response in ["\n", "n\n", "acme\n"] {
        let server = server();
        let text = Cial::at(&server).run_on_terminal(&["tenants", "delete", "acme"], response);
        assert!(text.contains("Delete tenant acme with all its data? [y/N]"), "{text}");
        assert!(text.contains("exit code 3") && text.contains("nothing was changed"), "{text}");
        assert_eq!(server.requests(), [""; 0]);
    }
}

#[test]
fn yes_destroys() {
    let server = server();
    let text = Cial::at(&server).run_on_terminal(&["tenants", "delete", "acme"], "y\n");
    assert!(text.contains("exit code 0") && text.contains("tenant acme is deleted"), "{text}");
    assert_eq!(server.requests()[0], "DELETE /v1/tenants/acme");
}

#[test]
fn a_name_cannot_lead_elsewhere() {
    let server = Server::always(json_response("200 OK", &json!({})));
    Cial::at(&server).run(&["tenants", "delete", "../auth/keys?x", "--yes", "--no-wait"]);
    assert_eq!(server.requests(), ["DELETE /v1/tenants/..%2Fauth%2Fkeys%3Fx"]);
}
