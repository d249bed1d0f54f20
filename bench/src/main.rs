//! `cargo xtask bench …`

use std::process::ExitCode;

use clap::Parser as _;

fn main() -> ExitCode {
    bench::Command::parse().run().unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}
