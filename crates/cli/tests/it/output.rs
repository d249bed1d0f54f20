//! Formats, columns, colour and pipes.

use std::process::Stdio;

use serde_json::json;

use crate::support::{Cial, Server, json as json_response, tenant};

fn two_tenants() -> Server {
    let mut evil = tenant("globex", "error");
    evil["name"] = json!("Globex\u{1b}]0;owned\u{7}\u{1b}[31m");
    evil["state_reason"] = json!("It ended with code 3.");
    let tenants = json!({ "tenants": [tenant("acme", "running"), evil] });
    Server::always(json_response("200 OK", &tenants))
}

#[test]
fn a_list_in_every_format() {
    let server = two_tenants();
    let cial = Cial::at(&server);
    for format in ["table", "wide", "json", "yaml", "name"] {
        insta::assert_snapshot!(
            format!("a_list_as_{format}"),
            cial.run(&["tenants", "-o", format])
        );
    }
    assert_eq!(
        cial.run(&["tenants", "-q"]).lines().skip(3).take(2).collect::<Vec<_>>(),
        ["acme", "globex"]
    );
}

#[test]
fn the_migration_of_each_database_is_listed_with_its_failure() {
    let with_database = |slug: &str, version, failure: serde_json::Value| {
        let names = format!("t_{slug}");
        let mut tenant = tenant(slug, "running");
        tenant["database"] =
            json!({ "schema": names, "user": names, "version": version, "failure": failure });
        tenant
    };
    let tenants = json!({ "tenants": [
        with_database("acme", "20261129000001", json!(null)),
        with_database("globex", "20261128000001", json!("permission denied for table notes")),
    ] });
    let server = Server::always(json_response("200 OK", &tenants));
    let printed = Cial::at(&server).run(&["tenants", "migrate", "--status"]);
    insta::assert_snapshot!(printed, @r"
    $ cial tenants migrate --status
    exit code 0
    --- standard output
    acme	t_acme	t_acme	20261129000001	-
    globex	t_globex	t_globex	20261128000001	permission denied for table notes
    --- standard error
    ");
    let printed = Cial::at(&server).run(&["tenants", "migrate"]);
    assert!(printed.contains("exit code 2"), "{printed}");
}

#[test]
fn a_terminal_gets_headings_and_colour_when_it_can_show_it() {
    let server = two_tenants();
    let list = ["tenants", "--columns", "slug,state,since"];
    let dumb = Cial::at(&server).run_on_terminal(&list, "");
    insta::assert_snapshot!(without_ages(&dumb));
    let forced = Cial::at(&server).variable("CLICOLOR_FORCE", "1");
    assert!(forced.run_on_terminal(&list, "").contains("\u{1b}[32mrunning"));
    let never = [&list[..], &["--color", "never"]].concat();
    assert!(!forced.run_on_terminal(&never, "").contains('\u{1b}'));
    assert!(
        !Cial::at(&server).variable("NO_COLOR", "1").run_on_terminal(&list, "").contains('\u{1b}')
    );
}

/// Ages grow: `2523d` is `AGE`.
fn without_ages(text: &str) -> String {
    let words = |line: &str| -> String {
        let is_age =
            |word: &str| word.ends_with('d') && word[..word.len() - 1].parse::<u32>().is_ok();
        let words = line.split(' ').map(|word| if is_age(word) { "AGE" } else { word });
        words.collect::<Vec<_>>().join(" ")
    };
    text.lines().map(words).collect::<Vec<_>>().join("\n")
}

#[test]
fn an_unknown_column_is_a_usage_error() {
    insta::assert_snapshot!(Cial::at(&two_tenants()).run(&["tenants", "--columns", "slug,colour"]));
}

#[test]
fn an_empty_list_succeeds() {
    let server = Server::always(json_response("200 OK", &json!({ "tenants": [] })));
    insta::assert_snapshot!(Cial::at(&server).run(&["tenants", "list", "--state", "error"]));
    assert_eq!(server.requests(), ["GET /v1/tenants?limit=500&state=error"]);
}

#[test]
fn every_page_of_a_list_is_read() {
    let server = Server::new(|number, request| {
        assert_eq!(request.contains("cursor=p%201"), number == 1, "{request}");
        let next = if number == 0 { json!("p 1") } else { json!(null) };
        let slug = if number == 0 { "acme" } else { "globex" };
        json_response(
            "200 OK",
            &json!({ "tenants": [tenant(slug, "running")], "next_cursor": next }),
        )
    });
    let text = Cial::at(&server).run(&["tenants", "-o", "name"]);
    assert!(text.contains("acme\nglobex\n"), "{text}");
}

#[test]
fn a_reader_that_has_enough_is_no_failure() {
    let server = two_tenants();
    let mut command = Cial::at(&server).command(&["tenants", "-o", "json"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), output.stderr.as_slice()), (Some(0), &b""[..]));
}

#[test]
fn a_wrong_command_line_is_exit_code_2_with_a_proposal() {
    insta::assert_snapshot!(Cial::new().run(&["tenants", "creat", "acme"]));
}

#[test]
fn topics_are_part_of_the_help() {
    for topic in ["environment", "formatting", "exit-codes", "profiles"] {
        let text = Cial::new().run(&["help", topic]);
        assert!(text.contains("exit code 0") && text.lines().count() > 8, "{text}");
        assert!(text.lines().all(|line| line.chars().count() <= 100), "{text}");
    }
}

#[test]
fn versions_of_both_sides_are_shown() {
    let server = Server::always(
        "HTTP/1.1 200 OK\r\nx-cial-release: 0.2.0\r\nconnection: close\r\ncontent-length: 3\r\n\r\nok\n",
    );
    insta::assert_snapshot!(Cial::at(&server).run(&["version", "-o", "json"]));
    insta::assert_snapshot!(Cial::new().run(&["version"]));
    // A key that cannot be read is no reason not to show the versions.
    let without_key = Cial::at(&server).run(&["version", "--api-key", "env:UNSET", "-o", "json"]);
    assert!(without_key.to_string().contains("exit code 0"), "{without_key}");
}

#[test]
fn fields_of_objects_are_chosen_in_json() {
    let server = two_tenants();
    let cial = Cial::at(&server);
    let stdout = |args: &[&str]| {
        let printed = cial.run(args);
        assert!(printed.contains("exit code 0"), "{printed}");
        let (_, rest) = printed.split_once("--- standard output\n").unwrap();
        rest.split("--- standard error").next().unwrap().to_owned()
    };
    assert_eq!(stdout(&["tenants", "--json"]), stdout(&["tenants", "-o", "json"]));
    let chosen: serde_json::Value =
        serde_json::from_str(&stdout(&["tenants", "--json=slug, state"])).unwrap();
    let expected =
        json!([{ "slug": "acme", "state": "running" }, { "slug": "globex", "state": "error" }]);
    assert_eq!(chosen, expected);
    let unknown = cial.run(&["tenants", "--json=nothing"]);
    assert!(unknown.contains("exit code 2") && unknown.contains("--json="), "{unknown}");
    assert!(unknown.contains("slug"), "{unknown}");
    let both = cial.run(&["tenants", "--json", "-o", "yaml"]);
    assert!(both.contains("exit code 2") && both.contains("cannot be used with"), "{both}");
}

#[test]
fn names_of_other_command_lines_lead_to_the_same_commands() {
    let whoami = json!({ "kind": "key", "user": null, "key": null, "tenant": "acme", "role": "read", "is_admin": false });
    let server = Server::always(json_response("200 OK", &whoami));
    let cial = Cial::at(&server);
    let printed = |args: &[&str]| cial.run(args).lines().skip(1).collect::<Vec<_>>().join("\n");
    assert_eq!(printed(&["auth", "status"]), printed(&["whoami"]));
    assert_eq!(printed(&["auth", "login", "--token-stdin"]), printed(&["login", "--token-stdin"]));
    assert_eq!(printed(&["auth", "logout"]), printed(&["logout"]));
    let keys = Server::always(json_response("200 OK", &json!({ "keys": [], "next": null })));
    for noun in ["keys", "key", "tokens"] {
        let printed = Cial::at(&keys).run(&[noun, "list", "--mine"]);
        assert!(printed.contains("exit code 0"), "{printed}");
    }
}
