//! Tenants run by hand: containers with the production flags, and everything that is removed afterwards.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::Docker;
use bollard::container::LogOutput;
use bollard::exec::{CreateExecOptions, StartExecResults};
use bollard::models::{
    ContainerCreateBody, ContainerInspectResponse, HostConfig, Mount, MountType, PortBinding,
    VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, InspectContainerOptions, ListContainersOptionsBuilder,
    ListImagesOptionsBuilder, ListNetworksOptionsBuilder, ListVolumesOptionsBuilder,
    LogsOptionsBuilder, RemoveContainerOptionsBuilder, RemoveImageOptionsBuilder,
    RemoveVolumeOptions, RestartContainerOptionsBuilder, StartContainerOptions,
    WaitContainerOptions,
};
use futures_util::{StreamExt as _, TryStreamExt as _};
use tokio::signal::unix::{SignalKind, signal};

use super::token::Keys;
use crate::local;

const FLAGS: &str = include_str!("../../../docker/tenant.json");
const SECCOMP: &str = include_str!("../../../docker/seccomp.json");
/// Images that are made from the one that is checked, and removed again.
const ALTERED: &str = "cial-tenant-altered";
/// Label of all that a run makes.
const RUN: &str = "cial.run";
/// Where nothing takes long, this is a hang.
pub(crate) const HANG: Duration = Duration::from_secs(30);
/// Longer than any command in a tenant takes.
const COMMAND: Duration = Duration::from_secs(120);

/// An installation of its own on the engine, told apart by its label.
pub(crate) struct Stage {
    pub(crate) docker: Docker,
    pub(crate) image: String,
    /// Tells this run's things apart from those of every other.
    run: String,
    pub(crate) install: String,
}

/// What one tenant is given.
#[derive(Clone, Default)]
pub(crate) struct Wish {
    pub(crate) name: &'static str,
    /// Keys for SSO, in the secrets directory.
    pub(crate) keys: Option<Keys>,
    /// Route token and proof: then the edge is guarded.
    pub(crate) guard: Option<(String, String)>,
    /// A network of its own, as the driver makes it; otherwise the engine's default one.
    pub(crate) has_network: bool,
}

/// A container: a tenant that was started, or one that is looked at.
#[derive(Clone, Debug)]
pub(crate) struct Tenant {
    pub(crate) id: String,
    docker: Docker,
}

/// What a command in a tenant said.
#[derive(Debug)]
pub(crate) struct Ran {
    pub(crate) out: String,
    pub(crate) code: i64,
}

impl Stage {
    pub(crate) fn new(docker: Docker, image: &str) -> Self {
        let run = format!("smoke-tenant-{}", std::process::id());
        Self { docker, image: image.to_owned(), install: run.clone(), run }
    }

    /// A stage beside this one, for an image that is made from this one's.
    pub(crate) fn beside(&self, name: &str) -> Self {
        Self {
            docker: self.docker.clone(),
            image: format!("{ALTERED}:{}-{name}", self.run),
            run: self.run.clone(),
            install: format!("{}-{name}", self.run),
        }
    }

    /// Does `work` on this stage, then removes all that it made: on success, on failure, on SIGINT and on SIGTERM.
    pub(crate) async fn during<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let outcome = tokio::select! {
            biased;
            _ = interrupt.recv() => Err(anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow!("asked to end")),
            outcome = work => outcome,
        };
        self.clean_up().await?;
        outcome
    }

    /// Creates and starts a tenant as the driver does; it may not be ready yet.
    pub(crate) async fn start(&self, wish: &Wish) -> Result<Tenant> {
        let tenant = self.create(wish).await?;
        tenant.start().await?;
        Ok(tenant)
    }

    pub(crate) async fn create(&self, wish: &Wish) -> Result<Tenant> {
        let prefix = format!("cial-{}-{}", self.install, wish.name);
        let (sockets, secrets) = (format!("{prefix}-sockets"), format!("{prefix}-secrets"));
        let (data, files) = (format!("{prefix}-data"), format!("{prefix}-files"));
        for volume in [&sockets, &secrets, &data, &files] {
            let request = VolumeCreateRequest {
                name: Some(volume.clone()),
                labels: Some(self.labels()),
                ..VolumeCreateRequest::default()
            };
            self.docker.create_volume(request).await?;
        }
        self.furnish(&prefix, &sockets, &secrets, wish).await?;
        let mut host = flags()?;
        host.mounts = Some(vec![
            mount(&sockets, "/run/cial/ingress", false),
            mount(&secrets, "/run/cial/secrets", true),
            mount(&data, "/var/lib/cial", false),
            mount(&files, "/home/agent/files", false),
        ]);
        let loopback =
            PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
        host.port_bindings = Some(HashMap::from([("8080/tcp".to_owned(), Some(vec![loopback]))]));
        if wish.has_network {
            host.network_mode = Some(self.create_network(&prefix).await?);
        }
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            env: Some(vec![
                format!("TENANT_ID={}", wish.name),
                format!("CIAL_TENANT_UUID={}", uuid_of(wish.name)),
            ]),
            labels: Some(self.labels()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        let id = self.create_container(&prefix, body).await?;
        Ok(Tenant { id, docker: self.docker.clone() })
    }

    /// Prepares a tenant's directories, which is the orchestrator's work, with the shell of the image.
    async fn furnish(&self, prefix: &str, sockets: &str, secrets: &str, wish: &Wish) -> Result<()> {
        let mut script =
            "set -eu; chown 1000:1000 /sockets; chmod 0750 /sockets; cd /secrets".to_owned();
        let mut put = |name: &str, content: &[u8]| {
            let content = BASE64.encode(content);
            script.push_str(&format!("; echo {content} | base64 -d > {name}; chmod 0400 {name}"));
            script.push_str(&format!("; chown 1000:1000 {name}"));
        };
        if let Some(keys) = &wish.keys {
            put("sso-key", keys.sso());
        }
        if let Some((token, proof)) = &wish.guard {
            put("route-token", token.as_bytes());
            put("route-proof", proof.as_bytes());
        }
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(["/bin/sh", "-c"].map(str::to_owned).to_vec()),
            cmd: Some(vec![script]),
            user: Some("0".to_owned()),
            labels: Some(self.labels()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(vec![
                    mount(sockets, "/sockets", false),
                    mount(secrets, "/secrets", false),
                ]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let id = self.create_container(&format!("{prefix}-furnish"), body).await?;
        self.docker.start_container(&id, None::<StartContainerOptions>).await?;
        let mut ended = self.docker.wait_container(&id, None::<WaitContainerOptions>);
        let code = tokio::time::timeout(COMMAND, ended.next()).await.ok().flatten();
        let code = code.context("the engine did not say how it ended")?;
        code.context("cannot furnish a tenant's directories")?;
        remove_container(&self.docker, &id).await
    }

    pub(crate) async fn create_container(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<String> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let made = self.docker.create_container(Some(options), body).await;
        Ok(made.with_context(|| format!("cannot create container {name}"))?.id)
    }

    pub(crate) fn labels(&self) -> HashMap<String, String> {
        let labels = [("cial.managed", "1"), ("cial.install", &self.install), (RUN, &self.run)];
        labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Removes the tenants of this stage alone.
    pub(crate) async fn clear(&self) -> Result<()> {
        self.remove_labelled(&format!("cial.install={}", self.install)).await
    }

    /// Removes all that this run made, on this stage and beside it, whatever became of it.
    pub(crate) async fn clean_up(&self) -> Result<()> {
        self.remove_labelled(&format!("{RUN}={}", self.run)).await?;
        let altered = format!("{ALTERED}:{}-*", self.run);
        let filters = HashMap::from([("reference".to_owned(), vec![altered])]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        for image in self.docker.list_images(Some(options)).await? {
            remove_image(&self.docker, &image.id).await?;
        }
        Ok(())
    }

    async fn remove_labelled(&self, label: &str) -> Result<()> {
        let filters = HashMap::from([("label".to_owned(), vec![label.to_owned()])]);
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        for container in self.docker.list_containers(Some(options)).await? {
            remove_container(&self.docker, &container.id.unwrap_or_default()).await?;
        }
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        for volume in self.docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default() {
            self.docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await?;
        }
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        for network in self.docker.list_networks(Some(options)).await? {
            self.docker.remove_network(&network.id.unwrap_or_default()).await?;
        }
        Ok(())
    }
}

impl Tenant {
    /// One that is there already, made by whomever.
    pub(crate) fn of(docker: &Docker, id: &str) -> Self {
        Self { id: id.to_owned(), docker: docker.clone() }
    }

    pub(crate) const fn docker(&self) -> &Docker {
        &self.docker
    }

    pub(crate) async fn pause(&self) -> Result<()> {
        self.docker.pause_container(&self.id).await.context("cannot freeze the tenant")
    }

    pub(crate) async fn unpause(&self) -> Result<()> {
        self.docker.unpause_container(&self.id).await.context("cannot thaw the tenant")
    }

    pub(crate) async fn restart(&self) -> Result<()> {
        let options = RestartContainerOptionsBuilder::default().t(local::GRACE_SECONDS).build();
        let restarted = self.docker.restart_container(&self.id, Some(options));
        restarted.await.context("cannot restart the tenant")
    }

    pub(crate) async fn start(&self) -> Result<()> {
        let started = self.docker.start_container(&self.id, None::<StartContainerOptions>).await;
        started.context("cannot start the tenant")
    }

    pub(crate) async fn inspect(&self) -> Result<ContainerInspectResponse> {
        Ok(self.docker.inspect_container(&self.id, None::<InspectContainerOptions>).await?)
    }

    /// The loopback port of this start: another one after each.
    pub(crate) async fn port(&self) -> Result<u16> {
        let seen = self.inspect().await?;
        let ports = seen.network_settings.and_then(|n| n.ports).unwrap_or_default();
        let binding = ports.get("8080/tcp").cloned().flatten().and_then(|b| b.into_iter().next());
        let port = binding.and_then(|b| b.host_port).context("port 8080 is not published")?;
        Ok(port.parse()?)
    }

    /// Runs a command as a user of the image, to its end.
    pub(crate) async fn run(&self, user: &str, command: &[&str]) -> Result<Ran> {
        let ran = tokio::time::timeout(COMMAND, self.exec(user, command)).await;
        ran.with_context(|| format!("no end within {} s: {command:?}", COMMAND.as_secs()))?
    }

    async fn exec(&self, user: &str, command: &[&str]) -> Result<Ran> {
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
        let mut out = Vec::new();
        while let Some(piece) = output.try_next().await? {
            out.extend_from_slice(&piece.into_bytes());
        }
        let code = self.docker.inspect_exec(&exec).await?.exit_code.unwrap_or(-1);
        Ok(Ran { out: String::from_utf8_lossy(&out).trim().to_owned(), code })
    }

    pub(crate) async fn sh(&self, user: &str, script: &str) -> Result<Ran> {
        self.run(user, &["/bin/sh", "-c", script]).await
    }

    pub(crate) async fn perl(&self, user: &str, program: &str) -> Result<Ran> {
        self.run(user, &["perl", "-e", program]).await
    }

    pub(crate) async fn logs(&self) -> Result<String> {
        let options = LogsOptionsBuilder::default().stdout(true).stderr(true).build();
        let pieces: Vec<LogOutput> =
            self.docker.logs(&self.id, Some(options)).try_collect().await?;
        let bytes: Vec<_> = pieces.into_iter().flat_map(LogOutput::into_bytes).collect();
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    }

    /// Until `wanted` holds of a fresh look at the tenant; an error says what was waited for.
    pub(crate) async fn until<T>(
        &self,
        what: &str,
        wanted: impl AsyncFn() -> Option<T>,
    ) -> Result<T> {
        let looked = async {
            loop {
                if let Some(found) = wanted().await {
                    return found;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let timely = tokio::time::timeout(HANG, looked).await;
        timely.with_context(|| format!("waited {} s for {what}", HANG.as_secs()))
    }
}

/// The flags that the driver uses too, with the profile where the engine's API wants it.
pub(crate) fn flags() -> Result<HostConfig> {
    let mut host: HostConfig = serde_json::from_str(FLAGS).context("docker/tenant.json")?;
    host.security_opt.get_or_insert_default().push(format!("seccomp={SECCOMP}"));
    Ok(host)
}

/// Some UUID that a name always has.
pub(crate) fn uuid_of(name: &str) -> String {
    use sha2::Digest as _;
    let hash = sha2::Sha256::digest(name.as_bytes());
    let hex: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("{}-{}-7{}-8{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

pub(crate) fn mount(volume: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(volume.to_owned()),
        typ: Some(MountType::VOLUME),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

pub(crate) async fn remove_image(docker: &Docker, image: &str) -> Result<()> {
    let options = RemoveImageOptionsBuilder::default().force(true).build();
    docker.remove_image(image, Some(options), None).await?;
    Ok(())
}

async fn remove_container(docker: &Docker, id: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    Ok(docker.remove_container(id, Some(options)).await?)
}
