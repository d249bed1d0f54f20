//! Whom a tenant can reach: itself, and neither another tenant nor the control plane.

use anyhow::{Context as _, Result, bail, ensure};
use bollard::Docker;
use bollard::exec::{CreateExecOptions, StartExecResults};
use futures_util::StreamExt as _;
use futures_util::future::try_join_all;

use crate::local::{self, Installation};

/// What of the control plane listens where.
const CONTROL: [(&str, u16); 6] = [
    ("postgres", 5432),
    ("app-api", 3100),
    ("app-api", 3101),
    ("orchestrator", 3200),
    ("router", 8080),
    ("router", 8081),
];
const TENANT_PORT: u16 = 8080;

/// Connects from inside the tenant `from`, as the user whose code is trusted least.
pub(super) async fn holds(
    docker: &Docker,
    installation: &Installation,
    from: &str,
    other: &str,
) -> Result<()> {
    let from = container(docker, installation, from).await?;
    let own = addresses(docker, &from).await?;
    let own = own.first().context("a tenant has an address")?;
    // Otherwise the refusals below would prove nothing.
    ensure!(
        connects(docker, &from, own, TENANT_PORT).await?,
        "a tenant must reach itself at {own}"
    );
    let other = container(docker, installation, other).await?;
    let mut forbidden: Vec<_> = addresses(docker, &other)
        .await?
        .into_iter()
        .map(|address| (address, TENANT_PORT))
        .collect();
    for (service, port) in CONTROL {
        let id = local::of_service(docker, installation, service).await?;
        forbidden.extend(addresses(docker, &id).await?.into_iter().map(|address| (address, port)));
    }
    ensure!(forbidden.len() > CONTROL.len(), "not everybody has an address: {forbidden:?}");
    let gateway = gateway(docker, &from).await?;
    for port in [installation.admin_port, installation.router_port, installation.postgres_port] {
        forbidden.push((gateway.clone(), port));
    }
    // All at once: one after the other they take so long that the tenant, which nobody visits meanwhile, is frozen.
    let attempts = forbidden.iter().map(async |(address, port)| {
        ensure!(
            !connects(docker, &from, address, *port).await?,
            "a tenant reaches {address}:{port}"
        );
        Ok(())
    });
    try_join_all(attempts).await?;
    Ok(())
}

async fn container(docker: &Docker, installation: &Installation, slug: &str) -> Result<String> {
    let found = local::of_tenant(docker, installation, slug).await?;
    found.into_iter().next().with_context(|| format!("{slug} has no container"))
}

/// A container's address on each of its networks.
async fn addresses(docker: &Docker, id: &str) -> Result<Vec<String>> {
    let addresses =
        networks(docker, id).await?.into_iter().filter_map(|network| network.ip_address);
    Ok(addresses.filter(|address| !address.is_empty()).collect())
}

/// The machine itself, as a container sees it.
async fn gateway(docker: &Docker, id: &str) -> Result<String> {
    let gateway = networks(docker, id).await?.into_iter().find_map(|network| network.gateway);
    gateway.filter(|gateway| !gateway.is_empty()).context("a tenant's network has a gateway")
}

async fn networks(docker: &Docker, id: &str) -> Result<Vec<bollard::models::EndpointSettings>> {
    let seen = docker.inspect_container(id, None).await?;
    let networks = seen.network_settings.and_then(|settings| settings.networks);
    Ok(networks.unwrap_or_default().into_values().collect())
}

/// Whether a connection is made within 2 s: what is dropped on the way is never answered.
async fn connects(docker: &Docker, id: &str, address: &str, port: u16) -> Result<bool> {
    let script = format!("exec 3<>/dev/tcp/{address}/{port}");
    let command = ["timeout", "2", "bash", "-c", &script];
    let options = CreateExecOptions {
        cmd: Some(command.map(str::to_owned).to_vec()),
        user: Some("agent".to_owned()),
        attach_stdout: Some(true),
        attach_stderr: Some(true),
        ..CreateExecOptions::default()
    };
    let exec = docker.create_exec(id, options).await?.id;
    let StartExecResults::Attached { mut output, .. } = docker.start_exec(&exec, None).await?
    else {
        bail!("the engine did not attach to the command");
    };
    let mut said = String::new();
    while let Some(piece) = output.next().await {
        said.push_str(&piece?.to_string());
    }
    match docker.inspect_exec(&exec).await?.exit_code {
        Some(0) => Ok(true),
        // Bash says that it was refused, or `timeout` that nobody answered.
        Some(1 | 124) => Ok(false),
        other => bail!("the attempt ended with {other:?}: {said}"),
    }
}
