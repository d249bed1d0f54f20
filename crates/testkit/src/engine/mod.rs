//! The container engine, for tests and benches that run tenants by hand.

mod derived_image;
mod endpoint;
mod sandbox;
mod tenant;

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::Docker;

pub use derived_image::{build_layer, remove_image};
pub use endpoint::Endpoint;
pub use sandbox::{Sandbox, TenantOptions, any_loopback_port, volume_mount, volumes_of};
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

/// A filter for objects with all these labels, `name` or `name=value` each.
pub fn label_filters(labels: &[&str]) -> HashMap<String, Vec<String>> {
    HashMap::from([("label".to_owned(), labels.iter().map(|label| (*label).to_owned()).collect())])
}
