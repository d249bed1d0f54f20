//! `cial backups`: what is sent, and what is shown.

use insta::assert_snapshot;
use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, problem};

const ID: &str = "0192f0c4-0000-7000-8000-000000000002";

fn backup(state: &str) -> Value {
    let is_complete = state == "complete";
    json!({
        "id": ID, "tenant": "acme", "tenant_id": ID, "state": state, "due_at": "2026-11-30T02:00:00.000Z",
        "requested_by": null, "overdue": !is_complete, "taken_at": is_complete.then_some("2026-11-30T02:00:03.000Z"),
        "current_at": null, "bytes": is_complete.then_some(1_234_567), "sha256": is_complete.then_some("ab12"),
        "object": format!("acme/{ID}.tar.zst"), "failure": null,
    })
}

#[test]
fn the_backups_of_one_tenant_or_of_all_are_listed() {
    let list = json!({ "backups": [backup("waiting"), backup("complete")], "next": null });
    let server = Server::new(move |_, request| match request.contains("/whoami") {
        true => json_response("200 OK", &json!({ "kind": "key", "tenant": null, "role": "admin" })),
        false => json_response("200 OK", &list),
    });
    let cial = Cial::at(&server);
    assert_snapshot!(cial.run(&["backups", "list", "acme", "-o", "wide"]));
    cial.run(&["backup", "list"]);
    assert_eq!(
        server.requests(),
        ["GET /v1/tenants/acme/backups", "GET /v1/auth/whoami", "GET /v1/backups"]
    );
}

#[test]
fn a_backup_is_requested_and_the_way_to_its_end_is_named() {
    let server = Server::always(json_response("202 Accepted", &backup("waiting")));
    let printed = Cial::at(&server).run(&["backups", "create", "acme"]);
    assert!(printed.contains("exit code 0"), "{printed}");
    assert!(printed.contains("made once the tenant rests"), "{printed}");
    assert!(printed.contains("cial backups list acme"), "{printed}");
    assert_eq!(server.requests(), ["POST /v1/tenants/acme/backups"]);
}

#[test]
fn a_backup_is_restored_under_a_slug() {
    let created = json!({ "slug": "acme2", "name": "Acme", "state": "stopped" });
    let server = Server::always(json_response("201 Created", &created));
    let printed = Cial::at(&server).run(&["backups", "restore", ID, "--as", "acme2"]);
    assert!(printed.contains("cial tenants start acme2"), "{printed}");
    assert_eq!(server.requests(), [format!("POST /v1/backups/{ID}/restore")]);
    assert!(server.texts()[0].ends_with(r#"{"as":"acme2"}"#), "{}", server.texts()[0]);
    let detail = "acme/x.tar.zst is not what was written there.";
    let refusal = problem("422 Unprocessable Entity", "", "backup_corrupt", detail, json!([]));
    let printed = Cial::at(&Server::always(refusal)).run(&["backups", "restore", ID, "--as", "a2"]);
    assert!(printed.contains("exit code 1") && printed.contains("is not what was"), "{printed}");
    let printed = Cial::new().run(&["backups", "restore", ID]);
    assert!(printed.contains("--as"), "{printed}");
}

#[test]
fn the_doctor_names_tenants_without_a_backup() {
    let doctor = |status: Value| {
        let server = Server::new(move |_, request| {
            let body = if request.starts_with("GET /v1/backups/status ") {
                status.clone()
            } else {
                json!({ "kind": "key", "key": { "id": "k", "expires_at": null }, "tenant": null, "role": "admin" })
            };
            json_response("200 OK", &body)
        });
        let text = Cial::at(&server).run(&["doctor"]);
        let line = text.lines().find(|line| line.starts_with("backups\t"));
        line.unwrap_or_else(|| panic!("{text}")).trim_end().to_owned()
    };
    let fine =
        json!({ "enabled": true, "next_due_at": "2026-12-01T02:00:00.000Z", "problems": [] });
    assert_eq!(doctor(fine), "backups\tPASSED\tthe next are due at 2026-12-01T02:00:00.000Z\t-");
    let off = json!({ "enabled": false, "next_due_at": null, "problems": [] });
    assert_eq!(doctor(off), "backups\tPASSED\toff\t-");
    let mut failed = backup("waiting");
    failed["failure"] = json!("The store of backups cannot be used at the moment.");
    let problems = [backup("waiting"), failed, backup("missing")];
    let bad = json!({ "enabled": true, "next_due_at": null, "problems": problems });
    let at = "due at 2026-11-30T02:00:00.000Z";
    let expected = format!(
        "backups\tFAILED\tacme, {at}: the tenant has not rested; acme, {at}: The store of backups cannot be used at the moment.; \
         acme, {at}: the store has lost it\tcial backups list; a tenant that never rests can be stopped for a while"
    );
    assert_eq!(doctor(bad), expected);
}
