//! `local-down` stops everything of an installation. Its data stays unless a person gives up the
//! data explicitly.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};

use super::compose::Compose;
use super::installation::Installation;
use super::objects::{self, Removal};
use super::tools;
use crate::docker::Docker;
use crate::environment::print_line;

#[derive(clap::Args)]
pub struct Args {
    /// Remove the volumes too: the database, the secrets, every tenant's data.
    #[arg(long)]
    purge: bool,
    /// Skip the confirmation before a purge.
    #[arg(long, requires = "purge")]
    yes: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    let (docker, compose) = tools()?;
    if args.purge && !args.yes {
        confirm_purge(&docker, &installation)?;
    }
    let removal = take_down(&docker, &compose, &installation, args.purge)?;
    for object in &removal.removed {
        print_line(format_args!("removed {object}"));
    }
    removal.finish()?;
    let kept = if args.purge { "nothing is left" } else { "its data is kept (--purge removes it)" };
    print_line(format_args!("installation {:?} is down; {kept}", installation.name));
    Ok(ExitCode::SUCCESS)
}

/// Takes the installation down with its volumes, and fails if anything is left.
pub fn purge(installation: &Installation) -> Result<()> {
    let (docker, compose) = tools()?;
    take_down(&docker, &compose, installation, true)?.finish()?;
    super::images::remove_own(&docker, installation);
    let left = objects::everything(&docker, installation)?;
    anyhow::ensure!(left.is_empty(), "left behind: {left:?}");
    // A log file that cannot be removed is no reason to fail.
    let _ = std::fs::remove_dir_all(installation.folder());
    Ok(())
}

fn take_down(
    docker: &Docker,
    compose: &Compose,
    installation: &Installation,
    purge: bool,
) -> Result<Removal> {
    let logs = installation.folder().join("log");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let log = logs.join("local-down.log");
    let mut removal = Removal::default();
    // Compose goes first, because a running orchestrator would bring the tenants back. Leftovers of
    // one project must not prevent the removal of another project or of the rest.
    for project in &objects::projects(docker, installation)? {
        let mut command = compose.command_for(installation, project);
        command.arg("down");
        // A project of another name may have other objects, too, so only the objects that
        // compose.yml names are removed.
        match *project == installation.project() {
            true => command.arg("--remove-orphans"),
            false => command.args(purge.then_some("--volumes")),
        };
        if let Err(error) = compose.log(command, &log) {
            removal.record(format!("project {project}"), Err(error));
        }
    }
    objects::remove_tenants(docker, installation, &mut removal)?;
    if purge {
        let own = BTreeSet::from([installation.project()]);
        let volumes = objects::all_volumes(docker, installation, &own)?;
        objects::remove_volumes(docker, volumes, &mut removal);
    }
    Ok(removal)
}

fn confirm_purge(docker: &Docker, installation: &Installation) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("--purge asks first, and nobody is here to answer: add --yes");
    }
    let projects = objects::projects(docker, installation)?;
    let volumes = objects::all_volumes(docker, installation, &projects)?;
    for volume in &volumes {
        eprintln!("{volume}");
    }
    eprint!("Type {:?} to remove these {} volumes for good: ", installation.name, volumes.len());
    std::io::stderr().flush()?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer)?;
    if answer.trim() != installation.name {
        bail!("nothing was removed");
    }
    Ok(())
}
