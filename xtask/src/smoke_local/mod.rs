//! `smoke-local`: an installation of its own, from nothing to a tenant one is signed in to, and back to nothing.
//!
//! HTTP only. Whatever happens, failure and Ctrl-C included, nothing of it stays.

mod changed;
mod faults;
mod isolation;
pub(crate) mod journey;
pub(crate) mod passing;
mod restart;

use std::process::ExitCode;

use anyhow::{Result, ensure};

use crate::local::{self, Installation};
use crate::world;

#[derive(clap::Args)]
pub struct Args {
    /// Break off while a tenant runs: fails, and leaves as little behind.
    #[arg(long)]
    break_off: bool,
    /// Kill, stop and remove parts of it, also in the middle of their work.
    #[arg(long, conflicts_with = "break_off")]
    faults: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    match attempt(Way::of(&args)) {
        Ok(()) => {
            world::say("ok     nothing of the installation is left");
            Ok(ExitCode::SUCCESS)
        }
        Err(error) => {
            world::say(format_args!("FAILED {error:#}"));
            Ok(ExitCode::FAILURE)
        }
    }
}

/// A run that breaks off must fail for that reason alone: whatever else it says was left behind.
pub(crate) fn fails_and_leaves_nothing() -> Result<()> {
    let told = attempt(Way::BrokenOff)
        .err()
        .map_or_else(|| "success".to_owned(), |error| format!("{error:#}"));
    ensure!(told == journey::ON_PURPOSE, "expected {:?}, saw {told:?}", journey::ON_PURPOSE);
    world::say("ok     a run that fails says so and leaves nothing, either");
    Ok(())
}

/// What is done with the installation.
#[derive(Clone, Copy)]
enum Way {
    Whole,
    BrokenOff,
    Disturbed,
}

impl Way {
    const fn of(args: &Args) -> Self {
        match (args.break_off, args.faults) {
            (true, _) => Self::BrokenOff,
            (false, true) => Self::Disturbed,
            (false, false) => Self::Whole,
        }
    }
}

fn attempt(way: Way) -> Result<()> {
    let mut installation = Installation::passing("smoke")?;
    if let Way::Disturbed = way {
        installation.with_own_tenant_image();
    }
    world::block_on(passing::with(&mut installation, async |installation| {
        local::up::up(installation).await?;
        match way {
            Way::Whole => journey::go(installation).await,
            Way::BrokenOff => journey::break_off(installation).await,
            Way::Disturbed => faults::go(installation).await,
        }
    }))
}
