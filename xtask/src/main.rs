//! `cargo xtask …`

use clap::Parser as _;

fn main() -> std::process::ExitCode {
    xtask::environment::finish(xtask::Command::parse().run())
}
