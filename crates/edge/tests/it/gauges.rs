use std::time::Duration;

use protocol::gauges::{Gauge, GaugeName};
use tenant_service::gauges::fetch_gauges;
use tokio::net::TcpStream;

use crate::world::Tenant;

#[tokio::test]
async fn the_connections_of_the_edge_are_reported_with_their_limit() {
    let tenant = Tenant::open().await;
    let _open = TcpStream::connect(tenant.tcp).await.unwrap();
    let connections = async {
        loop {
            // The edge may not serve yet.
            let gauges = fetch_gauges(&tenant.gauges).await.unwrap_or_default();
            let is_connected =
                |one: &&Gauge| one.name == GaugeName::EdgeConnections && one.current == 1;
            if let Some(gauge) = gauges.iter().find(is_connected) {
                break *gauge;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let connections = tokio::time::timeout(Duration::from_secs(60), connections).await.unwrap();
    assert!(connections.limit > 1, "{connections:?}");
}
