//! Topics, completion scripts and man pages.

use std::path::Path;

use clap::CommandFactory as _;
use clap_complete::env::Shells;

use crate::args::{Cli, Shell};
use crate::complete;
use crate::context::Context;
use crate::error::CliError;
use crate::help::TOPICS;
use crate::reference;

pub(super) fn topic(name: &str, context: &Context<'_>) -> Result<(), CliError> {
    let text = TOPICS.iter().find(|(own, _, _)| *own == name).map_or("", |(_, _, text)| text);
    context.output.data(text)
}

/// The script calls `cial` itself for candidates, so it never needs to be written anew.
pub(super) fn completion(shell: Shell, context: &Context<'_>) -> Result<(), CliError> {
    let failed = || CliError::failed(format!("cannot write the script of {}", shell.as_str()));
    let shells = Shells::builtins();
    let completer = shells.completer(shell.as_str()).ok_or_else(failed)?;
    let (mut script, command) = (Vec::new(), Cli::command());
    let name = command.get_name();
    completer
        .write_registration(complete::VARIABLE, name, name, name, &mut script)
        .map_err(|error| failed().because(error))?;
    context.output.bytes(&script)
}

pub(super) fn man(folder: &Path, context: &Context<'_>) -> Result<(), CliError> {
    reference::write_man_pages(folder).map_err(|error| {
        CliError::failed(format!("cannot write man pages into {}", folder.display())).because(error)
    })?;
    context.output.note(&format!("man pages are in {}", folder.display()));
    Ok(())
}
