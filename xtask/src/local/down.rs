//! `local-down` stops everything of an installation, by `scripts/down`. Its data stays unless a person gives up the
//! data explicitly.

use std::io::{IsTerminal as _, Write as _};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

use super::compose::log_output;
use super::installation::Installation;
use crate::environment::{connect_docker, exit_code, make_folder, root};

#[derive(clap::Args)]
pub struct Args {
    /// Remove the volumes too: the database, the secrets, every tenant's data.
    #[arg(long)]
    purge: bool,
    /// Skip the confirmation before a purge.
    #[arg(long, requires = "purge")]
    yes: bool,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    connect_docker()?;
    if args.purge && !args.yes {
        confirm_purge(&installation)?;
    }
    let status = script(&installation, args.purge).status().context("cannot run scripts/down")?;
    Ok(exit_code(status.success()))
}

/// Takes the installation down with its volumes, and fails if anything is left.
pub(crate) fn purge(installation: &Installation) -> Result<()> {
    let docker = connect_docker()?;
    let logs = installation.folder().join("log");
    make_folder(&logs)?;
    log_output(script(installation, true), &logs.join("local-down.log"))?;
    super::images::remove_own(&docker, installation);
    let left = installation.objects().everything()?;
    ensure!(left.is_empty(), "left behind: {left:?}");
    // A log file that cannot be removed is no reason to fail.
    let _ = std::fs::remove_dir_all(installation.folder());
    Ok(())
}

fn script(installation: &Installation, purge: bool) -> Command {
    let mut script = Command::new(root().join("scripts/down"));
    script.args(purge.then_some(["--purge", "--yes"]).into_iter().flatten());
    script.envs(installation.variables()).stdin(Stdio::null());
    script
}

fn confirm_purge(installation: &Installation) -> Result<()> {
    let is_asked = std::io::stdin().is_terminal();
    ensure!(is_asked, "--purge asks first, and nobody is here to answer: add --yes");
    let volumes = installation.objects().volumes()?;
    volumes.iter().for_each(|volume| eprintln!("{volume}"));
    eprint!("Type {:?} to remove these {} volumes for good: ", installation.name, volumes.len());
    std::io::stderr().flush()?;
    let mut typed = String::new();
    std::io::stdin().read_line(&mut typed)?;
    ensure!(typed.trim() == installation.name, "nothing was removed");
    Ok(())
}
