//! Where the server and the key come from, and what is wrong with them.

use std::os::unix::fs::PermissionsExt as _;

use serde_json::json;

use crate::support::{Cial, Server, json as json_response};

const CONFIG: &str = r#"default_profile = "acme-prod"

[profiles.acme-prod]
server = "https://cial.example.com"
api_key = "env:ACME_KEY"

[profiles.globex-prod]
server = "https://globex.example.com"
api_key = "file:/etc/cial/globex.key"
tenant = "globex"
"#;

#[test]
fn without_a_server_the_way_to_one_is_named() {
    insta::assert_snapshot!(Cial::new().run(&["tenants", "list"]));
}

#[test]
fn an_unset_variable_is_named_with_the_place_that_names_it() {
    let cial = Cial::new().file(".cial/config.toml", CONFIG);
    insta::assert_snapshot!(cial.run(&["tenants", "list"]));
}

#[test]
fn a_missing_key_file_is_named() {
    let cial = Cial::new().file(".cial/config.toml", CONFIG);
    insta::assert_snapshot!(cial.run(&["--profile", "globex-prod", "tenants", "list"]));
}

#[test]
fn a_server_without_a_key_needs_one() {
    insta::assert_snapshot!(Cial::new().run(&["--server", "http://localhost:1", "whoami"]));
}

#[test]
fn a_profile_does_not_lend_its_key_to_another_server() {
    let cial = Cial::new().file(".cial/config.toml", CONFIG).variable("ACME_KEY", "cial_a");
    insta::assert_snapshot!(cial.run(&["--server", "http://localhost:1", "whoami"]));
}

#[test]
fn an_unknown_profile_lists_the_known_ones() {
    let cial = Cial::new().file(".cial/config.toml", CONFIG).variable("CIAL_PROFILE", "initech");
    insta::assert_snapshot!(cial.run(&["tenants"]));
}

#[test]
fn a_file_that_others_can_read_is_reported_and_still_used() {
    let server = Server::always(json_response("200 OK", &json!({ "tenants": [] })));
    let cial = Cial::at(&server).file(".cial/config.toml", "colour = \"red\"\n");
    let path = cial.home().join(".cial/config.toml");
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
    insta::assert_snapshot!(cial.run(&["tenants", "list", "-o", "json"]));
}

#[test]
fn a_broken_file_is_named_with_its_line() {
    let cial = Cial::new().file(".cial/config.toml", "[profiles.acme]\nserver = oops\n");
    insta::assert_snapshot!(cial.run(&["tenants"]));
}

#[test]
fn the_origin_of_every_setting_is_shown() {
    let cial = Cial::new().file(".cial/config.toml", CONFIG).variable("CIAL_TENANT", "acme");
    insta::assert_snapshot!(cial.run(&["config", "show", "--origin", "--api-key", "cial_secret"]));
}

#[test]
fn the_three_ways_to_a_server_are_used_in_order() {
    let server = Server::always(json_response("200 OK", &json!({ "tenants": [] })));
    let config = format!(
        "default_profile = \"one\"\n[profiles.one]\nserver = \"{0}\"\napi_key = \"cial_one\"\n[profiles.two]\nserver = \"{0}\"\napi_key = \"file:~/two.key\"\n",
        server.url(),
    );
    let cial = Cial::new().file(".cial/config.toml", &config).file("two.key", "cial_two\n");
    let flags = ["--server", &server.url(), "--api-key", "env:ONE_OFF"];
    let cial = cial.variable("ONE_OFF", "cial_one_off");
    cial.run(&["tenants"]);
    cial.run(&["tenants", "--profile", "two"]);
    cial.run(&[&flags[..], &["tenants", "--profile", "two"]].concat());
    let keys: Vec<_> = server
        .texts()
        .iter()
        .flat_map(|text| text.lines().map(str::to_owned).collect::<Vec<_>>())
        .filter(|line| line.to_ascii_lowercase().starts_with("authorization"))
        .map(|line| line.rsplit(' ').next().unwrap_or_default().to_owned())
        .collect();
    assert_eq!(keys, ["cial_one", "cial_two", "cial_one_off"]);
}

#[test]
fn profiles_are_written_and_chosen() {
    let cial = Cial::new();
    let set =
        ["profile", "set", "local", "--server", "http://localhost:3100/", "--api-key", "env:K"];
    assert!(cial.run(&set).contains("exit code 0"));
    assert!(
        cial.run(&["profile", "set", "other", "--server", "https://o", "--tenant", "acme"])
            .contains("exit code 0")
    );
    assert!(cial.run(&["profile", "use", "other"]).contains("exit code 0"));
    insta::assert_snapshot!(cial.run(&["profile", "list", "-o", "yaml"]));
    insta::assert_snapshot!(cial.run(&["profile", "use", "third"]));
    let path = cial.home().join(".cial/config.toml");
    assert_eq!(std::fs::metadata(path).unwrap().permissions().mode() & 0o777, 0o600);
}
