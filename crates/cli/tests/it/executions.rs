//! `cial workflows` and `cial executions`: what is sent, and what is shown.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, problem};

const ID: &str = "0192f0c4-0000-7000-8000-000000000002";

fn workflow(paused: bool) -> Value {
    json!({
        "name": "nightly", "about": "Adds up a day", "package": "acme-etl-1.2.0",
        "inputs": ["day"], "tasks": ["fetch", "sum"], "paused": paused,
    })
}

fn execution() -> Value {
    let task = |name: &str, state: &str, reason: Value| {
        json!({
            "name": name, "state": state, "attempts": 2, "reason": reason, "output": { "rows": 3 },
            "started_at": null, "finished_at": null,
        })
    };
    json!({
        "id": ID, "workflow": "nightly", "package": "acme-etl-1.2.0", "state": "failed",
        "reason": "Task sum failed. It exited with code 1.", "created_by": "ada@example.com",
        "created_at": "2026-11-30T08:00:00.000Z", "started_at": null, "finished_at": null,
        "context": { "day": "monday" },
        "tasks": [
            task("fetch", "succeeded", Value::Null),
            task("sum", "failed", json!("It exited with code 1.")),
        ],
    })
}

#[test]
fn workflows_are_listed_run_paused_and_resumed() {
    let list = json!({ "items": [workflow(false)], "total": 1, "next": null });
    let server = Server::always(json_response("200 OK", &list));
    let cial = Cial::at(&server);
    assert_snapshot!(cial.run(&["workflow", "list", "--tenant", "acme"]));
    assert_eq!(server.requests(), ["GET /v1/tenants/acme/workflows"]);

    let scheduled = json!({
        "execution_id": ID, "workflow_name": "nightly",
        "tenant_id": "0192f0c4-0000-7000-8000-000000000001", "status": "scheduled",
    });
    let server = Server::always(json_response("202 Accepted", &scheduled));
    let args = ["workflow", "run", "nightly", "--input", "day=monday", "--input", "rows=[1,2]"];
    let args = [&args[..], &["--tenant", "acme"]].concat();
    assert_snapshot!(Cial::at(&server).run(&args));
    assert_eq!(server.requests(), ["POST /v1/tenants/acme/workflows/nightly/execute"]);
    let sent = server.texts()[0].clone();
    assert!(sent.ends_with(r#"{"context":{"day":"monday","rows":[1,2]}}"#), "{sent}");

    for (verb, paused) in [("pause", true), ("resume", false)] {
        let server = Server::always(json_response("200 OK", &workflow(paused)));
        let args = ["workflow", verb, "nightly", "--tenant", "acme", "-o", "json"];
        let printed = Cial::at(&server).run(&args);
        assert!(printed.contains(&format!("\"paused\": {paused}")), "{printed}");
        let request = format!("POST /v1/tenants/acme/workflows/nightly/{verb}");
        assert_eq!(server.requests(), [request]);
    }
}

#[test]
fn an_execution_is_shown_with_its_tasks() {
    let server = Server::always(json_response("200 OK", &execution()));
    let cial = Cial::at(&server);
    assert_snapshot!(cial.run(&["execution", "get", ID, "--tenant", "acme", "-o", "wide"]));
    assert_eq!(server.requests(), [format!("GET /v1/tenants/acme/executions/{ID}")]);
    let printed = cial.run(&["execution", "get", ID, "--tenant", "acme", "-o", "json"]);
    assert!(printed.contains("\"day\": \"monday\""), "{printed}");
    let list = json!({ "items": [execution()], "total": 1, "next": null });
    let server = Server::always(json_response("200 OK", &list));
    let printed = Cial::at(&server).run(&["executions", "--tenant", "acme"]);
    assert!(printed.contains("nightly") && printed.contains("failed"), "{printed}");
}

#[test]
fn the_output_of_an_execution_is_printed_as_it_is() {
    let text = "2026-11-30T08:00:00.000Z [fetch 1] hello\n";
    let response = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {}\r\nconnection: close\r\n\r\n{text}",
        text.len()
    );
    let server = Server::always(response);
    let printed = Cial::at(&server).run(&["execution", "logs", ID, "--tenant", "acme"]);
    assert!(printed.contains(text) && printed.contains("exit code 0"), "{printed}");
    assert_eq!(server.requests(), [format!("GET /v1/tenants/acme/executions/{ID}/logs")]);
}

#[test]
fn an_execution_is_cancelled_after_a_confirmation() {
    let server = Server::always(json_response("202 Accepted", &execution()));
    let cial = Cial::at(&server);
    let args = ["execution", "cancel", ID, "--tenant", "acme"];
    let dry = cial.run(&[&args[..], &["--dry-run"]].concat());
    assert!(dry.contains(&format!("would cancel execution {ID}")), "{dry}");
    assert!(server.requests().is_empty(), "{:?}", server.requests());
    let printed = cial.run(&[&args[..], &["--yes"]].concat());
    assert!(printed.contains("exit code 0"), "{printed}");
    assert_eq!(server.requests(), [format!("POST /v1/tenants/acme/executions/{ID}/cancel")]);
}

#[test]
fn a_refusal_says_what_to_do() {
    let detail = "Workflow nightly is paused. Resume it first.";
    let refusal = problem("409 Conflict", "", "workflow_paused", detail, json!([]));
    let server = Server::always(refusal);
    let printed = Cial::at(&server).run(&["workflow", "run", "nightly", "--tenant", "acme"]);
    assert!(printed.contains(detail.trim_end_matches('.')), "{printed}");
    assert!(printed.contains("exit code 1"), "{printed}");
    let unfit = ["workflow", "run", "nightly", "--input", "day", "--tenant", "acme"];
    assert!(Cial::at(&server).run(&unfit).contains("must be NAME=VALUE"));
}
