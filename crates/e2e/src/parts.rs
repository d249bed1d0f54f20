//! The services and the tenants of an installation, as containers on the engine: found, killed, upgraded.

use std::collections::BTreeSet;

use anyhow::{Context as _, Result, ensure};
use docker_command::{Container, InstallationObjects};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::engine::TenantContainer;
use testkit::{Installation, eventually};

use crate::session::TIMEOUT;

/// Its calls wait beside the test, whose visitors go on meanwhile.
#[derive(Clone, Debug)]
pub struct Parts(InstallationObjects);

impl Parts {
    pub fn of(installation: &Installation) -> Self {
        Self(InstallationObjects::of(&installation.name))
    }

    /// The container of a compose service, which must exist.
    ///
    /// # Errors
    /// The service has no container, or the engine does not answer; the latter for all that follow.
    pub async fn service(&self, name: &str) -> Result<Container> {
        let name = name.to_owned();
        self.call(move |objects| objects.service(&name)).await
    }

    /// The containers of a tenant: one, unless something is wrong.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn tenant(&self, slug: &str) -> Result<Vec<Container>> {
        let slug = slug.to_owned();
        self.call(move |objects| objects.tenant(&slug)).await
    }

    /// The names of every container, network and volume of tenants.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn of_tenants(&self) -> Result<BTreeSet<String>> {
        self.call(InstallationObjects::of_tenants).await
    }

    /// Every container of a service or a tenant.
    ///
    /// # Errors
    /// The engine does not answer.
    pub async fn containers(&self) -> Result<Vec<Container>> {
        self.call(|objects| Ok([objects.services()?, objects.tenants()?].concat())).await
    }

    /// Kills a service, and waits until the engine has started it again.
    ///
    /// # Errors
    /// The service does not run, or does not come back.
    pub async fn kill_service(&self, name: &str) -> Result<()> {
        let killed = self.service(name).await?;
        sigkill(&killed)?;
        self.has_restarted(name, &killed).await
    }

    /// Waits until the engine has started a service again since it was as `before`.
    ///
    /// # Errors
    /// The service does not come back.
    pub async fn has_restarted(&self, name: &str, before: &Container) -> Result<()> {
        eventually("the engine starts the service again", TIMEOUT, async || {
            Ok(self.service(name).await?.restart_count() > before.restart_count())
        })
        .await
    }

    /// Runs what `docker compose exec router router upgrade` runs, which the step `readme` types literally.
    ///
    /// # Errors
    /// The command fails.
    pub async fn upgrade_router(&self) -> Result<()> {
        let docker = testkit::engine::connect().await?;
        let router = TenantContainer::existing(&docker, &self.service("router").await?.id);
        let upgrade = router.exec("1000", &["router", "upgrade"]).await?;
        ensure!(upgrade.exit_code == 0, "router upgrade: {}", upgrade.text);
        Ok(())
    }

    async fn call<T: Send + 'static>(
        &self,
        call: impl FnOnce(&InstallationObjects) -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let objects = self.0.clone();
        tokio::task::spawn_blocking(move || call(&objects)).await?
    }
}

/// Kills PID 1 of a container. By the kernel and not by the engine, which would take a kill for a stop by hand and restart
/// nothing.
///
/// # Errors
/// Nothing runs in the container, or this process is not root, or not on the engine's own machine.
pub fn sigkill(container: &Container) -> Result<()> {
    let pid = container.state()["Pid"].as_i64().filter(|pid| *pid > 0);
    let pid = pid.with_context(|| format!("{} has no process", container.name))?;
    let killed = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
    killed.with_context(|| format!("cannot kill {pid}: be root, on the engine's own machine"))
}
