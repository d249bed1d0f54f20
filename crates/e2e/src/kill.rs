//! Kills services of an installation. By the kernel and not by the engine, which would take a kill for a stop by hand
//! and restart nothing.

use anyhow::{Context as _, Result};
use bollard::Docker;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use testkit::engine::container_of_service;
use testkit::{Installation, eventually};

use crate::session::TIMEOUT;

/// Kills PID 1 of a container.
///
/// # Errors
/// This process is not root, or not on the engine's own machine.
pub fn sigkill(pid: i64) -> Result<()> {
    let killed = kill(Pid::from_raw(i32::try_from(pid)?), Signal::SIGKILL);
    killed.with_context(|| format!("cannot kill {pid}: be root, on the engine's own machine"))
}

/// Kills a service, and waits until the engine has started it again.
///
/// # Errors
/// The service does not run, or does not come back.
pub async fn kill_service(
    docker: &Docker,
    installation: &Installation,
    service: &str,
) -> Result<()> {
    let container = container_of_service(docker, installation, service).await?;
    let pid_1 = async || {
        let state = docker.inspect_container(&container, None).await?.state;
        anyhow::Ok(state.and_then(|state| state.pid).filter(|pid| *pid > 0))
    };
    let before = pid_1().await?.with_context(|| format!("{service} has no process"))?;
    sigkill(before)?;
    eventually("the engine starts the service again", TIMEOUT, async || {
        Ok(pid_1().await?.is_some_and(|now| now != before))
    })
    .await
}
