//! `cial tenants open`.

use serde_json::json;

use crate::support::{Cial, Server, json as json_response, tenant};

/// The admin's own route needs a session that the browser may not have; the tenant's page leads through the sign-in.
#[test]
fn a_tenant_is_opened_where_a_sign_in_at_it_begins() {
    let server = Server::always(json_response("200 OK", &tenant("acme", "running")));
    let cial = Cial::at(&server).file("browser", "echo \"$1\" > \"$HOME/opened\"\n");
    let browser = format!("sh {}", cial.home().join("browser").display());
    let cial = cial.variable("BROWSER", &browser);
    insta::assert_snapshot!(cial.run(&["tenants", "open", "acme", "--print"]), @r"
    $ cial tenants open acme --print
    exit code 0
    --- standard output
    http://acme.localhost:8080/.cial/sign-in
    --- standard error
    ");
    let opened = cial.run(&["open", "acme"]);
    assert!(opened.contains("exit code 0"), "{opened}");
    let address = std::fs::read_to_string(cial.home().join("opened")).unwrap();
    assert_eq!(address, "http://acme.localhost:8080/.cial/sign-in\n");
    assert_eq!(server.requests(), ["GET /v1/tenants/acme"; 2]);
}

#[test]
fn an_address_that_is_no_site_is_not_opened() {
    for url in [json!("file:///etc/passwd"), json!("--help"), json!(null)] {
        let mut tenant = tenant("acme", "running");
        tenant["url"] = url;
        let server = Server::always(json_response("200 OK", &tenant));
        let text = Cial::at(&server).variable("BROWSER", "false").run(&["tenants", "open", "acme"]);
        assert!(text.contains("exit code 1") && text.contains("its address"), "{text}");
        assert!(!text.contains("opening"), "{text}");
    }
}
