//! The addresses that a tenant can connect to beyond its own. Every connection is tried from inside
//! a container. For each address that must be closed, a connection in the container where it
//! belongs first proves that the address has a listener.

use anyhow::{Context as _, Result, ensure};
use bollard::Docker;
use bollard::models::{ContainerSummary, EndpointSettings};
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::future::try_join_all;
use testkit::engine::{TenantContainer, label_filters};

pub const OPEN: &str = "open";
pub const CLOSED: &str = "closed";
/// Bound of a connection that gets no answer; all addresses are on this machine.
const CONNECT_TIMEOUT_SECONDS: u32 = 2;
const ROOT: &str = "0";
/// The user of the tenant's own app, which is trusted least.
const AGENT: &str = "agent";
/// Where each service of the control plane listens, its internal ports included.
const CONTROL_PLANE: [(&str, &[u16]); 4] = [
    ("postgres", &[5432]),
    ("app-api", &[3100, 3101]),
    ("orchestrator", &[3200]),
    ("router", &[8080, 8081]),
];

/// An address beyond a tenant's own.
#[derive(Debug)]
pub struct Target {
    pub name: String,
    address: String,
    port: u16,
    /// The container in which the address can be reached, if there is one.
    home: Option<TenantContainer>,
}

/// Whether the app of a tenant reaches its own port: otherwise refusals elsewhere prove nothing.
///
/// # Errors
/// The attempt itself fails.
pub async fn reaches_itself(tenant: &TenantContainer) -> Result<&'static str> {
    let outcome = connect(tenant, AGENT, "127.0.0.1", 3000).await?;
    Ok(if outcome == OPEN { OPEN } else { CLOSED })
}

/// The public port of a tenant, at each of its addresses.
///
/// # Errors
/// The tenant has no address.
pub async fn public_ports(tenant: &TenantContainer) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for network in networks(tenant).await? {
        let address = network.ip_address.unwrap_or_default();
        let (name, home) = (format!("its port 8080 at {address}"), Some(tenant.clone()));
        targets.push(Target { name, address, port: 8080, home });
    }
    ensure!(!targets.is_empty(), "a tenant without an address");
    Ok(targets)
}

/// The loopback port of `to`, at the addresses that the host has in both networks.
///
/// Services on all addresses of the host are not closed: that needs a firewall on the host.
///
/// # Errors
/// A container cannot be inspected.
pub async fn published_ports(from: &TenantContainer, to: &TenantContainer) -> Result<Vec<Target>> {
    let (port, mut targets) = (to.port().await?, Vec::new());
    for network in networks(from).await?.into_iter().chain(networks(to).await?) {
        let address = network.gateway.unwrap_or_default();
        let name = format!("its port of the host's 127.0.0.1, at the host's {address}");
        targets.push(Target { name, address, port, home: None });
    }
    Ok(targets)
}

/// Every port of the control plane of a compose project, as seen from a tenant.
///
/// # Errors
/// A service does not run.
pub async fn control_plane_ports(
    docker: &Docker,
    project: &str,
    from: &TenantContainer,
) -> Result<Vec<Target>> {
    let filters = label_filters(&[&format!("com.docker.compose.project={project}")]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let running = docker.list_containers(Some(options)).await?;
    let gateways: Vec<_> =
        networks(from).await?.into_iter().filter_map(|network| network.gateway).collect();
    let mut targets = Vec::new();
    for (service, ports) in CONTROL_PLANE {
        let found = running.iter().find(|container| service_of(container) == Some(service));
        let found = found.with_context(|| format!("no {service} runs in {project}"))?;
        let home = TenantContainer::existing(docker, found.id.as_deref().unwrap_or_default());
        for address in networks(&home).await?.into_iter().filter_map(|own| own.ip_address) {
            for &port in ports {
                let (name, home) = (format!("{service} at {address}:{port}"), Some(home.clone()));
                targets.push(Target { name, address: address.clone(), port, home });
            }
        }
        for port in found.ports.iter().flatten().filter_map(|port| port.public_port) {
            for address in &gateways {
                let name = format!("{service} as published, at the host's {address}:{port}");
                targets.push(Target { name, address: address.clone(), port, home: None });
            }
        }
    }
    Ok(targets)
}

/// Returns the addresses of `targets` that a tenant reaches.
///
/// # Errors
/// The attempt itself fails.
pub async fn reached(from: &TenantContainer, targets: Vec<Target>) -> Result<Vec<String>> {
    ensure!(reaches_itself(from).await? == OPEN, "the tenant does not even reach its own app");
    // All at once: one after the other takes so long that an unvisited tenant is frozen meanwhile.
    let outcomes = try_join_all(targets.iter().map(|target| reach(from, target))).await?;
    let reached = targets.into_iter().zip(outcomes).filter(|(_, outcome)| *outcome != CLOSED);
    Ok(reached.map(|(target, _)| target.name).collect())
}

/// [`OPEN`] or [`CLOSED`], once it is certain that the target has a listener.
///
/// # Errors
/// The target has no listener, or the attempt itself fails.
pub async fn reach(from: &TenantContainer, target: &Target) -> Result<&'static str> {
    let Target { name, address, port, home } = target;
    if let Some(home) = home {
        let outcome = connect(home, ROOT, address, *port).await?;
        ensure!(outcome == OPEN, "nothing is proven of {name}: at home it is {outcome}");
    }
    let outcome = connect(from, AGENT, address, *port).await?;
    Ok(if outcome == OPEN { OPEN } else { CLOSED })
}

fn service_of(container: &ContainerSummary) -> Option<&str> {
    container.labels.as_ref()?.get("com.docker.compose.service").map(String::as_str)
}

/// The networks in which a container has an address.
async fn networks(container: &TenantContainer) -> Result<Vec<EndpointSettings>> {
    let inspected = container.inspect().await?;
    let networks = inspected.network_settings.and_then(|settings| settings.networks);
    let has_address =
        |own: &EndpointSettings| own.ip_address.as_ref().is_some_and(|a| !a.is_empty());
    Ok(networks.unwrap_or_default().into_values().filter(has_address).collect())
}

/// [`OPEN`], or the reason why a connection from inside a container failed.
async fn connect(from: &TenantContainer, user: &str, address: &str, port: u16) -> Result<String> {
    let program = format!(
        r#"use IO::Socket::INET;
        my $s = IO::Socket::INET->new(PeerAddr => "{address}", PeerPort => {port}, Timeout => {CONNECT_TIMEOUT_SECONDS});
        print $s ? "{OPEN}" : "no: $!";"#
    );
    let ran = from.exec_perl(user, &program).await?;
    ensure!(ran.exit_code == 0, "the attempt itself failed: {}", ran.text);
    Ok(ran.text)
}
