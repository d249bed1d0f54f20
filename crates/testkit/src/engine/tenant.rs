//! One tenant's container: started, stopped, frozen, inspected, and entered.

use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{ContainerInspectResponse, HostConfig};
use bollard::query_parameters::{
    InspectContainerOptions, KillContainerOptions, LogsOptionsBuilder,
    RestartContainerOptionsBuilder, StartContainerOptions,
};
use futures_util::TryStreamExt as _;

use super::STOP_GRACE_SECONDS;

const FLAGS: &str = include_str!("../../../../docker/tenant.json");
const SECCOMP: &str = include_str!("../../../../docker/seccomp.json");
/// Longer than any command in a tenant takes.
pub(super) const COMMAND_TIMEOUT: Duration = Duration::from_secs(120);
/// A step takes milliseconds, and seconds on a busy machine; a longer step hangs.
const PROBE_TIMEOUT: Duration = Duration::from_secs(60);
const PROBE_INTERVAL: Duration = Duration::from_millis(20);

/// A container of a tenant, or any other one that a test looks at.
#[derive(Clone, Debug)]
pub struct TenantContainer {
    pub id: String,
    docker: Docker,
}

/// The outcome of a command in a container: both outputs as one text, without the last line break.
#[derive(Debug)]
pub struct ExecOutput {
    pub text: String,
    pub exit_code: i64,
}

impl TenantContainer {
    /// A container that exists already.
    pub fn existing(docker: &Docker, id: &str) -> Self {
        Self { id: id.to_owned(), docker: docker.clone() }
    }

    pub const fn docker(&self) -> &Docker {
        &self.docker
    }

    pub async fn freeze(&self) -> Result<()> {
        self.docker.pause_container(&self.id).await.context("cannot freeze the tenant")
    }

    pub async fn thaw(&self) -> Result<()> {
        self.docker.unpause_container(&self.id).await.context("cannot thaw the tenant")
    }

    pub async fn restart(&self) -> Result<()> {
        let options = RestartContainerOptionsBuilder::default().t(STOP_GRACE_SECONDS).build();
        let restarted = self.docker.restart_container(&self.id, Some(options));
        restarted.await.context("cannot restart the tenant")
    }

    /// Kills it, and waits for its end.
    pub async fn kill(&self) -> Result<()> {
        self.docker.kill_container(&self.id, None::<KillContainerOptions>).await?;
        let ended = async || self.inspect().await.ok()?.state?.running.filter(|running| !running);
        self.wait_for("the end of the container", ended).await.map(drop)
    }

    pub async fn start(&self) -> Result<()> {
        let started = self.docker.start_container(&self.id, None::<StartContainerOptions>).await;
        started.context("cannot start the tenant")
    }

    pub async fn inspect(&self) -> Result<ContainerInspectResponse> {
        Ok(self.docker.inspect_container(&self.id, None::<InspectContainerOptions>).await?)
    }

    /// The loopback port on which this start publishes port 8080.
    pub async fn port(&self) -> Result<u16> {
        let inspected = self.inspect().await?;
        let ports = inspected.network_settings.and_then(|n| n.ports).unwrap_or_default();
        let binding = ports.get("8080/tcp").cloned().flatten().and_then(|b| b.into_iter().next());
        let port = binding.and_then(|b| b.host_port).context("port 8080 is not published")?;
        Ok(port.parse()?)
    }

    /// Runs a command as a user of the image and waits for its end.
    pub async fn exec(&self, user: &str, command: &[&str]) -> Result<ExecOutput> {
        let timeout = COMMAND_TIMEOUT.as_secs();
        let ran = tokio::time::timeout(COMMAND_TIMEOUT, self.exec_unbounded(user, command)).await;
        ran.with_context(|| format!("not ended within {timeout} s: {command:?}"))?
    }

    async fn exec_unbounded(&self, user: &str, command: &[&str]) -> Result<ExecOutput> {
        let options = CreateExecOptions {
            attach_stdout: Some(true),
            attach_stderr: Some(true),
            user: Some(user),
            cmd: Some(command.to_vec()),
            ..CreateExecOptions::default()
        };
        let exec = self.docker.create_exec(&self.id, options).await?.id;
        let StartExecResults::Attached { mut output, .. } =
            self.docker.start_exec(&exec, None).await?
        else {
            bail!("the engine did not attach to the command");
        };
        let mut text = Vec::new();
        while let Some(piece) = output.try_next().await? {
            text.extend_from_slice(&piece.into_bytes());
        }
        let exit_code = self.exit_code(&exec).await?;
        Ok(ExecOutput { text: String::from_utf8_lossy(&text).trim().to_owned(), exit_code })
    }

    /// The exit code of a command whose output has ended. The engine records the end of the command a moment later.
    async fn exit_code(&self, exec: &str) -> Result<i64> {
        loop {
            let inspected = self.docker.inspect_exec(exec).await?;
            if inspected.running != Some(true) {
                return Ok(inspected.exit_code.unwrap_or(-1));
            }
            tokio::time::sleep(PROBE_INTERVAL).await;
        }
    }

    pub async fn exec_shell(&self, user: &str, script: &str) -> Result<ExecOutput> {
        self.exec(user, &["/bin/sh", "-c", script]).await
    }

    pub async fn exec_perl(&self, user: &str, program: &str) -> Result<ExecOutput> {
        self.exec(user, &["perl", "-e", program]).await
    }

    pub async fn logs(&self) -> Result<String> {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let pieces: Vec<LogOutput> =
            self.docker.logs(&self.id, Some(options)).try_collect().await?;
        let bytes: Vec<_> = pieces.into_iter().flat_map(LogOutput::into_bytes).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// `Some` once the log holds this text.
    pub async fn logged(&self, text: &str) -> Option<()> {
        self.logs().await.ok()?.contains(text).then_some(())
    }

    /// Calls `probe` every 20 ms until it returns a value.
    ///
    /// # Errors
    /// No value within a minute; the message names `what`.
    pub async fn wait_for<T>(&self, what: &str, probe: impl AsyncFn() -> Option<T>) -> Result<T> {
        let waited = async {
            loop {
                if let Some(value) = probe().await {
                    return value;
                }
                tokio::time::sleep(PROBE_INTERVAL).await;
            }
        };
        let timely = tokio::time::timeout(PROBE_TIMEOUT, waited).await;
        timely.with_context(|| format!("{what}: not within {} s", PROBE_TIMEOUT.as_secs()))
    }
}

/// The flags that the orchestrator's driver uses, with the seccomp profile where the engine's API wants it.
///
/// # Errors
/// `docker/tenant.json` is no host configuration.
pub fn host_config() -> Result<HostConfig> {
    let mut host: HostConfig = serde_json::from_str(FLAGS).context("docker/tenant.json")?;
    let profile: serde_json::Value =
        serde_json::from_str(SECCOMP).context("docker/seccomp.json")?;
    host.security_opt.get_or_insert_default().push(format!("seccomp={profile}"));
    Ok(host)
}

/// A UUID that depends on the name alone.
pub fn uuid_of(name: &str) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(name.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-7{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}
