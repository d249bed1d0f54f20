//! The reference and the man pages, made from the command line's types.

use std::fmt::Write as _;
use std::io;
use std::path::Path;

use clap::{Arg, Command, CommandFactory as _};

use crate::args::Cli;
use crate::help::TOPICS;

/// The text of `docs/reference/cli.md`.
pub fn markdown() -> String {
    let mut root = Cli::command();
    root.build();
    let mut text = String::from(
        "# `cial`\n\nGenerated from the command line's types; do not edit. \
         `UPDATE_REFERENCE=1 cargo test -p cli the_reference` writes this page.\n\n",
    );
    text.push_str("## Global options\n\nEvery command takes these options.\n\n");
    options(&root, true, &mut text);
    sections(&root, "cial", "##", &mut text);
    for (_, title, topic) in TOPICS {
        let _ = writeln!(text, "## {title}\n\n```text\n{}\n```\n", topic.trim_end());
    }
    text.truncate(text.trim_end().len());
    text.push('\n');
    text
}

/// A section for each command below `parent`, with those of its own commands one level deeper.
fn sections(parent: &Command, path: &str, marks: &str, text: &mut String) {
    for command in visible(parent) {
        let path = format!("{path} {}", command.get_name());
        let _ = writeln!(text, "{marks} `{path}`\n");
        section(command, text);
        sections(command, &path, &format!("{marks}#"), text);
    }
}

fn visible(command: &Command) -> impl Iterator<Item = &Command> {
    command.get_subcommands().filter(|own| !own.is_hide_set() && own.get_name() != "help")
}

fn section(command: &Command, text: &mut String) {
    if let Some(about) = command.get_about() {
        let about = about.to_string();
        let mut letters = about.chars();
        let first = letters.next().map(|c| c.to_uppercase().to_string()).unwrap_or_default();
        let _ = writeln!(text, "{first}{}.\n", letters.as_str());
    }
    let aliases: Vec<_> = command.get_visible_aliases().map(|alias| format!("`{alias}`")).collect();
    if !aliases.is_empty() {
        let _ = writeln!(text, "Also: {}.\n", aliases.join(", "));
    }
    options(command, false, text);
}

fn options(command: &Command, is_global: bool, text: &mut String) {
    let arguments: Vec<_> = command
        .get_arguments()
        .filter(|arg| !arg.is_hide_set() && arg.is_global_set() == is_global)
        .filter(|arg| !matches!(arg.get_id().as_str(), "help" | "version"))
        .collect();
    if arguments.is_empty() {
        return;
    }
    text.push_str("| argument | meaning |\n|---|---|\n");
    for argument in arguments {
        let _ = writeln!(text, "| {} | {} |", usage(argument), meaning(argument));
    }
    text.push('\n');
}

/// For example `` `-o`, `--output FORMAT` ``.
fn usage(argument: &Arg) -> String {
    let takes_value = argument.get_action().takes_values();
    let names = argument.get_value_names().unwrap_or_default();
    let value = names.iter().map(|name| name.to_string()).collect::<Vec<_>>().join(" ");
    let Some(long) = argument.get_long() else { return format!("`{value}`") };
    let long = if takes_value { format!("`--{long} {value}`") } else { format!("`--{long}`") };
    match argument.get_short() {
        Some(short) => format!("`-{short}`, {long}"),
        None => long,
    }
}

fn meaning(argument: &Arg) -> String {
    let mut text = argument.get_help().map(ToString::to_string).unwrap_or_default();
    let takes_value = argument.get_action().takes_values();
    let values: Vec<_> = argument
        .get_possible_values()
        .iter()
        .filter(|_| takes_value && !argument.is_hide_possible_values_set())
        .map(|value| format!("`{}`", value.get_name()))
        .collect();
    if !values.is_empty() {
        let _ = write!(text, "; one of {}", values.join(", "));
    }
    let defaults = argument.get_default_values().iter().filter(|_| takes_value);
    let defaults: Vec<_> = defaults.map(|value| format!("`{}`", value.to_string_lossy())).collect();
    if !defaults.is_empty() {
        let _ = write!(text, "; default {}", defaults.join(", "));
    }
    text.replace('|', "\\|")
}

/// Writes one man page for each command.
///
/// # Errors
/// The folder cannot be written.
pub fn write_man_pages(folder: &Path) -> io::Result<()> {
    std::fs::create_dir_all(folder)?;
    clap_mangen::generate_to(Cli::command(), folder)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reference_is_made_from_the_command_line() {
        const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/cli.md");
        let expected = markdown();
        if option_env!("UPDATE_REFERENCE").is_some() {
            std::fs::write(PATH, &expected).unwrap();
        }
        assert!(
            std::fs::read_to_string(PATH).unwrap() == expected,
            "the reference is outdated: set UPDATE_REFERENCE=1 and run again"
        );
    }

    #[test]
    fn every_command_has_a_section_with_its_arguments() {
        fn check(command: &Command, path: &str, text: &str) {
            for own in visible(command) {
                let path = format!("{path} {}", own.get_name());
                let (_, section) = text.split_once(&format!("# `{path}`\n")).expect(&path);
                let section = section.split("\n#").next().unwrap_or_default();
                let arguments = own.get_arguments().filter(|arg| !arg.is_global_set());
                for long in arguments.filter_map(Arg::get_long).filter(|long| *long != "help") {
                    assert!(section.contains(&format!("--{long}")), "{path} --{long}");
                }
                check(own, &path, text);
            }
        }
        let text = markdown();
        check(&Cli::command(), "cial", &text);
        assert!(text.contains("#### `cial apps rollout abort`"));
    }
}
