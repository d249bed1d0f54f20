//! The gauges of the core half, its own and those that the edge and core-front report.

use std::path::PathBuf;
use std::sync::Arc;

use protocol::gauges::{Gauge, GaugeName};
use service::connections::Connections;
use tenant_service::gauges::fetch_gauges;

use super::sessions::Sessions;

#[derive(Clone)]
pub(super) struct ReportedGauges {
    pub(super) sessions: Sessions,
    /// The connections of the edge.
    pub(super) edge: Arc<Connections>,
    pub(super) sockets: [PathBuf; 2],
}

impl ReportedGauges {
    /// A service that does not report is left out: the others are still of use.
    pub(super) async fn read(&self) -> Vec<Gauge> {
        let (current, limit) = (self.edge.current(), self.edge.limit());
        let mut gauges = vec![Gauge::new(GaugeName::CoreBackConnections, current, limit)];
        gauges.extend(self.sessions.gauges().await);
        let [first, second] = &self.sockets;
        let (first, second) = tokio::join!(fetch_gauges(first), fetch_gauges(second));
        for (reported, socket) in [first, second].into_iter().zip(&self.sockets) {
            match reported {
                Ok(reported) => gauges.extend(reported),
                Err(error) => {
                    eprintln!("gauges not read: socket={} error={error}", socket.display())
                }
            }
        }
        gauges
    }
}
