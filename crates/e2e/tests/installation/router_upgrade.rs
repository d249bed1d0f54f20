//! An upgrade of the router inside its container, by the documented command, fails no request. Afterwards the engine
//! still restarts the container after a crash.

use std::cell::Cell;

use anyhow::{Result, ensure};
use bollard::Docker;
use bollard::query_parameters::TopOptionsBuilder;
use e2e::Parts;
use e2e::session::TIMEOUT;
use futures_util::future::try_join_all;
use testkit::{Client, Installation, eventually};

const VISITORS: usize = 8;
/// Requests that are served before the upgrade, and again after it.
const REQUESTS: u32 = 50;

/// Sends requests for `/` as this guest during an upgrade; a single response other than 200 is a failure.
pub(crate) async fn under_load(installation: &Installation, guest: &Client) -> Result<()> {
    let (docker, parts) = (testkit::engine::connect().await?, Parts::of(installation));
    let router = parts.service("router").await?.id;
    let (served, is_over) = (Cell::new(0), Cell::new(false));
    let visit = async |mut guest: Client| {
        while !is_over.get() {
            guest.get("/").await?.expect_status(200)?;
            served.set(served.get() + 1);
        }
        anyhow::Ok(())
    };
    let visits = try_join_all((0..VISITORS).map(|_| visit(guest.clone())));
    let upgrade = async {
        reaches(&served, REQUESTS).await?;
        let before = serving_processes(&docker, &router).await?;
        ensure!(before.len() == 1, "expected one process that serves, got {before:?}");
        parts.upgrade_router().await?;
        eventually("another process serves alone", TIMEOUT, async || {
            let now = serving_processes(&docker, &router).await?;
            Ok(now.len() == 1 && now != before)
        })
        .await?;
        reaches(&served, served.get() + REQUESTS).await?;
        is_over.set(true);
        Ok(())
    };
    tokio::try_join!(visits, upgrade)?;
    Ok(())
}

/// Kills the router.
pub(crate) async fn returns_after_a_crash(
    installation: &Installation,
    guest: &Client,
) -> Result<()> {
    Parts::of(installation).kill_service("router").await?;
    let mut guest = guest.clone();
    eventually("the router is back after a crash", TIMEOUT, async || {
        Ok(guest.get("/").await.is_ok_and(|page| page.status == 200))
    })
    .await
}

async fn reaches(served: &Cell<u32>, count: u32) -> Result<()> {
    eventually("visitors are served", TIMEOUT, async || Ok(served.get() >= count)).await
}

/// The pids of the processes that serve: all but PID 1, which holds the listeners.
async fn serving_processes(docker: &Docker, router: &str) -> Result<Vec<String>> {
    let options = TopOptionsBuilder::default().ps_args("-eo pid,args").build();
    let rows = docker.top_processes(router, Some(options)).await?.processes.unwrap_or_default();
    let serves = |row: &Vec<String>| row.iter().any(|word| word.contains("handed-"));
    Ok(rows.into_iter().filter(serves).filter_map(|row| row.into_iter().next()).collect())
}
