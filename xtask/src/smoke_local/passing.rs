//! An installation that is gone afterwards, whatever became of the work in between.

use anyhow::{Context as _, Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use super::journey;
use crate::local::{self, Installation};

/// Runs `work` beside an installation, then purges it: on success, on failure, on SIGINT and on SIGTERM. What is
/// still up after success must have kept its secrets; a failure shows what every service said before it goes.
pub(crate) async fn with(
    installation: &mut Installation,
    work: impl AsyncFnOnce(&mut Installation) -> Result<()>,
) -> Result<()> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let outcome = tokio::select! {
        biased;
        _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
        _ = terminate.recv() => Err(anyhow::anyhow!("asked to end")),
        outcome = work_and_look(installation, work) => outcome,
    };
    if outcome.is_err() {
        local::logs::dump(installation).await;
    }
    let purged = purge(installation).await.context("the installation is not gone");
    match (outcome, purged) {
        (Ok(()), purged) => purged,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => bail!("{error:#}; and {left:#}"),
    }
}

/// Work that succeeds has still failed when something that it did is told by a log.
async fn work_and_look(
    installation: &mut Installation,
    work: impl AsyncFnOnce(&mut Installation) -> Result<()>,
) -> Result<()> {
    work(installation).await?;
    let (docker, compose) = local::tools().await?;
    if local::unhealthy(&docker, installation).await?.is_empty() {
        let password = journey::PASSWORD.to_owned();
        local::examine_logs(&docker, &compose, installation, &[password]).await?;
    }
    Ok(())
}

async fn purge(installation: &Installation) -> Result<()> {
    let (docker, compose) = local::tools().await?;
    local::down::down(&docker, &compose, installation, true).await?;
    local::remove_own_images(&docker, installation).await;
    let left = local::left(&docker, installation).await?;
    ensure!(left.is_empty(), "left behind: {}", left.join(", "));
    // A log that cannot be removed is no reason to fail.
    let _ = std::fs::remove_dir_all(installation.folder());
    Ok(())
}
