//! An upgrade of the router inside its container, by the documented command, fails no request. Afterwards the engine still
//! restarts the container after a crash.

use std::cell::Cell;
use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::query_parameters::{ListContainersOptionsBuilder, TopOptionsBuilder};
use futures_util::future::try_join_all;

use super::journey;
use crate::http::Visitor;
use crate::local::{self, Installation};

const VISITORS: usize = 8;
/// Served before the restart, and again after it.
const ENOUGH: u32 = 50;

/// Asks for `/` all the while, as this guest; a single answer but 200 is a failure.
pub(super) async fn of_the_router(installation: &Installation, guest: &Visitor) -> Result<()> {
    let (docker, compose) = local::tools().await?;
    let router = router_of(&docker, installation).await?;
    let (served, is_over) = (Cell::new(0), Cell::new(false));
    let ask = async |mut guest: Visitor| {
        while !is_over.get() {
            journey::expect(&guest.get("/").await?, 200)?;
            served.set(served.get() + 1);
        }
        anyhow::Ok(())
    };
    let asking = try_join_all((0..VISITORS).map(|_| ask(guest.clone())));
    let restarting = async {
        reaches(&served, ENOUGH).await?;
        let before = processes(&docker, &router).await?;
        ensure!(before.len() == 1, "expected one process that serves, saw {before:?}");
        let mut upgrade = compose.command(installation);
        let output = upgrade.args(["exec", "-T", "router", "router", "upgrade"]).output()?;
        ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        journey::eventually("another process serves alone", async || {
            let now = processes(&docker, &router).await?;
            Ok(now.len() == 1 && now != before)
        })
        .await?;
        reaches(&served, served.get() + ENOUGH).await?;
        is_over.set(true);
        Ok(())
    };
    tokio::try_join!(asking, restarting)?;
    comes_back_after_a_crash(&docker, &router, guest).await
}

/// Kills PID 1 past the engine, which would take a kill through its API for a stop by hand. Does nothing where the
/// engine's processes are not this machine's.
async fn comes_back_after_a_crash(docker: &Docker, router: &str, guest: &Visitor) -> Result<()> {
    let state = docker.inspect_container(router, None).await?.state;
    let pid = state.and_then(|state| state.pid).context("the router has no process")?;
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    if !command_line.ends_with(b"router\0parent\0") {
        return Ok(());
    }
    let kill = std::process::Command::new("kill").args(["-9", &pid.to_string()]).status()?;
    if !kill.success() {
        return Ok(());
    }
    let mut guest = guest.clone();
    journey::eventually("the router is back after a crash", async || {
        let state = docker.inspect_container(router, None).await?.state;
        let is_another = state.and_then(|state| state.pid).is_some_and(|now| now > 0 && now != pid);
        let served = guest.get("/").await;
        Ok(is_another && served.is_ok_and(|answer| journey::expect(&answer, 200).is_ok()))
    })
    .await
}

async fn reaches(served: &Cell<u32>, count: u32) -> Result<()> {
    journey::eventually("visitors are served", async || Ok(served.get() >= count)).await
}

async fn router_of(docker: &Docker, installation: &Installation) -> Result<String> {
    let labels = vec![
        format!("com.docker.compose.project={}", installation.project()),
        "com.docker.compose.service=router".to_owned(),
    ];
    let filters = HashMap::from([("label", labels)]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let found = docker.list_containers(Some(options)).await?.into_iter().next();
    found.and_then(|container| container.id).context("no router runs")
}

/// The numbers of those that serve: all but PID 1, which holds the doors.
async fn processes(docker: &Docker, router: &str) -> Result<Vec<String>> {
    let options = TopOptionsBuilder::default().ps_args("-eo pid,args").build();
    let rows = docker.top_processes(router, Some(options)).await?.processes.unwrap_or_default();
    let serves = |row: &Vec<String>| row.iter().any(|word| word.contains("handed-"));
    Ok(rows.into_iter().filter(serves).filter_map(|row| row.into_iter().next()).collect())
}
