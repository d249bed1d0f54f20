//! `cial login` and `cial logout`.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::{Value, json};

use crate::support::{Cial, Server, json as json_response, problem};

fn server() -> Server {
    Server::new(|_, request| {
        if request.to_ascii_lowercase().contains("authorization: bearer cial_good\r\n") {
            let whoami = json!({
                "kind": "key", "user": null, "tenant": "acme", "role": "write", "is_admin": false,
                "key": { "id": "k1", "name": "laptop", "expires_at": null },
            });
            return json_response("200 OK", &whoami);
        }
        problem("401 Unauthorized", "", "invalid_key", "This key is not valid.", Value::Null)
    })
}

#[test]
fn a_key_from_standard_input_is_stored_for_its_owner_alone() {
    let server = server();
    let cial = Cial::new().server(&server.url());
    insta::assert_snapshot!(
        cial.run_with_input(&["login", "--token-stdin", "--profile", "work"], "cial_good\n")
    );
    let (key, config) =
        (cial.home().join(".cial/keys/work"), cial.home().join(".cial/config.toml"));
    for path in [&key, &config] {
        assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
    }
    assert_eq!(std::fs::read_to_string(&key).unwrap(), "cial_good\n");
    let text = std::fs::read_to_string(&config).unwrap();
    assert!(text.contains("file:") && !text.contains("cial_good"), "{text}");

    insta::assert_snapshot!(cial.run(&["whoami", "--profile", "work"]));
    insta::assert_snapshot!(cial.run(&["logout", "--profile", "work"]));
    assert!(!key.exists());
    insta::assert_snapshot!(cial.run(&["whoami", "--profile", "work"]));
}

#[test]
fn a_key_that_the_server_refuses_is_not_stored() {
    let cial = Cial::new().server(&server().url());
    insta::assert_snapshot!(cial.run_with_input(&["login", "--token-stdin"], "cial_bad\n"));
    assert!(!cial.home().join(".cial").exists());
}

#[test]
fn a_line_that_is_no_key_is_refused() {
    let cial = Cial::new().server(&server().url());
    insta::assert_snapshot!(cial.run_with_input(&["login", "--token-stdin"], "cial x\n"));
}
