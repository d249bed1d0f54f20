//! Completion in shells, with the names of the server.

use std::path::Path;

use clap::CommandFactory as _;
use serde_json::json;

use crate::support::{Cial, Server, json as json_response, tenant};

/// The candidates that a shell's script gets for the last of `words`.
fn candidates(cial: &Cial, words: &[&str]) -> Vec<String> {
    let mut command = cial.command(&[&["--", "cial"], words].concat());
    command.env("CIAL_COMPLETE", "bash").env("_CLAP_COMPLETE_INDEX", words.len().to_string());
    command
        .env("_CLAP_COMPLETE_COMP_TYPE", "9")
        .env("_CLAP_COMPLETE_SPACE", "true")
        .env("_CLAP_IFS", "\n");
    let output = command.output().unwrap();
    assert!(output.stderr.is_empty(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect()
}

#[test]
fn names_of_tenants_and_profiles_are_completed() {
    let tenants = json!({ "tenants": [tenant("acme", "running"), tenant("acme-2", "stopped"), tenant("globex", "running")] });
    let server = Server::always(json_response("200 OK", &tenants));
    let config = "[profiles.local]\n[profiles.prod]\n";
    let cial = Cial::at(&server).file(".cial/config.toml", config);
    assert_eq!(candidates(&cial, &["tenants", "get", "ac"]), ["acme", "acme-2"]);
    assert_eq!(candidates(&cial, &["members", "list", "--tenant", "g"]), ["globex"]);
    assert_eq!(candidates(&cial, &["--profile", "p"]), ["prod"]);
    assert_eq!(candidates(&cial, &["profile", "use", "l"]), ["local"]);
    assert_eq!(candidates(&cial, &["tenants", "wait", "--for", "st"]), ["stopped"]);
    assert_eq!(candidates(&cial, &["who"]), ["whoami"]);
}

#[test]
fn an_unreachable_server_completes_nothing_and_disturbs_nobody() {
    let cial = Cial::new().server("http://127.0.0.1:1").variable("CIAL_API_KEY", "cial_x");
    assert_eq!(candidates(&cial, &["tenants", "get", "ac"]), [""; 0]);
}

/// A shell, the flags with which it reads no configuration, and commands that print what its script completes.
const SHELLS: [(&str, &[&str], &str); 3] = [
    (
        "bash",
        &["--norc"],
        r#"source "$1"; COMP_WORDS=(cial tenants get ac) COMP_CWORD=3 COMP_TYPE=9
        _clap_complete_cial cial ac get; printf '%s\n' "${COMPREPLY[@]}""#,
    ),
    (
        "zsh",
        &["-f"],
        r#"compdef() { :; }; _describe() { print -rl -- "${(@P)3}"; }; source "$1"
        words=(cial tenants get ac) CURRENT=4; _clap_dynamic_completer_cial"#,
    ),
    ("fish", &["--no-config"], r#"source $argv[1]; complete --do-complete="cial tenants get ac""#),
];

#[test]
fn each_shell_completes_names_of_the_server_by_its_script() {
    let tenants = json!({ "tenants": [tenant("acme", "running"), tenant("acme-2", "stopped")] });
    let server = Server::always(json_response("200 OK", &tenants));
    for (shell, flags, commands) in SHELLS {
        let cial = Cial::at(&server);
        let script = cial.home().join("script");
        let printed = cial.command(&["completion", shell]).output().unwrap();
        std::fs::write(&script, &printed.stdout).unwrap();
        let name: &[&str] = if shell == "fish" { &[] } else { &[shell] };
        let args = [flags, &["-c", commands], name, &[script.to_str().unwrap()]].concat();
        let folder = Path::new(env!("CARGO_BIN_EXE_cial")).parent().unwrap().display();
        let run =
            cial.program(shell, &args).env("PATH", format!("{folder}:/usr/bin:/bin")).output();
        let output = run.unwrap_or_else(|error| {
            panic!("{shell}: {error}; scripts/install-tools installs it");
        });
        let (stdout, stderr) = (output.stdout.as_slice(), output.stderr.as_slice());
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(
            (text(stdout), text(stderr)),
            ("acme\nacme-2\n".into(), String::new()),
            "{shell}"
        );
    }
}

#[test]
fn man_pages_are_written_for_every_command() {
    fn check(command: &clap::Command, name: &str, folder: &std::path::Path) {
        let page = folder.join(format!("{name}.1"));
        let text = std::fs::read_to_string(&page).unwrap_or_default();
        assert!(text.contains(".TH") && text.contains(".SH SYNOPSIS"), "{}", page.display());
        for own in command.get_subcommands().filter(|own| !own.is_hide_set()) {
            check(own, &format!("{name}-{}", own.get_name()), folder);
        }
    }
    let cial = Cial::new();
    let folder = cial.home().join("man");
    let output = cial.run(&["man", "--dir", folder.to_str().unwrap()]);
    assert!(output.contains("exit code 0"), "{output}");
    check(&cli::args::Cli::command(), "cial", &folder);
    assert!(folder.join("cial-tenants-env-unset.1").exists());
}
