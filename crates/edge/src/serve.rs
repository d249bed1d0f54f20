//! Starts the edge with the sockets from PID 1, and runs it until the last tunnel is drained.

use std::path::Path;
use std::time::Duration;

use protocol::gauges::{Gauge, GaugeName};
use proxy::{DescriptorDemand, HeadLimit, TooFewDescriptors};
use service::descriptors::raise_open_file_limit;
use service::{Env, ServiceError, shutdown_token};
use tenant_service::gauges::serve_gauges;
use tenant_service::inherited::Inherited;
use tokio_util::sync::CancellationToken;

use crate::policy::EdgePolicy;
use crate::settings::Settings;

/// Starts the edge under PID 1, which passes the TCP listener, optionally the ingress listener, and the link.
pub fn start(env: &Env) -> Result<(), ServiceError> {
    let settings = Settings::read(env)?;
    let mut inherited = Inherited::take();
    let mut listeners = vec![proxy::Listener::Tcp(inherited.tcp_listener(0)?)];
    if inherited.listener_count() > 1 {
        listeners.push(proxy::Listener::Unix(inherited.unix_listener(1)?));
    }
    let link = inherited.readiness_link()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = shutdown_token()?;
        // The sockets already listen: connections queue in the kernel until the engine accepts them.
        link.notify_ready()?;
        serve(listeners, settings, stop).await?;
        Ok(())
    })
}

/// Serves until `stop`, then drains within the ten seconds that PID 1 grants.
pub async fn serve(
    listeners: Vec<proxy::Listener>,
    settings: Settings,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let engine = engine_settings(raise_open_file_limit() as u64).map_err(std::io::Error::other)?;
    // A tenant without gauges still serves.
    if let Err(error) = report_gauges(&settings.gauges_socket, &engine) {
        eprintln!("gauges not served: error={error}");
    }
    proxy::serve(listeners, EdgePolicy::new(settings), engine, stop).await
}

fn report_gauges(socket: &Path, engine: &proxy::Settings) -> std::io::Result<()> {
    let stats = engine.stats.clone();
    let (connections, idle) = (engine.max_connections, engine.max_idle_per_upstream * UPSTREAMS);
    serve_gauges(socket, move || {
        vec![
            Gauge::new(GaugeName::EdgeConnections, stats.connections(), connections),
            Gauge::new(GaugeName::EdgeIdleUpstreams, stats.idle(), idle),
        ]
    })
}

/// Listeners, the runtime, the link to PID 1, standard streams and session lookups.
const RESERVED_DESCRIPTORS: usize = 64;
/// core-back, core-front and platform-front.
const UPSTREAMS: usize = 3;

fn engine_settings(open_file_limit: u64) -> Result<proxy::Settings, TooFewDescriptors> {
    let demand = DescriptorDemand {
        limit: open_file_limit,
        reserved: RESERVED_DESCRIPTORS,
        threads: 1,
        upstreams: UPSTREAMS,
        connections: 4_096,
        idle_per_upstream: 64,
    };
    let budget = demand.budget()?;
    Ok(proxy::Settings {
        // Requests have passed the router before, and responses pass it afterwards.
        request_head: HeadLimit::NEXT_HOP,
        response_head: HeadLimit::FIRST_HOP,
        // The edge of one tenant is a process of about a megabyte.
        buffer_bytes: HeadLimit::NEXT_HOP.bytes,
        max_connections: budget.max_connections,
        max_idle_per_upstream: budget.max_idle_per_upstream,
        drain_timeout: Duration::from_secs(9),
        // The core and the platform close their tunnels at once; the bound is for an app that does not.
        tunnel_drain_timeout: Duration::from_secs(2),
        ..proxy::Settings::default()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_connections_fit_into_the_open_file_limit() {
        let usual = engine_settings(1_048_576).unwrap();
        assert_eq!((usual.max_connections, usual.max_idle_per_upstream), (4_096, 64));
        let small = engine_settings(300).unwrap();
        let held = 2 * small.max_connections + UPSTREAMS * small.max_idle_per_upstream;
        assert!(held + RESERVED_DESCRIPTORS <= 300 && small.max_connections > 50, "{small:?}");
        assert!(engine_settings(64).is_err());
    }
}
