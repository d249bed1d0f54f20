//! `cargo xtask …`

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    xtask::world::finish(xtask::Command::parse().run())
}
