//! Before something is destroyed.

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use serde_json::json;

use crate::support::{Cial, Server, json as json_response, no_tenant, response, tenant};

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

/// Each command that destroys, its arguments, and the request that it makes.
const DESTRUCTIVE: [(&str, &[&str], &str); 23] = [
    ("tenants delete", &["acme", "--no-wait"], "DELETE /v1/tenants/acme"),
    ("tenants env unset", &["acme", "MODE"], "DELETE /v1/tenants/acme/env/MODE"),
    ("tenants secrets unset", &["acme", "TOKEN"], "DELETE /v1/tenants/acme/secrets/TOKEN"),
    ("backups delete", &["1"], "DELETE /v1/backups/1"),
    ("apps delete", &["shop"], "DELETE /v1/apps/shop"),
    ("apps env unset", &["shop", "MODE"], "DELETE /v1/apps/shop/env/MODE"),
    ("apps secrets unset", &["shop", "TOKEN"], "DELETE /v1/apps/shop/secrets/TOKEN"),
    ("apps rollout abort", &["shop"], "POST /v1/apps/shop/rollouts/1/abort"),
    ("registries delete", &["r.example:5000"], "DELETE /v1/registries/r.example%3A5000"),
    ("packages delete", &["etl", "1.0.0"], "DELETE /v1/tenants/acme/packages/etl/1.0.0"),
    ("packages keys delete", &["ci"], "DELETE /v1/package-keys/ci"),
    ("triggers delete", &["nightly"], "DELETE /v1/tenants/acme/triggers/nightly"),
    ("executions cancel", &["1"], "POST /v1/tenants/acme/executions/1/cancel"),
    ("keys revoke", &["1"], "DELETE /v1/tenants/acme/keys/1"),
    ("sessions revoke", &["1"], "DELETE /v1/sessions/1"),
    ("sessions revoke", &["--all"], "DELETE /v1/sessions"),
    ("users reset-second-factor", &["1"], "DELETE /v1/users/1/second-factor"),
    ("users delete", &["1"], "DELETE /v1/users/1"),
    ("members remove", &["1"], "DELETE /v1/tenants/acme/members/1"),
    ("invitations revoke", &["1"], "DELETE /v1/tenants/acme/invitations/1"),
    ("models unset", &[], "DELETE /v1/model"),
    ("webhooks delete", &["1"], "DELETE /v1/webhooks/1"),
    ("webhooks delete", &["../users"], "DELETE /v1/webhooks/..%2Fusers"),
];

/// The commands with verbs of destruction, and those with the flag `--yes`.
fn destructive_commands(
    command: &clap::Command,
    path: &str,
    (by_verb, by_flag): (&mut BTreeSet<String>, &mut BTreeSet<String>),
) {
    for own in command.get_subcommands() {
        let path = format!("{path} {}", own.get_name()).trim_start().to_owned();
        let verb = own.get_name();
        if matches!(
            verb,
            "delete" | "revoke" | "remove" | "unset" | "abort" | "cancel" | "reset-second-factor"
        ) {
            by_verb.insert(path.clone());
        }
        let flags: Vec<_> = own.get_arguments().filter_map(clap::Arg::get_long).collect();
        if flags.contains(&"yes") && flags.contains(&"dry-run") {
            by_flag.insert(path.clone());
        }
        destructive_commands(own, &path, (&mut *by_verb, &mut *by_flag));
    }
}

#[test]
fn every_command_that_destroys_asks_and_refuses_without_a_terminal() {
    let (mut by_verb, mut by_flag) = (BTreeSet::new(), BTreeSet::new());
    destructive_commands(&cli::args::Cli::command(), "", (&mut by_verb, &mut by_flag));
    let tested: BTreeSet<_> = DESTRUCTIVE.iter().map(|(path, ..)| (*path).to_owned()).collect();
    let lacking: Vec<_> = by_verb.difference(&by_flag).collect();
    assert!(lacking.is_empty(), "without --yes and --dry-run: {lacking:?}");
    assert_eq!(by_flag, tested, "each is a row of DESTRUCTIVE");
    for (path, args, request) in DESTRUCTIVE {
        let server = Server::new(|_, request| match request.split(' ').next() {
            Some("GET") => json_response("200 OK", &json!({ "rollouts": [{ "id": "1" }] })),
            Some("POST") => json_response("200 OK", &json!({ "id": "1", "state": "aborted" })),
            _ if request.starts_with("DELETE /v1/tenants/acme HTTP") => {
                json_response("202 Accepted", &tenant("acme", "deleting"))
            }
            _ => response("204 No Content", "", "text/plain", ""),
        });
        let cial = Cial::at(&server).variable("CIAL_TENANT", "acme");
        let words: Vec<_> = path.split(' ').chain(args.iter().copied()).collect();
        let with = |flag: &'static str| [&words[..], &[flag]].concat();

        let refused = cial.run_with_input(&words, "y\n");
        assert!(refused.contains("exit code 2") && refused.contains("pass --yes"), "{refused}");
        let planned = cial.run(&with("--dry-run"));
        assert!(planned.contains("exit code 0") && planned.contains("\nwould "), "{planned}");
        let declined = cial.run_on_terminal(&words, "n\n");
        assert!(declined.contains("? [y/N]") && declined.contains("exit code 3"), "{declined}");
        assert_eq!(server.requests(), [""; 0], "{path}");

        let done = cial.run(&with("--yes"));
        assert!(done.contains("exit code 0"), "{done}");
        assert_eq!(server.requests().last().map(String::as_str), Some(request), "{path}");
    }
}
