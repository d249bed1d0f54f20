//! An installation that is removed after the work, whatever the outcome of the work.

use anyhow::{Context as _, Result, bail};

use crate::e2e::{self, Tests};
use crate::interrupt;
use crate::local::{self, Installation};

/// Runs tests on an installation that `local-up` brings up, with variables besides those of the installation.
pub(crate) fn test(
    installation: Installation,
    tests: Tests,
    more: &[(&'static str, String)],
) -> Result<()> {
    with_installation(installation, local::up::up, |installation| {
        e2e::run(tests, &[&*installation.variables(), more].concat())
    })
}

/// Brings an installation up, runs `work`, checks the logs, and purges the installation.
pub(crate) fn with_installation(
    installation: Installation,
    bring_up: impl FnOnce(&mut Installation) -> Result<()>,
    work: impl FnOnce(&Installation) -> Result<()>,
) -> Result<()> {
    then_purge(installation, |installation| {
        bring_up(installation)?;
        work(installation)?;
        // If the work stopped the services, no service can provide the secrets for the check.
        if local::unhealthy(installation)?.is_empty() {
            e2e::run(e2e::LOGS, &installation.variables())?;
        }
        Ok(())
    })
}

/// Runs `work`, then purges the installation: on success, on failure, on SIGINT and on SIGTERM. A
/// failure shows the last log lines of every service before the purge.
pub(crate) fn then_purge(
    mut installation: Installation,
    work: impl FnOnce(&mut Installation) -> Result<()>,
) -> Result<()> {
    interrupt::defer();
    let outcome = work(&mut installation).and_then(|()| interrupt::check());
    interrupt::reset();
    if outcome.is_err() {
        local::logs::dump(&installation);
    }
    let purged = local::down::purge(&installation).context("the installation is not gone");
    match (outcome, purged) {
        (Ok(()), purged) => purged,
        (Err(error), Ok(())) => Err(error),
        (Err(error), Err(left)) => bail!("{error:#}; and {left:#}"),
    }
}
