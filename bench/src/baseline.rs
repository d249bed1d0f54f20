//! The engine alone, performing the work that Cial requests: the baseline of every figure.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::{
    ContainerCreateBody, Ipam, IpamConfig, NetworkCreateRequest, VolumeCreateRequest,
};
use bollard::query_parameters::{
    CreateContainerOptionsBuilder, RemoveContainerOptionsBuilder, RemoveVolumeOptions,
    StartContainerOptions,
};

use testkit::Installation;
use testkit::engine::{TenantContainer, any_loopback_port, host_config, volume_mount};

use crate::now;

/// Outside of every pool that tenants' networks come from by default.
const SUBNET: &str = "10.255.255.0/29";

pub(super) struct EngineBaseline {
    docker: Docker,
    install: String,
    image: String,
}

/// Names of the objects of one baseline.
struct Names {
    /// The name of the container and the network.
    own: String,
    volumes: Vec<String>,
}

impl EngineBaseline {
    pub(super) fn new(docker: &Docker, installation: &Installation) -> Self {
        let (install, image) = (installation.name.clone(), installation.tenant_image.clone());
        Self { docker: docker.clone(), install, image }
    }

    /// Times what a create needs: network, volumes, container and start, one after the other.
    /// Removes them afterwards.
    pub(super) async fn create(&self, number: usize) -> Result<Duration> {
        let names = self.names(number);
        self.prepare(&names).await?;
        let start = now();
        let made = self.make(&names, None).await;
        let took = start.elapsed();
        self.remove(&names).await;
        made.with_context(|| format!("baseline {}", names.own))?;
        Ok(took)
    }

    /// Creates a container with a tenant's flags, network and volumes in which nothing happens. Its
    /// start and thaw times are the best that a tenant could reach.
    pub(super) async fn stand<T>(
        &self,
        work: impl AsyncFnOnce(&TenantContainer) -> Result<T>,
    ) -> Result<T> {
        let names = self.names(0);
        self.prepare(&names).await?;
        let done = match self.make(&names, Some(&["/bin/sleep", "infinity"])).await {
            Ok(()) => work(&TenantContainer::existing(&self.docker, &names.own)).await,
            Err(error) => Err(error.context(format!("baseline {}", names.own))),
        };
        self.remove(&names).await;
        done
    }

    /// Returns what the names of a baseline's objects begin with.
    pub(super) fn name(&self, number: usize) -> String {
        format!("cial-{}-baseline-{number}", self.install)
    }

    fn names(&self, number: usize) -> Names {
        let own = self.name(number);
        let volumes = ["data", "files", "ingress", "secrets"].map(|v| format!("{own}-{v}")).into();
        Names { own, volumes }
    }

    /// Creates two volumes beforehand, because for Cial, too, these are folders of existing
    /// volumes.
    async fn prepare(&self, names: &Names) -> Result<()> {
        for volume in &names.volumes[2..] {
            self.volume(volume).await?;
        }
        Ok(())
    }

    async fn make(&self, names: &Names, instead: Option<&[&str]>) -> Result<()> {
        let name = names.own.as_str();
        let subnet = IpamConfig { subnet: Some(SUBNET.to_owned()), ..IpamConfig::default() };
        let ipam = Ipam { config: Some(vec![subnet]), ..Ipam::default() };
        let network = NetworkCreateRequest {
            name: name.to_owned(),
            driver: Some("bridge".to_owned()),
            ipam: Some(ipam),
            labels: Some(self.labels()),
            ..NetworkCreateRequest::default()
        };
        self.docker.create_network(network).await?;
        for volume in &names.volumes[..2] {
            self.volume(volume).await?;
        }
        let options = CreateContainerOptionsBuilder::default().name(name).build();
        let mut container = self.container(names)?;
        container.entrypoint =
            instead.map(|args| args.iter().map(|arg| (*arg).to_owned()).collect());
        self.docker.create_container(Some(options), container).await?;
        self.docker.start_container(name, None::<StartContainerOptions>).await?;
        Ok(())
    }

    fn container(&self, names: &Names) -> Result<ContainerCreateBody> {
        let mut host = host_config()?;
        host.network_mode = Some(names.own.clone());
        let targets =
            ["/var/lib/cial", "/home/agent/files", "/run/cial/ingress", "/run/cial/secrets"];
        let volumes = names.volumes.iter().zip(targets);
        let mounts = volumes.map(|(volume, target)| volume_mount(volume, target, false));
        host.mounts = Some(mounts.collect());
        host.port_bindings = Some(any_loopback_port());
        Ok(ContainerCreateBody {
            image: Some(self.image.clone()),
            labels: Some(self.labels()),
            host_config: Some(host),
            ..ContainerCreateBody::default()
        })
    }

    async fn volume(&self, name: &str) -> Result<()> {
        let labels = Some(self.labels());
        let request = VolumeCreateRequest {
            name: Some(name.to_owned()),
            labels,
            ..VolumeCreateRequest::default()
        };
        self.docker.create_volume(request).await?;
        Ok(())
    }

    /// Removes the objects and ignores errors: an object that stays is removed with the
    /// installation.
    async fn remove(&self, names: &Names) {
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        let _ = self.docker.remove_container(&names.own, Some(force)).await;
        let _ = self.docker.remove_network(&names.own).await;
        for volume in &names.volumes {
            let _ = self.docker.remove_volume(volume, None::<RemoveVolumeOptions>).await;
        }
    }

    /// Labels of the ephemeral installation, whose removal covers an interrupted bench. Without
    /// `cial.tenant`, its orchestrator takes none of these objects for a tenant.
    fn labels(&self) -> HashMap<String, String> {
        let pairs = [("cial.managed", "1"), ("cial.install", &self.install), ("cial.bench", "1")];
        pairs.map(|(name, value)| (name.to_owned(), value.to_owned())).into()
    }
}
