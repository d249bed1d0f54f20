//! `cial packages`: what is sent, and what is shown.

use serde_json::json;

use crate::support::{Cial, Server, json as json_response, problem};

#[test]
fn a_file_is_uploaded_as_a_form() {
    let uploaded = json!({
        "package_id": "0192f0c4-0000-7000-8000-000000000002",
        "tenant_id": "0192f0c4-0000-7000-8000-000000000001",
        "name": "acme-etl", "version": "1.2.0", "workflows": ["nightly", "weekly"],
    });
    let server = Server::always(json_response("201 Created", &uploaded));
    let cial = Cial::at(&server).file("acme-etl-1.2.0.cial", "BZh-bytes");
    let file = cial.home().join("acme-etl-1.2.0.cial");
    let printed =
        cial.run(&["package", "upload", file.to_str().unwrap(), "--tenant", "acme", "-o", "json"]);
    assert!(printed.contains("exit code 0") && printed.contains("\"acme-etl\""), "{printed}");
    assert_eq!(server.requests(), ["POST /v1/tenants/acme/packages"]);
    let request = &server.texts()[0];
    assert!(
        request.contains("name=\"file\"") && request.contains("\r\n\r\nBZh-bytes\r\n--"),
        "{request}"
    );
}

#[test]
fn a_refused_package_shows_each_fault() {
    let errors = json!([
        { "field": "workflow[0].task[0].command", "code": "invalid", "message": "must begin with an executable file" },
    ]);
    let refusal =
        problem("400 Bad Request", "", "package_invalid", "package.toml breaks 1 rules.", errors);
    let server = Server::always(refusal);
    let cial = Cial::at(&server).file("a.cial", "x");
    let file = cial.home().join("a.cial");
    let printed = cial.run(&["package", "upload", file.to_str().unwrap(), "--tenant", "acme"]);
    assert!(printed.contains("workflow[0].task[0].command"), "{printed}");
    assert!(!printed.contains("exit code 0"), "{printed}");
    let missing = cial.run(&["package", "upload", "missing.cial", "--tenant", "acme"]);
    assert!(missing.contains("cannot read missing.cial"), "{missing}");
}

#[test]
fn a_package_is_deleted_by_name_and_version() {
    let server = Server::always("HTTP/1.1 204 No Content\r\nconnection: close\r\n\r\n");
    let args = ["package", "delete", "acme-etl", "1.2.0", "--tenant", "acme", "--yes"];
    let printed = Cial::at(&server).run(&args);
    assert!(printed.contains("exit code 0"), "{printed}");
    assert_eq!(server.requests(), ["DELETE /v1/tenants/acme/packages/acme-etl/1.2.0"]);
}
