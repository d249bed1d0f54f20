//! The `report` subcommand: reads the running orchestrator's own API for tools on the same machine, like
//! `cargo xtask doctor`.

use std::net::SocketAddr;
use std::time::Duration;

use axum::http::Method;
use protocol::orchestrator::{Capacity, DiskUseList, EngineReport, ObservedTenantList};
use service::client::Client;
use service::settings::shared;
use service::{Env, ServiceError, SettingsReader};

use crate::settings;

const TIMEOUT: Duration = Duration::from_secs(30);

/// Reads the report with the settings of the running service.
///
/// # Errors
/// Invalid settings, and a service that does not respond or refuses the token.
pub fn report(env: &Env) -> Result<EngineReport, ServiceError> {
    let mut vars = SettingsReader::new(env);
    let listen = vars.value::<SocketAddr>(&settings::LISTEN);
    let token = vars.secret(&shared::ORCHESTRATOR_TOKEN);
    let (listen, token) = vars.finish(|| Some((listen?, token?)))?;
    let client = Client::new(format!("http://127.0.0.1:{}", listen.port()), token);
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(fetch(&client))
}

async fn fetch(client: &Client) -> Result<EngineReport, ServiceError> {
    let capacity: Capacity = client.call(Method::GET, "/v1/capacity", None::<&()>, TIMEOUT).await?;
    let tenants: ObservedTenantList =
        client.call(Method::GET, "/v1/tenants", None::<&()>, TIMEOUT).await?;
    let disk: DiskUseList = client.call(Method::GET, "/v1/disk", None::<&()>, TIMEOUT).await?;
    Ok(EngineReport { capacity, tenants: tenants.tenants, disk: disk.tenants })
}
