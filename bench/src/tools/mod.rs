//! What a bench runs beside the thing it measures, each as a process of its own so that it can be pinned and its
//! CPU time results apart: what answers, what asks, and proxies that are bad on purpose.

pub(crate) mod backend;
pub(crate) mod load;
pub(crate) mod relay;
pub(crate) mod responses;
mod schedule;
pub(crate) mod tunnels;

use std::process::ExitCode;

use anyhow::Result;

use crate::{block_on, print_line};

#[derive(clap::Args)]
pub struct Args {
    #[command(subcommand)]
    tool: Tool,
}

#[derive(clap::Subcommand)]
enum Tool {
    /// Answers over a unix socket.
    Backend(backend::Args),
    /// Asks, and prints one JSON object about the answers.
    Load(load::Args),
    /// Opens WebSockets, says so, and holds them until its stdin ends.
    Tunnels(tunnels::Args),
    /// A proxy that passes bytes on, as badly as it is results to.
    Relay(relay::Args),
}

pub fn run(args: Args) -> Result<ExitCode> {
    match args.tool {
        Tool::Backend(args) => block_on(backend::serve(args))?,
        Tool::Load(args) => print_line(block_on(load::run(args))?),
        Tool::Tunnels(args) => block_on(tunnels::hold(args))?,
        Tool::Relay(args) => relay::serve(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
