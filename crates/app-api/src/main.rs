//! `app-api`: the control plane.

use std::process::ExitCode;

use app_api::command_line::Cli;
use clap::Parser as _;

fn main() -> ExitCode {
    service::run("app-api", |env| Cli::parse().run(env))
}
