//! What a tenant can reach beyond itself. Every question is asked from inside a container, and of each address that
//! must be closed it is first proven, in the container where it belongs, that something listens there.

use std::collections::HashMap;

use anyhow::{Context as _, Result, bail, ensure};
use bollard::Docker;
use bollard::models::{ContainerSummary, EndpointSettings};
use bollard::query_parameters::ListContainersOptionsBuilder;
use futures_util::future::try_join_all;

use super::endings;
use super::report::Report;
use super::stage::{Stage, Tenant, Wish};

const OPEN: &str = "open";
const CLOSED: &str = "closed";
/// What a connection that nobody answers may take; all addresses are on this machine.
const PATIENCE_S: u32 = 2;
/// Where each service of the control plane listens, its internal ports included.
const CONTROL_PLANE: [(&str, &[u16]); 4] = [
    ("postgres", &[5432]),
    ("app-api", &[3100, 3101]),
    ("orchestrator", &[3200]),
    ("router", &[8080, 8081]),
];

/// An address beyond a tenant's own.
#[derive(Debug)]
pub(crate) struct Target {
    pub(crate) what: String,
    pub(crate) address: String,
    pub(crate) port: u16,
    /// The container in which it can be reached, if there is one.
    at: Option<Tenant>,
}

/// Two tenants, each with a network as the driver makes it.
pub(crate) async fn check(report: &mut Report, stage: &Stage) -> Result<()> {
    let (one, other) = (neighbour(stage, "one").await?, neighbour(stage, "other").await?);
    let own = connect(&one, "127.0.0.1", 3000).await?;
    report.same("O7", "a tenant reaches its own app", OPEN, own);
    for (from, to, names) in [(&one, &other, "one → other"), (&other, &one, "other → one")] {
        let mut targets = doors_of(to).await?;
        targets.extend(published(from, to).await?);
        for target in targets {
            let seen = reach(from, &target).await?;
            report.same("O7", &format!("{names}: {} is closed", target.what), CLOSED, seen);
        }
        let (own, others) = (name_of(from).await?, name_of(to).await?);
        let resolves = async |name: &str| {
            let ran = from.run("agent", &["getent", "hosts", name]).await?;
            anyhow::Ok(ran.code == 0)
        };
        let seen = format!("{} {}", resolves(&own).await?, resolves(&others).await?);
        report.same("O7", &format!("{names}: a name is known at home only"), "true false", seen);
    }
    check_probe(report, &one, &other).await
}

/// With a hole made on purpose, the same question must have the other answer.
async fn check_probe(report: &mut Report, one: &Tenant, other: &Tenant) -> Result<()> {
    one.join_network_of(other).await?;
    for target in doors_of(other).await? {
        let seen = reach(one, &target).await?;
        let what = format!("on one network, {} would be seen open", target.what);
        report.same("O7", &what, OPEN, seen);
    }
    Ok(())
}

/// Which services of the control plane of `project` (as Compose names it) a running tenant reaches. All must be
/// closed, so what comes back should be nothing.
pub(crate) async fn reached_of_control_plane(
    docker: &Docker,
    project: &str,
    tenant: &str,
) -> Result<Vec<String>> {
    let from = Tenant::of(docker, tenant);
    let own = connect(&from, "127.0.0.1", 3000).await?;
    ensure!(own == OPEN, "the probe itself does not work: the tenant's own app is {own}");
    let targets = control_plane(docker, project, &from).await?;
    // All at once: one after the other they take so long that the tenant, which nobody visits meanwhile, is frozen.
    let seen = try_join_all(targets.iter().map(|target| reach(&from, target))).await?;
    let reached = targets.into_iter().zip(seen).filter(|(_, seen)| *seen != CLOSED);
    Ok(reached.map(|(target, _)| target.what).collect())
}

async fn neighbour(stage: &Stage, name: &'static str) -> Result<Tenant> {
    let wish = Wish { name, has_network: true, ..Wish::default() };
    let tenant = stage.start(&wish).await?;
    endings::healthy(&tenant).await?;
    Ok(tenant)
}

/// The public port of a tenant, at its own address.
async fn doors_of(tenant: &Tenant) -> Result<Vec<Target>> {
    let mut targets = Vec::new();
    for endpoint in endpoints(tenant).await? {
        let address = endpoint.ip_address.unwrap_or_default();
        let (what, at) = (format!("its port 8080 at {address}"), Some(tenant.clone()));
        targets.push(Target { what, address, port: 8080, at });
    }
    ensure!(!targets.is_empty(), "a tenant without an address");
    Ok(targets)
}

/// What is published on the host's 127.0.0.1, at the addresses that the host has in both networks. What listens on
/// all of the host's addresses is not closed: that needs a firewall of our own, which is a later issue.
async fn published(from: &Tenant, to: &Tenant) -> Result<Vec<Target>> {
    let (port, mut targets) = (to.port().await?, Vec::new());
    for endpoint in endpoints(from).await?.into_iter().chain(endpoints(to).await?) {
        let address = endpoint.gateway.unwrap_or_default();
        let what = format!(
            "its port of the host's 127.0.0.1, at the host's {address} (services on all of the \
             host's addresses are open until a firewall of our own, a later issue)"
        );
        targets.push(Target { what, address, port, at: None });
    }
    Ok(targets)
}

async fn control_plane(docker: &Docker, project: &str, from: &Tenant) -> Result<Vec<Target>> {
    let label = format!("com.docker.compose.project={project}");
    let filters = HashMap::from([("label", vec![label])]);
    let options = ListContainersOptionsBuilder::default().filters(&filters).build();
    let running = docker.list_containers(Some(options)).await?;
    let own_gateways: Vec<_> =
        endpoints(from).await?.into_iter().filter_map(|own| own.gateway).collect();
    let mut targets = Vec::new();
    for (service, ports) in CONTROL_PLANE {
        let found = running.iter().find(|container| service_of(container) == Some(service));
        let found = found.with_context(|| format!("no {service} runs in {project}"))?;
        let at = Tenant::of(docker, found.id.as_deref().unwrap_or_default());
        for address in endpoints(&at).await?.into_iter().filter_map(|own| own.ip_address) {
            for &port in ports {
                let (what, at) = (format!("{service} at {address}:{port}"), Some(at.clone()));
                targets.push(Target { what, address: address.clone(), port, at });
            }
        }
        for port in found.ports.iter().flatten().filter_map(|port| port.public_port) {
            for address in &own_gateways {
                let what = format!("{service} as published, at the host's {address}:{port}");
                targets.push(Target { what, address: address.clone(), port, at: None });
            }
        }
    }
    Ok(targets)
}

fn service_of(container: &ContainerSummary) -> Option<&str> {
    container.labels.as_ref()?.get("com.docker.compose.service").map(String::as_str)
}

async fn endpoints(tenant: &Tenant) -> Result<Vec<EndpointSettings>> {
    let seen = tenant.inspect().await?;
    let networks = seen.network_settings.and_then(|settings| settings.networks);
    let endpoints = networks.unwrap_or_default().into_values();
    // A container without a network has an endpoint without an address.
    let has_address =
        |own: &EndpointSettings| own.ip_address.as_ref().is_some_and(|a| !a.is_empty());
    Ok(endpoints.filter(has_address).collect())
}

async fn name_of(tenant: &Tenant) -> Result<String> {
    let name = tenant.inspect().await?.name.context("a container without a name")?;
    Ok(name.trim_start_matches('/').to_owned())
}

/// [`OPEN`] or [`CLOSED`], once it is certain that there is something to be reached.
async fn reach(from: &Tenant, target: &Target) -> Result<&'static str> {
    if let Some(at) = &target.at {
        let own = connect(at, &target.address, target.port).await?;
        ensure!(own == OPEN, "nothing can be proven of {}: at home it is {own}", target.what);
    }
    let seen = connect(from, &target.address, target.port).await?;
    Ok(if seen == OPEN { OPEN } else { CLOSED })
}

/// What becomes of a connection from inside a container: [`OPEN`], or the reason why not.
async fn connect(from: &Tenant, address: &str, port: u16) -> Result<String> {
    let program = format!(
        r#"use IO::Socket::INET;
        my $s = IO::Socket::INET->new(PeerAddr => "{address}", PeerPort => {port}, Timeout => {PATIENCE_S});
        print $s ? "{OPEN}" : "no: $!";"#
    );
    let ran = from.perl("0", &program).await?;
    if ran.code != 0 {
        bail!("the probe itself failed: {}", ran.out);
    }
    Ok(ran.out)
}
