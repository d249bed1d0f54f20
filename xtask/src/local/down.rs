//! `local-down`: nothing of an installation runs afterwards; its data stays unless it is given up by name.

use std::collections::BTreeSet;
use std::io::{IsTerminal as _, Write as _};
use std::process::ExitCode;

use anyhow::{Context as _, Result, bail};
use bollard::Docker;

use super::compose::Compose;
use super::engine::{self, Swept};
use super::installation::Installation;
use super::up::tools;
use crate::world;

#[derive(clap::Args)]
pub struct Args {
    /// Remove the volumes too: the database, the secrets, every tenant's data.
    #[arg(long)]
    purge: bool,
    /// Do not ask before a purge.
    #[arg(long, requires = "purge")]
    yes: bool,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let installation = Installation::of_checkout()?;
    world::block_on(async {
        let (docker, compose) = tools().await?;
        if args.purge && !args.yes {
            ask(&docker, &installation).await?;
        }
        let swept = take_down(&docker, &compose, &installation, args.purge).await?;
        for thing in &swept.removed {
            world::say(format_args!("removed {thing}"));
        }
        swept.finish()?;
        let kept =
            if args.purge { "nothing is left" } else { "its data is kept (--purge removes it)" };
        world::say(format_args!("installation {:?} is down; {kept}", installation.name));
        Ok(ExitCode::SUCCESS)
    })
}

/// Takes the installation down, whatever of it there is, and tells what was removed beside compose's own.
pub async fn down(
    docker: &Docker,
    compose: &Compose,
    installation: &Installation,
    purge: bool,
) -> Result<Vec<String>> {
    take_down(docker, compose, installation, purge).await?.finish()
}

async fn take_down(
    docker: &Docker,
    compose: &Compose,
    installation: &Installation,
    purge: bool,
) -> Result<Swept> {
    let logs = installation.folder().join("log");
    std::fs::create_dir_all(&logs).with_context(|| format!("cannot make {}", logs.display()))?;
    let log = logs.join("local-down.log");
    let projects = engine::projects(docker, installation).await?;
    let mut swept = Swept::default();
    // Compose first: an orchestrator that still runs would bring the tenants back. What one project leaves must keep
    // neither another one nor the rest.
    for project in &projects {
        let mut command = compose.command_for(installation, project);
        command.arg("down");
        // A project that has another name may have other things as well: of it, only what compose.yml names.
        match *project == installation.project() {
            true => command.arg("--remove-orphans"),
            false => command.args(purge.then_some("--volumes")),
        };
        if let Err(error) = compose.log(command, &log) {
            swept.note(format!("project {project}"), Err(error));
        }
    }
    engine::sweep(docker, installation, &mut swept).await?;
    if purge {
        let own = BTreeSet::from([installation.project()]);
        let volumes = engine::all_volumes(docker, installation, &own).await?;
        engine::remove_all(docker, volumes, &mut swept).await;
    }
    Ok(swept)
}

async fn ask(docker: &Docker, installation: &Installation) -> Result<()> {
    if !std::io::stdin().is_terminal() {
        bail!("--purge asks first, and nobody is here to answer: add --yes");
    }
    let projects = engine::projects(docker, installation).await?;
    let volumes = engine::all_volumes(docker, installation, &projects).await?;
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
