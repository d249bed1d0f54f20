//! Programs beside the measured proxy: the backend, the load, and proxies that are bad on purpose.
//! Each is a separate process that can be pinned and whose CPU time is separate.

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
    /// Responds over a unix socket.
    Backend(backend::Args),
    /// Sends requests, and prints one JSON object about the responses.
    Load(load::Args),
    /// Opens WebSockets, prints `open`, and holds them until its stdin ends.
    Tunnels(tunnels::Args),
    /// A proxy that forwards bytes with a configured delay.
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
