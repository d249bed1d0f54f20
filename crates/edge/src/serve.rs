//! From what PID 1 hands over to the last drained tunnel.

use std::time::Duration;

use proxy::HeadLimit;
use service::inherited::Inherited;
use service::{Env, Failed, stop_requested};
use tokio_util::sync::CancellationToken;

use crate::policy::EdgePolicy;
use crate::settings::Settings;

/// Started by PID 1: the TCP listener, then, where there is one, the ingress listener, and the link.
pub fn start(env: &Env) -> Result<(), Failed> {
    let settings = Settings::read(env)?;
    let mut inherited = Inherited::take();
    let mut listeners = vec![proxy::Listener::Tcp(inherited.tcp(0)?)];
    if inherited.listeners() > 1 {
        listeners.push(proxy::Listener::Unix(inherited.unix(1)?));
    }
    let link = inherited.link()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    runtime.block_on(async {
        let stop = stop_requested()?;
        // The sockets listen already: what comes in now waits in their queues for the loop below.
        link.say_ready()?;
        serve(listeners, settings, stop).await?;
        Ok(())
    })
}

/// Serves until `stop`, then drains within the ten seconds that PID 1 gives.
pub async fn serve(
    listeners: Vec<proxy::Listener>,
    settings: Settings,
    stop: CancellationToken,
) -> std::io::Result<()> {
    proxy::serve(listeners, EdgePolicy::new(settings), bounds(), stop).await
}

fn bounds() -> proxy::Settings {
    proxy::Settings {
        // Behind the router for what comes in, in front of it for what goes out.
        request_head: HeadLimit::NEXT_HOP,
        response_head: HeadLimit::FIRST_HOP,
        // One tenant, one process of a megabyte.
        buffer_bytes: HeadLimit::NEXT_HOP.bytes,
        max_connections: 4_096,
        max_idle_per_upstream: 64,
        drain_timeout: Duration::from_secs(9),
        // The core and the platform close theirs at once; this is for an app that does not.
        tunnel_drain_timeout: Duration::from_secs(2),
        ..proxy::Settings::default()
    }
}
