//! The container engine, for tests and benches that run tenants by hand or look at an installation.

mod derived_image;
mod endpoint;
mod installation;
mod sandbox;
mod tenant;

use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::Docker;

pub use derived_image::{build_layer, remove_image};
pub use endpoint::Endpoint;
pub use installation::{
    container_of_service, containers_of_tenant, everything_of, label_filters, logs_of,
    remove_volumes, tenant_objects,
};
pub use sandbox::{Sandbox, TenantOptions, volume_mount, volumes_of};
pub use tenant::{ExecOutput, TenantContainer, host_config, uuid_of};

/// Longer than any call of the engine takes on a busy machine.
const CALL_TIMEOUT: Duration = Duration::from_secs(600);
/// How long the engine waits between SIGTERM and SIGKILL; PID 1 of a tenant drains for ten seconds.
pub const STOP_GRACE_SECONDS: i32 = 12;

/// Connects to the engine that `DOCKER_HOST` names, or to the local one.
///
/// # Errors
/// No engine answers there.
pub async fn connect() -> Result<Docker> {
    let docker = match crate::installation::variable("DOCKER_HOST") {
        Some(host) => Docker::connect_with_host(&host),
        None => Docker::connect_with_defaults(),
    };
    let docker = docker.context("cannot connect to the container engine")?;
    let docker =
        docker.negotiate_version().await.context("the container engine does not answer")?;
    Ok(docker.with_timeout(CALL_TIMEOUT))
}
