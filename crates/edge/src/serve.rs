//! Starts the edge with the sockets from PID 1, and runs it until the last tunnel is drained.

use std::time::Duration;

use proxy::HeadLimit;
use service::{Env, ServiceError, shutdown_token};
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
    proxy::serve(listeners, EdgePolicy::new(settings), engine_settings(), stop).await
}

fn engine_settings() -> proxy::Settings {
    proxy::Settings {
        // Requests have passed the router before, and responses pass it afterwards.
        request_head: HeadLimit::NEXT_HOP,
        response_head: HeadLimit::FIRST_HOP,
        // The edge of one tenant is a process of about a megabyte.
        buffer_bytes: HeadLimit::NEXT_HOP.bytes,
        max_connections: 4_096,
        max_idle_per_upstream: 64,
        drain_timeout: Duration::from_secs(9),
        // The core and the platform close their tunnels at once; the bound is for an app that does not.
        tunnel_drain_timeout: Duration::from_secs(2),
        ..proxy::Settings::default()
    }
}
