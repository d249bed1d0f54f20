//! What a tenant has around it: a network of its own, and neighbours on its host.

use anyhow::{Context as _, Result, anyhow};
use bollard::models::{
    ContainerCreateBody, HostConfig, Ipam, IpamConfig, NetworkConnectRequest, NetworkCreateRequest,
};

use super::stage::{Stage, Tenant, mount};

impl Stage {
    /// A bridge with an explicit /29, as the driver makes them: the first of a few that is free on this machine.
    pub(crate) async fn create_network(&self, prefix: &str) -> Result<String> {
        let mut refused = None;
        for third in 0..=255_u8 {
            let request = NetworkCreateRequest {
                name: prefix.to_owned(),
                driver: Some("bridge".to_owned()),
                internal: Some(false),
                enable_ipv6: Some(false),
                ipam: Some(Ipam {
                    driver: Some("default".to_owned()),
                    config: Some(vec![IpamConfig {
                        subnet: Some(format!("10.213.{third}.0/29")),
                        gateway: Some(format!("10.213.{third}.1")),
                        ..IpamConfig::default()
                    }]),
                    options: None,
                }),
                labels: Some(self.labels()),
                ..NetworkCreateRequest::default()
            };
            match self.docker.create_network(request).await {
                Ok(_) => return Ok(prefix.to_owned()),
                Err(error) => refused = Some(error),
            }
        }
        Err(refused.map_or_else(|| anyhow!("no subnet was tried"), Into::into))
    }

    /// Somebody on the same host who asks a tenant over its ingress socket, from a container without a network. It
    /// says `connected`, then the answer, and ends.
    pub(crate) async fn call_from_outside(&self, name: &str, path: &str) -> Result<Tenant> {
        let prefix = format!("cial-{}-{name}", self.install);
        let program = format!(
            r#"use IO::Socket::UNIX; $| = 1;
            my $s = IO::Socket::UNIX->new(Peer => "/sockets/edge.sock") or die "connect: $!";
            print "connected\n"; $s->autoflush(1);
            print $s "GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"; print while <$s>;"#
        );
        let body = ContainerCreateBody {
            image: Some(self.image.clone()),
            entrypoint: Some(["perl", "-e"].map(str::to_owned).to_vec()),
            cmd: Some(vec![program]),
            user: Some("1000".to_owned()),
            labels: Some(self.labels()),
            host_config: Some(HostConfig {
                network_mode: Some("none".to_owned()),
                mounts: Some(vec![mount(&format!("{prefix}-sockets"), "/sockets", false)]),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let id = self.create_container(&format!("{prefix}-caller"), body).await?;
        let caller = Tenant::of(&self.docker, &id);
        caller.start().await?;
        Ok(caller)
    }
}

impl Tenant {
    /// Puts this one on a network of the other's too, which no driver does.
    pub(crate) async fn join_network_of(&self, other: &Self) -> Result<()> {
        let seen = other.inspect().await?;
        let networks = seen.network_settings.and_then(|settings| settings.networks);
        let name = networks.unwrap_or_default().into_keys().next().context("no network")?;
        let request = NetworkConnectRequest { container: self.id.clone(), endpoint_config: None };
        Ok(self.docker().connect_network(&name, request).await?)
    }
}
