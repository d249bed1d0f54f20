//! The router, started anew inside its container while visitors ask: none of them notices.

use std::cell::Cell;
use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::query_parameters::{
    KillContainerOptionsBuilder, ListContainersOptionsBuilder, TopOptionsBuilder,
};
use futures_util::future::try_join_all;

use super::journey;
use crate::http::Visitor;
use crate::local::{self, Installation};

const VISITORS: usize = 8;
/// Served before the restart, and again after it.
const ENOUGH: u32 = 50;

/// Asks for `/` all the while, as this guest; a single answer but 200 is a failure.
pub(super) async fn of_the_router(installation: &Installation, guest: &Visitor) -> Result<()> {
    let (docker, _) = local::tools().await?;
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
        let signal = KillContainerOptionsBuilder::default().signal("SIGUSR2").build();
        docker.kill_container(&router, Some(signal)).await?;
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
    Ok(())
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
