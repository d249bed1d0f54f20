//! The gauges that tenants report, as metrics with a tenant's id as their label. A tenant reports numbers alone: the names
//! come from the code.

use std::fmt;

use prometheus_client::encoding::{EncodeMetric, MetricEncoder};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::registry::Registry;
use protocol::TenantId;
use protocol::gauges::{Gauge, GaugeName};
use service::metrics;

const GAUGES: [(GaugeName, &str, &str); 10] = [
    (GaugeName::EdgeConnections, "edge_connections", "Client connections of the edge"),
    (
        GaugeName::EdgeIdleUpstreams,
        "edge_idle_upstreams",
        "Idle connections of the edge to the services",
    ),
    (GaugeName::CoreFrontConnections, "core_front_connections", "Connections to core-front"),
    (
        GaugeName::CoreBackConnections,
        "core_back_connections",
        "Connections of the edge to core-back",
    ),
    (
        GaugeName::AgentBusyConnections,
        "agent_busy_connections",
        "Connections of the app to the busy API",
    ),
    (GaugeName::CoreBusyDeclarations, "core_busy_declarations", "Busy declarations of the core"),
    (GaugeName::AgentBusyDeclarations, "agent_busy_declarations", "Busy declarations of the app"),
    (GaugeName::TenantSessions, "sessions", "Tenant sessions"),
    (GaugeName::UsedTokens, "used_tokens", "Used SSO tokens that are remembered"),
    (GaugeName::RevokedSessions, "revoked_sessions", "Ended admin sessions that are remembered"),
];

/// The samples of one gauge: a tenant's id, and its value.
#[derive(Debug)]
struct TenantSamples(Vec<(String, u64)>);

impl EncodeMetric for TenantSamples {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(id, value)| {
            let label = [("tenant", id.as_str())];
            ConstGauge::new(*value).encode(encoder.encode_family(&label)?)
        })
    }

    fn metric_type(&self) -> MetricType {
        MetricType::Gauge
    }
}

/// The response to `/metrics/tenants`: `cial_tenant_{name}_current` and `cial_tenant_{name}_limit`.
pub(crate) fn text(reports: &[(TenantId, Vec<Gauge>)]) -> String {
    let mut registry = Registry::with_prefix("cial_tenant");
    for (gauge, name, help) in GAUGES {
        let samples = |pick: fn(&Gauge) -> u64| {
            let of_tenant = |(id, gauges): &(TenantId, Vec<Gauge>)| {
                let found = gauges.iter().find(|one| one.name == gauge)?;
                Some((id.to_string(), pick(found)))
            };
            TenantSamples(reports.iter().filter_map(of_tenant).collect())
        };
        let current = samples(|gauge| gauge.current);
        registry.register(format!("{name}_current"), format!("{help}: now"), current);
        let limit = samples(|gauge| gauge.limit);
        registry.register(format!("{name}_limit"), format!("{help}: at most"), limit);
    }
    metrics::render(&registry)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_gauge_has_a_sample_for_each_tenant_that_reports_it() {
        let [one, other] = ["1", "2"].map(|digit| {
            let id = format!("0192f0c1-2345-7abc-8def-00000000000{digit}");
            id.parse::<TenantId>().unwrap()
        });
        let sessions = |current| Gauge::new(GaugeName::TenantSessions, current, 1_000);
        let unknown = Gauge::new(GaugeName::Unknown, 5, 5);
        let text = text(&[(one, vec![sessions(3), unknown]), (other, vec![])]);
        let lines: Vec<_> = text.lines().filter(|line| !line.starts_with('#')).collect();
        assert_eq!(
            lines,
            [
                format!("cial_tenant_sessions_current{{tenant=\"{one}\"}} 3"),
                format!("cial_tenant_sessions_limit{{tenant=\"{one}\"}} 1000"),
            ]
        );
        assert_eq!(text.matches("# TYPE ").count(), 2 * GAUGES.len());
    }
}
