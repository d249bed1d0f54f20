//! Every command in a document can be called literally, and CI runs the command.

use clap::CommandFactory as _;

use super::tree::{SourceFile, Tree};
use crate::test;

/// First words of commands; other code is not a command.
const PROGRAMS: &[&str] = &["cargo", "make", "docker", "docker-compose", "curl"];
/// Commands for people, which CI cannot judge.
const FOR_PEOPLE: &[&str] = &[
    "cargo xtask bench",
    "cargo xtask bench create",
    "cargo xtask bench create --explain",
    "cargo xtask bench density",
    "cargo xtask bench router",
    "cargo xtask bench routes",
    "cargo xtask bench tenant",
    "cargo xtask bench wake",
    "cargo xtask fuzz --seconds 600",
    "cargo xtask mutants SET",
    "scripts/install-tools mutants",
];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let xtask = crate::Command::command();
    let makefile =
        tree.files.iter().find(|file| file.path == "Makefile").map_or("", |file| &file.text);
    let mut faults = Vec::new();
    let documents = tree.files.iter().filter(|file| file.path.ends_with(".md"));
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
        } else if !test::runs(&command) && !FOR_PEOPLE.contains(&command.as_str()) {
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

#[cfg(test)]
mod tests {
    use super::super::tree::planted_file as file;
    use super::*;

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
            assert_eq!(check(&file("README.md", text)).is_empty(), is_fine, "{text}");
        }
    }
}
