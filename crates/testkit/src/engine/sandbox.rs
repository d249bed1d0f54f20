//! Tenants without a control plane: containers with the production flags, removed at the end whatever happens.

use std::collections::HashMap;

use anyhow::{Context as _, Result, anyhow};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, HostConfig, Ipam, IpamConfig, Mount, MountType, NetworkConnectRequest,
    NetworkCreateRequest, PortBinding, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, ListContainersOptionsBuilder, ListImagesOptionsBuilder,
    ListNetworksOptionsBuilder, ListVolumesOptionsBuilder, RemoveContainerOptionsBuilder,
    RemoveVolumeOptions, StartContainerOptions, WaitContainerOptions,
};
use futures_util::StreamExt as _;
use tokio::signal::unix::{SignalKind, signal};

use super::tenant::{COMMAND_TIMEOUT, TenantContainer, host_config, uuid_of};
use super::{build_layer, label_filters, remove_image};

/// Repository of images that a test derives from the one under test.
const DERIVED: &str = "cial-tenant-derived";
/// Label of everything that one run makes; the value comes from `CIAL_E2E_RUN`, or names the process.
const RUN_LABEL: &str = "cial.run";

/// The containers of one test, apart from all others by their labels.
#[derive(Clone, Debug)]
pub struct Sandbox {
    pub docker: Docker,
    pub image: String,
    run: String,
    install: String,
}

/// How one tenant is set up.
#[derive(Clone, Debug, Default)]
pub struct TenantOptions {
    pub name: &'static str,
    /// The key for sign-on, in the secrets folder.
    pub sso_key: Option<Vec<u8>>,
    /// Route token and proof; the edge then demands the token.
    pub route_secrets: Option<(String, String)>,
    /// A network of its own, as the driver makes it; otherwise the engine's default network.
    pub has_network: bool,
}

impl Sandbox {
    pub fn new(docker: Docker, image: &str, purpose: &str) -> Self {
        let install = format!("{purpose}-{}", std::process::id());
        let run = crate::installation::variable("CIAL_E2E_RUN").unwrap_or_else(|| install.clone());
        Self { docker, image: image.to_owned(), run, install }
    }

    /// Does `work`, then removes everything it made: on success, on failure, on SIGINT and on SIGTERM.
    ///
    /// # Errors
    /// The work fails, or something cannot be removed.
    pub async fn run<T>(&self, work: impl Future<Output = Result<T>>) -> Result<T> {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        let outcome = tokio::select! {
            biased;
            _ = interrupt.recv() => Err(anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow!("terminated")),
            outcome = work => outcome,
        };
        self.remove_everything().await?;
        outcome
    }

    /// Builds an image with a layer on top of this sandbox's, and returns a sandbox for it.
    ///
    /// # Errors
    /// The build fails.
    pub async fn with_layer(&self, name: &str, layer: &str) -> Result<Self> {
        let install = format!("{}-{name}", self.install);
        let image = format!("{DERIVED}:{install}");
        let derived = Self { docker: self.docker.clone(), image, run: self.run.clone(), install };
        build_layer(&self.docker, &derived.image, &self.image, layer, &derived.labels()).await?;
        Ok(derived)
    }

    /// Creates and starts a tenant as the driver does; it may not be ready yet.
    ///
    /// # Errors
    /// The engine refuses a step.
    pub async fn start(&self, options: &TenantOptions) -> Result<TenantContainer> {
        let tenant = self.create(options).await?;
        tenant.start().await?;
        Ok(tenant)
    }

    /// Like [`Self::start`], once the tenant is ready; also returns its published port.
    ///
    /// # Errors
    /// The engine refuses a step, or the tenant does not get ready; then the message holds its log.
    pub async fn healthy(&self, options: &TenantOptions) -> Result<(TenantContainer, u16)> {
        let tenant = self.start(options).await?;
        match tenant.healthy_port().await {
            Ok(port) => Ok((tenant, port)),
            Err(error) => Err(error.context(tenant.logs().await?)),
        }
    }

    /// # Errors
    /// The engine refuses a step.
    pub async fn create(&self, options: &TenantOptions) -> Result<TenantContainer> {
        let prefix = self.prefix(options.name);
        let volumes = volumes_of(&prefix);
        for volume in &volumes {
            let request = VolumeCreateRequest {
                name: Some(volume.clone()),
                labels: Some(self.labels()),
                ..VolumeCreateRequest::default()
            };
            self.docker.create_volume(request).await?;
        }
        let [sockets, secrets, data, files] = &volumes;
        self.prepare_volumes(&prefix, sockets, secrets, options).await?;
        let mut host = host_config()?;
        host.mounts = Some(vec![
            volume_mount(sockets, "/run/cial/ingress", false),
            volume_mount(secrets, "/run/cial/secrets", true),
            volume_mount(data, "/var/lib/cial", false),
            volume_mount(files, "/home/agent/files", false),
        ]);
        host.port_bindings = Some(any_loopback_port());
        if options.has_network {
            host.network_mode = Some(self.create_network(&prefix).await?);
        }
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            env: Some(vec![
                format!("TENANT_ID={}", options.name),
                format!("CIAL_TENANT_UUID={}", uuid_of(options.name)),
            ]),
            labels: Some(self.labels()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        };
        self.create_container(&prefix, body).await
    }

    /// Fills a tenant's folders, which is the orchestrator's work, with the shell of the image.
    async fn prepare_volumes(
        &self,
        prefix: &str,
        sockets: &str,
        secrets: &str,
        options: &TenantOptions,
    ) -> Result<()> {
        let mut script =
            "set -eu; chown 1000:1000 /sockets; chmod 0750 /sockets; cd /secrets".to_owned();
        let mut put = |name: &str, content: &[u8]| {
            let content = BASE64.encode(content);
            script.push_str(&format!("; echo {content} | base64 -d > {name}; chmod 0400 {name}"));
            script.push_str(&format!("; chown 1000:1000 {name}"));
        };
        if let Some(key) = &options.sso_key {
            put("sso-key", key);
        }
        if let Some((token, proof)) = &options.route_secrets {
            put("route-token", token.as_bytes());
            put("route-proof", proof.as_bytes());
        }
        let mounts = [(sockets, "/sockets"), (secrets, "/secrets")];
        let body = self.helper("0", &["/bin/sh", "-c"], script, &mounts);
        let helper = self.create_container(&format!("{prefix}-prepare"), body).await?;
        self.docker.start_container(&helper.id, None::<StartContainerOptions>).await?;
        let mut ended = self.docker.wait_container(&helper.id, None::<WaitContainerOptions>);
        let code = tokio::time::timeout(COMMAND_TIMEOUT, ended.next()).await.ok().flatten();
        let code = code.context("the engine did not report the end of the container")?;
        code.context("cannot prepare a tenant's folders")?;
        remove_container(&self.docker, &helper.id).await
    }

    /// Starts a client on the same host that calls a tenant over its ingress socket, from a container without a
    /// network. The client prints `connected`, then the response, and ends.
    ///
    /// # Errors
    /// The engine refuses a step.
    pub async fn call_from_outside(&self, name: &str, path: &str) -> Result<TenantContainer> {
        let prefix = self.prefix(name);
        let program = format!(
            r#"use IO::Socket::UNIX; $| = 1;
            my $s = IO::Socket::UNIX->new(Peer => "/sockets/edge.sock") or die "connect: $!";
            print "connected\n"; $s->autoflush(1);
            print $s "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"; print while <$s>;"#
        );
        let sockets = format!("{prefix}-sockets");
        let body = self.helper("1000", &["perl", "-e"], program, &[(sockets.as_str(), "/sockets")]);
        let client = self.create_container(&format!("{prefix}-client"), body).await?;
        client.start().await?;
        Ok(client)
    }

    /// A container of the image without a network, that runs one command.
    fn helper(
        &self,
        user: &str,
        entrypoint: &[&str],
        command: String,
        mounts: &[(&str, &str)],
    ) -> ContainerCreateBody {
        let mounts = mounts.iter().map(|(volume, target)| volume_mount(volume, target, false));
        ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(entrypoint.iter().map(|word| (*word).to_owned()).collect()),
            cmd: Some(vec![command]),
            user: Some(user.to_owned()),
            labels: Some(self.labels()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(mounts.collect()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        }
    }

    /// Creates a bridge with an explicit /29, as the driver makes them: the first of 256 that is free here.
    async fn create_network(&self, name: &str) -> Result<String> {
        let mut refused = None;
        for third in 0..=255_u8 {
            let range = IpamConfig {
                subnet: Some(format!("10.213.{third}.0/29")),
                gateway: Some(format!("10.213.{third}.1")),
                ..IpamConfig::default()
            };
            let request = NetworkCreateRequest {
                name: name.to_owned(),
                driver: Some("bridge".to_owned()),
                internal: Some(false),
                enable_ipv6: Some(false),
                ipam: Some(Ipam {
                    driver: Some("default".to_owned()),
                    config: Some(vec![range]),
                    options: None,
                }),
                labels: Some(self.labels()),
                ..NetworkCreateRequest::default()
            };
            match self.docker.create_network(request).await {
                Ok(_) => return Ok(name.to_owned()),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or_else(|| anyhow!("no subnet was tried"), Into::into))
    }

    async fn create_container(
        &self,
        name: &str,
        body: ContainerCreateBody,
    ) -> Result<TenantContainer> {
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let created = self.docker.create_container(Some(options), body).await;
        let id = created.with_context(|| format!("cannot create container {name}"))?.id;
        Ok(TenantContainer::existing(&self.docker, &id))
    }

    fn prefix(&self, name: &str) -> String {
        format!("cial-{}-{name}", self.install)
    }

    fn labels(&self) -> HashMap<String, String> {
        let labels =
            [("cial.managed", "1"), ("cial.install", &self.install), (RUN_LABEL, &self.run)];
        labels.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }

    /// Removes everything of this sandbox and of the sandboxes that were derived from it.
    ///
    /// # Errors
    /// The engine keeps something.
    pub async fn remove_everything(&self) -> Result<()> {
        let filters = label_filters(&[&format!("{RUN_LABEL}={}", self.run), "cial.install"]);
        let is_ours = |labels: Option<&HashMap<String, String>>| {
            let install = labels.and_then(|labels| labels.get("cial.install"));
            install.is_some_and(|install| install.starts_with(&self.install))
        };
        let options = ListContainersOptionsBuilder::default().all(true).filters(&filters).build();
        let containers = self.docker.list_containers(Some(options)).await?;
        for container in containers.into_iter().filter(|found| is_ours(found.labels.as_ref())) {
            remove_container(&self.docker, &container.id.unwrap_or_default()).await?;
        }
        let options = ListVolumesOptionsBuilder::default().filters(&filters).build();
        let volumes = self.docker.list_volumes(Some(options)).await?.volumes.unwrap_or_default();
        for volume in volumes.into_iter().filter(|found| is_ours(Some(&found.labels))) {
            self.docker.remove_volume(&volume.name, None::<RemoveVolumeOptions>).await?;
        }
        let options = ListNetworksOptionsBuilder::default().filters(&filters).build();
        let networks = self.docker.list_networks(Some(options)).await?;
        for network in networks.into_iter().filter(|found| is_ours(found.labels.as_ref())) {
            self.docker.remove_network(&network.id.unwrap_or_default()).await?;
        }
        let reference = vec![format!("{DERIVED}:{}*", self.install)];
        let filters = HashMap::from([("reference".to_owned(), reference)]);
        let options = ListImagesOptionsBuilder::default().filters(&filters).build();
        for image in self.docker.list_images(Some(options)).await? {
            remove_image(&self.docker, &image.id).await?;
        }
        Ok(())
    }
}

impl TenantContainer {
    /// Connects this container to the network of another one, which no driver does.
    ///
    /// # Errors
    /// The other one has no network.
    pub async fn join_network_of(&self, other: &Self) -> Result<()> {
        let inspected = other.inspect().await?;
        let networks = inspected.network_settings.and_then(|settings| settings.networks);
        let name = networks.unwrap_or_default().into_keys().next().context("no network")?;
        let request = NetworkConnectRequest { container: self.id.clone(), endpoint_config: None };
        Ok(self.docker().connect_network(&name, request).await?)
    }
}

/// Names of the four volumes of a tenant: sockets, secrets, data, files.
pub fn volumes_of(prefix: &str) -> [String; 4] {
    ["sockets", "secrets", "data", "files"].map(|kind| format!("{prefix}-{kind}"))
}

/// Publishes port 8080 on a port of loopback that the engine chooses.
pub fn any_loopback_port() -> HashMap<String, Option<Vec<PortBinding>>> {
    let any = PortBinding { host_ip: Some("127.0.0.1".to_owned()), host_port: Some(String::new()) };
    HashMap::from([("8080/tcp".to_owned(), Some(vec![any]))])
}

pub fn volume_mount(volume: &str, target: &str, read_only: bool) -> Mount {
    Mount {
        target: Some(target.to_owned()),
        source: Some(volume.to_owned()),
        typ: Some(MountType::VOLUME),
        read_only: Some(read_only),
        ..Mount::default()
    }
}

async fn remove_container(docker: &Docker, id: &str) -> Result<()> {
    let options = RemoveContainerOptionsBuilder::default().force(true).v(true).build();
    Ok(docker.remove_container(id, Some(options)).await?)
}
