//! `cial`, the command line of the admin API.
//!
//! A command reads its arguments ([`args`]), finds its server and key ([`config`]), makes calls (`http`) and shows
//! what the API returned ([`output`]). Data goes to standard output; progress, notes and errors go to standard error.

pub mod args;
mod clock;
mod commands;
pub mod complete;
pub mod config;
mod context;
mod environment;
mod error;
mod help;
mod http;
mod interrupt;
pub mod output;
pub mod reference;
mod tenant;

use std::process::ExitCode;

use clap::Parser as _;

pub use environment::Environment;
pub use error::{CliError, Exit};

/// Runs the command line of `environment`, and returns the exit code of the process.
pub fn run(environment: &Environment) -> ExitCode {
    let cli = match args::Cli::try_parse_from(&environment.args) {
        Ok(cli) => cli,
        Err(error) => {
            // A closed pipe is the reader's choice: `cial help | head` succeeds.
            let _ = error.print();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    let output = output::Output::new(&cli.global, environment);
    let context = context::Context::new(cli.global, environment, output);
    match commands::run(cli.command, &context) {
        Ok(()) => Exit::Success.into(),
        Err(error) => {
            context.output.error(&error);
            error.exit.into()
        }
    }
}
