//! The `firewall` subcommand: keeps one rule in the kernel of the machine, which drops what tenants send to other
//! containers. The engine's own isolation has gaps: engine 20.10 takes it out and puts it in again whenever a
//! network is created. This rule is in a table of its own, which no engine touches.

mod table;

use std::fs;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
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

/// Keeps the rule until the process receives a stop signal. The rule stays while tenants have networks: a restart of the
/// service, or an upgrade, must not open a way between them. A process that is killed leaves it, too; its successor replaces
/// it.
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
    let (first, last) = (pool.first_address(), pool.last_address());
    let mut installed_rule = None;
    loop {
        let uplinks = uplinks(&fs::read_to_string(ROUTES).context(ROUTES)?);
        let rule = DropRule { first, last, uplinks };
        if installed_rule.as_ref() != Some(&rule) || !table.is_present()? {
            table.replace(&rule)?;
            tracing::info!(%pool, uplinks = ?rule.uplinks, "firewall rule set");
            installed_rule = Some(rule);
        }
        tokio::select! {
            () = stop.cancelled() => break,
            () = tokio::time::sleep(CHECK_INTERVAL) => {}
        }
    }
    if has_network_in(&fs::read_to_string(ROUTES).context(ROUTES)?, first..=last) {
        tracing::info!("firewall rule kept, because tenants have networks");
        return Ok(());
    }
    Ok(table.remove()?)
}

fn table_of(install: &InstallName) -> anyhow::Result<FilterTable> {
    Ok(FilterTable::new(&format!("cial-{install}"))?)
}

/// A line of `/proc/net/route`.
struct Route<'a> {
    interface: &'a str,
    destination: Ipv4Addr,
    mask: Ipv4Addr,
}

impl<'a> Route<'a> {
    fn parse(line: &'a str) -> Option<Self> {
        let mut fields = line.split_whitespace();
        let interface = fields.next()?;
        // The kernel prints the four bytes of an address as one integer of the machine.
        let address = |field: &str| {
            u32::from_str_radix(field, 16).ok().map(|number| Ipv4Addr::from(number.to_ne_bytes()))
        };
        let (destination, mask) = (address(fields.next()?)?, address(fields.nth(5)?)?);
        Some(Self { interface, destination, mask })
    }
}

/// Finds the interfaces of default routes in the text of `/proc/net/route`. The way out of the machine may be a bridge, too.
fn uplinks(routes: &str) -> Vec<String> {
    let routes = routes.lines().filter_map(Route::parse);
    let defaults = routes.filter(|r| r.destination.is_unspecified() && r.mask.is_unspecified());
    let mut uplinks: Vec<_> = defaults.map(|route| route.interface.to_owned()).collect();
    uplinks.sort();
    uplinks.dedup();
    uplinks
}

/// Whether a network with a subnet in `pool` exists, by the text of `/proc/net/route`. The engine gives each of its bridges a
/// route, also while no container is on it.
fn has_network_in(routes: &str, pool: RangeInclusive<Ipv4Addr>) -> bool {
    routes.lines().filter_map(Route::parse).any(|route| pool.contains(&route.destination))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn a_network_of_the_pool_has_a_route_of_its_own() {
        let pool = || Ipv4Addr::new(10, 201, 0, 0)..=Ipv4Addr::new(10, 201, 255, 255);
        let route = |destination| {
            format!("br0\t{destination}\t00000000\t0001\t0\t0\t0\tF8FFFFFF\t0\t0\t0\n")
        };
        let table = [
            ("0000C90A", true),
            ("F8FFC90A", true),
            ("0000CA0A", false),
            ("F8FFC80A", false),
            ("000011AC", false),
            ("00000000", false),
        ];
        for (destination, expected) in table {
            assert_eq!(has_network_in(&route(destination), pool()), expected, "{destination}");
        }
        assert!(!has_network_in("", pool()));
    }

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
