//! The `firewall` subcommand: keeps one rule in the kernel of the machine, which drops what tenants send to other
//! containers. The engine's own isolation has gaps: engine 20.10 takes it out and puts it in again whenever a
//! network is created. This rule is in a table of its own, which no engine touches.

mod table;

use std::fs;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use protocol::InstallName;
use service::logs::LogFilter;
use service::settings::shared;
use service::{Env, ServiceError, SettingsReader};

use crate::driver::docker::subnet_pool::Pool;
use crate::settings;
use table::{DropRule, FilterTable};

/// How soon a rule returns that somebody flushed. A service of the machine that sets up another firewall does that.
const CHECK_INTERVAL: Duration = Duration::from_secs(10);
/// The interfaces that the default routes leave through.
const ROUTES: &str = "/proc/net/route";

/// Keeps the rule until the process receives a stop signal, then removes it. A process that is killed leaves the
/// rule behind; its successor replaces it.
///
/// # Errors
/// Invalid settings, and a kernel that refuses the rule.
pub fn serve(env: &Env) -> Result<(), ServiceError> {
    let mut vars = SettingsReader::new(env);
    let log: Option<LogFilter> = vars.value(&shared::LOG);
    let install: Option<InstallName> = vars.value(&shared::INSTALL);
    let pool: Option<Pool> = vars.value(&settings::SUBNET_POOL);
    let (log, install, pool) = vars.finish(|| Some((log?, install?, pool?)))?;
    service::logs::init(&log);
    let mut table = table_of(&install)?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    Ok(runtime.block_on(async {
        let stop = service::shutdown_token()?;
        keep(&mut table, pool, stop).await.context(
            "cannot keep tenants apart: the service needs a kernel with nf_tables (Linux 5.0 or newer), \
             the network of the host and the capability NET_ADMIN",
        )
    })?)
}

/// The health check of the service: whether the rule is in the kernel.
///
/// # Errors
/// Invalid settings, and a kernel that does not answer.
pub fn check(env: &Env) -> Result<ExitCode, ServiceError> {
    let mut vars = SettingsReader::new(env);
    let install: Option<InstallName> = vars.value(&shared::INSTALL);
    let install = vars.finish(|| install)?;
    let is_present = table_of(&install)?.is_present()?;
    Ok(if is_present { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

async fn keep(
    table: &mut FilterTable,
    pool: Pool,
    stop: tokio_util::sync::CancellationToken,
) -> anyhow::Result<()> {
    let mut kept = None;
    loop {
        let rule = DropRule {
            first: pool.first_address(),
            last: pool.last_address(),
            uplinks: uplinks(&fs::read_to_string(ROUTES).context(ROUTES)?),
        };
        if kept.as_ref() != Some(&rule) || !table.is_present()? {
            table.replace(&rule)?;
            tracing::info!(%pool, uplinks = ?rule.uplinks, "firewall rule set");
            kept = Some(rule);
        }
        tokio::select! {
            () = stop.cancelled() => return Ok(table.remove()?),
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
}

fn table_of(install: &InstallName) -> anyhow::Result<FilterTable> {
    Ok(FilterTable::new(&format!("cial-{install}"))?)
}

/// Finds the interfaces of default routes in the text of `/proc/net/route`. The way out of the machine may be a bridge, too.
fn uplinks(routes: &str) -> Vec<String> {
    let unspecified = format!("{:08X}", u32::from(Ipv4Addr::UNSPECIFIED));
    let uplink = |line: &str| {
        let mut fields = line.split_whitespace();
        let (interface, destination, mask) = (fields.next()?, fields.next()?, fields.nth(5)?);
        (destination == unspecified && mask == unspecified).then(|| interface.to_owned())
    };
    let mut uplinks: Vec<_> = routes.lines().filter_map(uplink).collect();
    uplinks.sort();
    uplinks.dedup();
    uplinks
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uplinks_are_the_interfaces_of_default_routes() {
        let routes = "Iface\tDestination\tGateway \tFlags\tRefCnt\tUse\tMetric\tMask\t\tMTU\tWindow\tIRTT\n\
            br0\t00000000\t010200C0\t0003\t0\t0\t0\t00000000\t0\t0\t0\n\
            docker0\t000011AC\t00000000\t0001\t0\t0\t0\t0000FFFF\t0\t0\t0\n\
            tun0\t00000000\t00000000\t0001\t0\t0\t0\t00000080\t0\t0\t0\n\
            br0\t00000000\t010200C0\t0003\t0\t0\t9\t00000000\t0\t0\t0\n";
        assert_eq!(uplinks(routes), ["br0"]);
        assert_eq!(uplinks(""), <[String; 0]>::default());
    }
}
