//! Metrics in Prometheus's text format 0.0.4, on top of `prometheus_client`.
//!
//! A scrape registers the counters and the values of this moment in a [`Registry`] and renders it. The registry ends
//! each help text with a full stop, and the names of counters with `_total`.

use std::fmt;

use prometheus_client::encoding::prometheus_text;
use prometheus_client::encoding::{EncodeGaugeValue, EncodeMetric, MetricEncoder};
use prometheus_client::metrics::counter::ConstCounter;
use prometheus_client::metrics::gauge::ConstGauge;
use prometheus_client::metrics::{MetricType, TypedMetric};
use prometheus_client::registry::Registry;

pub use prometheus_client::encoding::prometheus_text::CONTENT_TYPE;

/// Label names and values. They come from the code, never from a request or a tenant.
pub type Labels<const N: usize> = [(&'static str, &'static str); N];

/// How much of a bounded resource is taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Bounded {
    pub current: usize,
    pub limit: usize,
}

impl Bounded {
    /// Registers the gauges `{name}_current` and `{name}_limit`.
    pub fn register(self, registry: &mut Registry, name: &str, help: &str) {
        Self::register_family(registry, name, help, &[([], self)]);
    }

    /// Registers the gauges `{name}_current` and `{name}_limit` with one sample for each set of labels.
    pub fn register_family<const N: usize>(
        registry: &mut Registry,
        name: &str,
        help: &str,
        values: &[(Labels<N>, Self)],
    ) {
        let gauges = |pick: fn(&Self) -> usize| {
            Samples::gauges(values.iter().map(|(labels, value)| (*labels, pick(value))))
        };
        registry.register(format!("{name}_current"), format!("{help}: now"), gauges(|b| b.current));
        registry.register(format!("{name}_limit"), format!("{help}: at most"), gauges(|b| b.limit));
    }
}

/// The samples of one family at this moment, in the order in which they are exported.
#[derive(Debug)]
pub struct Samples<const N: usize, M>(Vec<(Labels<N>, M)>);

impl<const N: usize, V: EncodeGaugeValue> Samples<N, ConstGauge<V>> {
    pub fn gauges(values: impl IntoIterator<Item = (Labels<N>, V)>) -> Self {
        Self(values.into_iter().map(|(labels, value)| (labels, ConstGauge::new(value))).collect())
    }
}

impl<const N: usize> Samples<N, ConstCounter<u64>> {
    pub fn counters(values: impl IntoIterator<Item = (Labels<N>, u64)>) -> Self {
        Self(values.into_iter().map(|(labels, value)| (labels, ConstCounter::new(value))).collect())
    }
}

impl<const N: usize, M: EncodeMetric + TypedMetric> EncodeMetric for Samples<N, M> {
    fn encode(&self, mut encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|(labels, metric)| metric.encode(encoder.encode_family(labels)?))
    }

    fn metric_type(&self) -> MetricType {
        M::TYPE
    }
}

/// A family that has a help text and a type before its first sample, too: a registry leaves out an empty `Family`.
#[derive(Clone, Debug, Default)]
pub struct Described<M>(pub M);

impl<M: EncodeMetric> EncodeMetric for Described<M> {
    fn encode(&self, encoder: MetricEncoder<'_>) -> fmt::Result {
        self.0.encode(encoder)
    }

    fn metric_type(&self) -> MetricType {
        self.0.metric_type()
    }
}

/// Renders all metrics of `registry`, for a response of the type [`CONTENT_TYPE`].
///
/// # Panics
/// When a metric refuses to be encoded, which none of `prometheus_client` and of this module does.
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    prometheus_text::encode(&mut text, registry).expect("a write to a String succeeds");
    text
}

#[cfg(test)]
mod tests {
    use prometheus_client::metrics::counter::Counter;
    use prometheus_client::metrics::family::Family;

    use super::*;

    #[test]
    fn every_metric_has_a_help_text_and_a_type() {
        let mut registry = Registry::with_prefix("cial");
        let errors = Described::<Family<Labels<1>, Counter>>::default();
        registry.register("errors", "Errors by code", errors.clone());
        Bounded { current: 1, limit: 2 }.register(&mut registry, "places", "Places");
        let calls = [("start", 3), ("thaw", 0)]
            .map(|(kind, current)| ([("kind", kind)], Bounded { current, limit: 4 }));
        Bounded::register_family(&mut registry, "calls", "Calls", &calls);
        insta::assert_snapshot!(render(&registry), @r#"
        # HELP cial_errors_total Errors by code.
        # TYPE cial_errors_total counter
        # HELP cial_places_current Places: now.
        # TYPE cial_places_current gauge
        cial_places_current 1
        # HELP cial_places_limit Places: at most.
        # TYPE cial_places_limit gauge
        cial_places_limit 2
        # HELP cial_calls_current Calls: now.
        # TYPE cial_calls_current gauge
        cial_calls_current{kind="start"} 3
        cial_calls_current{kind="thaw"} 0
        # HELP cial_calls_limit Calls: at most.
        # TYPE cial_calls_limit gauge
        cial_calls_limit{kind="start"} 4
        cial_calls_limit{kind="thaw"} 4
        "#);
        errors.0.get_or_create(&[("code", "lost")]).inc();
        assert!(render(&registry).contains("cial_errors_total{code=\"lost\"} 1\n"));
    }
}
