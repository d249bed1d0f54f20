//! Current values and their bounds inside a tenant.
//!
//! core-back reports them on the orchestrator's socket ([`ORCHESTRATOR_SOCKET`](crate::inside::ORCHESTRATOR_SOCKET)): `GET /gauges` →
//! [`GaugeReport`]. It reads those of the edge and of core-front from their own sockets.

use serde::{Deserialize, Serialize};

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GaugeName {
    EdgeConnections,
    EdgeIdleUpstreams,
    CoreFrontConnections,
    CoreBackConnections,
    AgentBusyConnections,
    CoreBusyDeclarations,
    AgentBusyDeclarations,
    TenantSessions,
    UsedTokens,
    RevokedSessions,
    /// A gauge of a newer image.
    #[serde(other)]
    Unknown,
}

/// A value that has a bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gauge {
    pub name: GaugeName,
    pub current: u64,
    pub limit: u64,
}

#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GaugeReport {
    pub gauges: Vec<Gauge>,
}

impl Gauge {
    pub fn new(name: GaugeName, current: usize, limit: usize) -> Self {
        let number = |value| u64::try_from(value).unwrap_or(u64::MAX);
        Self { name, current: number(current), limit: number(limit) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_of_a_newer_image_does_not_hide_the_others() {
        let text = r#"{"gauges":[{"name":"edge_connections","current":3,"limit":4096},{"name":"later","current":1,"limit":2}]}"#;
        let report: GaugeReport = serde_json::from_str(text).unwrap();
        let names: Vec<_> = report.gauges.iter().map(|gauge| gauge.name).collect();
        assert_eq!(names, [GaugeName::EdgeConnections, GaugeName::Unknown]);
        assert_eq!(report.gauges[0], Gauge::new(GaugeName::EdgeConnections, 3, 4_096));
    }
}
