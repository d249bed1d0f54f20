//! `cargo xtask …`: the commands for people who work on a checkout. Each command is one variant
//! with one module.

mod bench;
mod doctor;
mod e2e;
pub mod environment;
mod ephemeral;
mod fuzz;
mod images;
mod interrupt;
mod local;
mod mutants;
mod reboot;
mod smoke;
mod test;

use std::process::ExitCode;

use anyhow::Result;
use clap::Parser;

#[derive(Parser)]
#[command(name = "cargo xtask", about, disable_help_subcommand = true)]
pub enum Command {
    /// Brings the installation of this checkout up, and waits until it is ready.
    LocalUp(local::up::Args),
    /// Takes the installation down; its data stays unless --purge is given.
    LocalDown(local::down::Args),
    /// Shows which services run and whether they are healthy.
    LocalStatus,
    /// Shows the logs of the services.
    LocalLogs(local::logs::Args),
    /// Builds the images that are missing or out of date.
    Images,
    /// Checks the tenant image as a black box, with the production flags.
    SmokeTenant(smoke::TenantArgs),
    /// Finds problems of the machine or the installation, and leaks.
    Doctor(doctor::Args),
    /// Follows a first owner's path over HTTP, in an installation that is removed afterwards.
    SmokeLocal(smoke::LocalArgs),
    /// Runs everything that CI runs, step by step.
    Test(test::Args),
    /// Checks the promises of ARCHITECTURE.md about the source itself.
    Tidy,
    /// Looks for bytes that break a parser, with libFuzzer.
    Fuzz(fuzz::Args),
    /// Changes each line of the pure cores, and checks that a test fails.
    Mutants(mutants::Args),
    /// Measures, and prints each figure beside its bar.
    Bench(bench::Args),
}

impl Command {
    pub fn run(self) -> Result<ExitCode> {
        match self {
            Self::LocalUp(args) => local::up::run(args),
            Self::LocalDown(args) => local::down::run(args),
            Self::LocalStatus => local::status::run(),
            Self::LocalLogs(args) => local::logs::run(&args),
            Self::Images => images::run(),
            Self::SmokeTenant(args) => smoke::tenant(args),
            Self::Doctor(args) => doctor::run(args),
            Self::SmokeLocal(args) => smoke::local(args),
            Self::Test(args) => test::run(args),
            Self::Tidy => test::tidy(),
            Self::Fuzz(args) => fuzz::run(args),
            Self::Mutants(args) => mutants::run(args),
            Self::Bench(args) => bench::run(args),
        }
    }
}
