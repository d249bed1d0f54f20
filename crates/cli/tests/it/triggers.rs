//! `cial triggers`: what is sent, and what is shown.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, response};

const ID: &str = "0192f0c4-0000-7000-8000-000000000002";

fn trigger(kind: &str) -> Value {
    let is_cron = kind == "cron";
    json!({
        "id": ID, "name": "nightly", "workflow": "etl", "kind": kind,
        "cron": is_cron.then_some("30 2 * * *"), "time_zone": is_cron.then_some("Europe/Berlin"),
        "catch_up": is_cron.then_some("run_all"), "context": { "day": "monday" }, "paused": false,
        "next_fire_at": is_cron.then_some("2026-12-01T01:30:00.000Z"),
        "last_fire_at": "2026-11-30T01:30:00.000Z", "last_execution_id": null,
        "last_failure": "Workflow etl is paused. Resume it first.", "created_by": "ada@example.com",
        "created_at": "2026-11-29T08:00:00.000Z",
    })
}

#[test]
fn triggers_are_listed_with_their_times() {
    let list = json!({ "items": [trigger("cron"), trigger("webhook")], "total": 2, "next": null });
    let server = Server::always(json_response("200 OK", &list));
    assert_snapshot!(Cial::at(&server).run(&["trigger", "list", "--tenant", "acme", "-o", "wide"]));
    assert_eq!(server.requests(), ["GET /v1/tenants/acme/triggers"]);
}

#[test]
fn a_trigger_with_times_is_created() {
    let server = Server::always(json_response("201 Created", &trigger("cron")));
    let args = [
        "trigger",
        "create",
        "nightly",
        "--workflow",
        "etl",
        "--cron",
        "30 2 * * *",
        "--time-zone",
        "Europe/Berlin",
        "--catch-up",
        "run_all",
        "--input",
        "day=monday",
        "--tenant",
        "acme",
    ];
    let printed = Cial::at(&server).run(&args);
    assert!(printed.contains("30 2 * * *") && printed.contains("exit code 0"), "{printed}");
    assert_eq!(server.requests(), ["POST /v1/tenants/acme/triggers"]);
    let sent = server.texts()[0].clone();
    let body = r#"{"name":"nightly","workflow":"etl","kind":"cron","cron":"30 2 * * *","time_zone":"Europe/Berlin","catch_up":"run_all","context":{"day":"monday"}}"#;
    assert!(sent.ends_with(body), "{sent}");
}

#[test]
fn the_address_of_a_webhook_is_printed_once() {
    let mut created = trigger("webhook");
    created["url"] = json!(format!("http://localhost:3100/v1/triggers/{ID}/secret"));
    let server = Server::always(json_response("201 Created", &created));
    let args =
        ["trigger", "create", "nightly", "--workflow", "etl", "--webhook", "--tenant", "acme"];
    assert_snapshot!(Cial::at(&server).run(&args));
    let sent = server.texts()[0].clone();
    let body = r#"{"name":"nightly","workflow":"etl","kind":"webhook","context":{}}"#;
    assert!(sent.ends_with(body), "{sent}");
}

#[test]
fn a_trigger_has_either_times_or_an_address() {
    let server = Server::always(json_response("201 Created", &trigger("cron")));
    let cial = Cial::at(&server);
    let create = ["trigger", "create", "nightly", "--workflow", "etl", "--tenant", "acme"];
    for more in [
        &[][..],
        &["--cron", "* * * * *", "--webhook"],
        &["--webhook", "--time-zone", "UTC"],
        &["--webhook", "--catch-up", "skip"],
        &["--cron", "* * * * *", "--catch-up", "all"],
    ] {
        let printed = cial.run(&[&create[..], more].concat());
        assert!(printed.contains("exit code 2"), "{more:?}: {printed}");
    }
    assert_eq!(server.requests(), [""; 0]);
}

#[test]
fn a_trigger_is_shown_paused_resumed_fired_and_deleted() {
    for verb in ["get", "pause", "resume"] {
        let server = Server::always(json_response("200 OK", &trigger("cron")));
        let printed =
            Cial::at(&server).run(&["trigger", verb, "nightly", "--tenant", "acme", "-o", "json"]);
        assert!(printed.contains("\"paused\": false"), "{printed}");
        let request = match verb {
            "get" => "GET /v1/tenants/acme/triggers/nightly".to_owned(),
            verb => format!("POST /v1/tenants/acme/triggers/nightly/{verb}"),
        };
        assert_eq!(server.requests(), [request]);
    }
    let scheduled = json!({
        "execution_id": ID, "workflow_name": "etl",
        "tenant_id": "0192f0c4-0000-7000-8000-000000000001", "status": "scheduled",
    });
    let server = Server::always(json_response("202 Accepted", &scheduled));
    let printed = Cial::at(&server).run(&["trigger", "fire", "nightly", "--tenant", "acme"]);
    assert!(printed.contains(ID), "{printed}");
    assert_eq!(server.requests(), ["POST /v1/tenants/acme/triggers/nightly/fire"]);
    let server = Server::always(response("204 No Content", "", "text/plain", ""));
    let args = ["trigger", "delete", "nightly", "--yes", "--tenant", "acme"];
    let printed = Cial::at(&server).run(&args);
    assert!(printed.contains("trigger nightly is deleted"), "{printed}");
    assert_eq!(server.requests(), ["DELETE /v1/tenants/acme/triggers/nightly"]);
}
