//! Every command in a document can be called literally, and CI runs the command.

use clap::CommandFactory as _;

use crate::assert_none;
use crate::tree::{SourceFile, Tree};

/// First words of commands; other code is not a command.
const PROGRAMS: &[&str] = &["cargo", "make", "docker", "docker-compose", "curl"];
/// Commands that the step `readme` of `cargo xtask test` runs literally, one per line; its test fails unless it ran all
/// of them.
const DOCUMENTS: &str = include_str!("../../e2e/tests/documents/commands.txt");
/// Other commands that the documents show.
const SHOWN: &[&str] = &[
    // `.ci/run` calls these, and steps of `cargo xtask test` run these, literally or by an equivalent.
    "scripts/install-tools",
    "cargo fmt",
    "cargo nextest run -p app-api",
    "cargo nextest run -p lease -p orchestrator -p router",
    "cargo nextest run -p orchestrator",
    "cargo nextest run -p orchestrator forty",
    "cargo nextest run -p proxy -p router -p edge",
    "cargo nextest run -p tenant-core",
    "cargo xtask doctor",
    "cargo xtask mutants lease",
    "cargo xtask smoke-local",
    "cargo xtask smoke-local --faults",
    "cargo xtask smoke-tenant",
    "cargo xtask test",
    "cargo xtask test api",
    "cargo xtask test browser",
    "cargo xtask test built",
    "cargo xtask test mutants",
    "cargo xtask test quota",
    "cargo xtask test reboot",
    "cargo xtask test software",
    "cargo xtask test smoke-local compose readme",
    "cargo xtask test units",
    "cargo xtask tidy",
    r#"curl -X PATCH http://localhost:3100/api/admin/tenants/acme -b "$COOKIE" -H 'Content-Type: application/json' \"#,
    "docker compose up",
    "docker save",
    "docker compose up -d",
    "docker compose -p",
    "docker compose --profile build-only build tenant-base-build",
    "docker build --tag guestbook:1 examples/django",
    "docker build --tag jupyterlab:1 examples/jupyterlab",
    "docker build --tag jupyterlab:2 examples/jupyterlab",
    "docker build --tag pages:1 examples/static-site",
    // For people: CI cannot judge these.
    "cargo xtask bench",
    "cargo xtask bench auth",
    "cargo xtask bench create",
    "cargo xtask bench create --explain",
    "cargo xtask bench density",
    "cargo xtask bench density --rollout",
    "cargo xtask bench edge",
    "cargo xtask bench executions",
    "cargo xtask bench export",
    "cargo xtask bench history",
    "cargo xtask bench router",
    "cargo xtask bench routes",
    "cargo xtask bench tenant",
    "cargo xtask bench triggers",
    "cargo xtask bench wake",
    "cargo xtask fuzz --seconds 600",
    "cargo xtask mutants SET",
    "scripts/install-tools mutants",
];

#[test]
fn commands_in_the_documents_exist() {
    assert_none(&check(&Tree::of_checkout()));
}

fn check(tree: &Tree) -> Vec<String> {
    let xtask = xtask::Command::command();
    let makefile = tree.text("Makefile");
    let mut faults = Vec::new();
    // The step `readme` runs every block of the tutorial.
    let is_run_whole = |file: &&SourceFile| file.path == "docs/tutorial.md";
    let documents = tree.files.iter().filter(|file| file.path.ends_with(".md"));
    let documents = documents.filter(|file| !is_run_whole(file));
    for (file, number, command) in documents.flat_map(shown) {
        let words: Vec<_> = command.split_whitespace().collect();
        let is_known = match words.as_slice() {
            ["cargo", "xtask", name, rest @ ..] => knows(&xtask, name, rest),
            ["make", target, ..] => {
                makefile.lines().any(|line| line.starts_with(&format!("{target}:")))
            }
            _ => true,
        };
        let place = format!("{}:{number} shows `{command}`", file.path);
        if !is_known {
            faults.push(format!("{place}, which is no command"));
        } else if !DOCUMENTS.lines().chain(SHOWN.iter().copied()).any(|known| known == command) {
            faults.push(format!("{place}, which no step of cargo xtask test says that it runs"));
        }
    }
    faults
}

fn knows(xtask: &clap::Command, name: &str, words: &[&str]) -> bool {
    let Some(command) = xtask.find_subcommand(name) else { return false };
    let mut flags = words.iter().filter_map(|word| word.strip_prefix("--"));
    // `bench` passes every word on to another program.
    let passes_on = command.get_arguments().any(clap::Arg::is_trailing_var_arg_set);
    flags.all(|flag| {
        passes_on
            || flag == "help"
            || command.get_arguments().any(|argument| argument.get_long() == Some(flag))
    })
}

/// The commands of a document with their lines, from code blocks and from backticks.
fn shown(file: &SourceFile) -> Vec<(&SourceFile, usize, String)> {
    let mut found = Vec::new();
    let mut is_block = false;
    for (index, line) in file.text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            is_block = !is_block;
            continue;
        }
        let codes =
            if is_block { vec![line] } else { line.split('`').skip(1).step_by(2).collect() };
        for code in codes {
            let command = code.split(" #").next().unwrap_or_default();
            let words: Vec<_> = command.split_whitespace().collect();
            let is_command =
                words.len() > 1 && PROGRAMS.contains(&words[0]) && code.starts_with(words[0]);
            if is_command || words.first().is_some_and(|word| word.starts_with("scripts/")) {
                found.push((file, index + 1, words.join(" ")));
            }
        }
    }
    found
}

#[test]
fn a_planted_command_is_found() {
    let cases = [
        ("```\ncargo xtask local-up      # all of it\n```", true),
        ("Run `cargo xtask local-down --purge --yes`, then rest.", true),
        ("`cargo xtask test --help` picks steps", true),
        ("```\ncargo xtask fly\n```", false),
        ("Run `cargo xtask local-up --fast`.", false),
        ("`make moon`", false),
        ("They make nothing.", true),
        ("`make` is a program.", true),
        // The command exists, but no step runs it in this form.
        ("`cargo xtask local-logs postgres`", false),
        ("`docker compose down --volumes`", false),
        ("```\nscripts/unheard-of\n```", false),
        ("```\n browser ── router\n```", true),
    ];
    for (text, is_fine) in cases {
        assert_eq!(check(&Tree::of_files(&[("README.md", text)])).is_empty(), is_fine, "{text}");
    }
}
