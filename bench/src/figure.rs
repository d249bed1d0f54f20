//! One measured number and its formats.

use std::collections::HashMap;
use std::fmt;

use anyhow::Result;
use bollard::Docker;
use bollard::query_parameters::ListContainersOptionsBuilder;
use serde_json::{Map, Value, json};

/// A measured value with its unit and its bar.
#[derive(Clone, Debug)]
pub(crate) struct Figure {
    pub(crate) name: &'static str,
    pub(crate) value: f64,
    pub(crate) unit: &'static str,
    /// `None` for a value that is shown for comparison only.
    pub(crate) bar: Option<Bar>,
    /// Minimum and maximum, where the value is a median.
    pub(crate) spread: Option<(f64, f64)>,
}

#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    AtMost(f64),
    AtLeast(f64),
}

/// The facts that figures depend on besides the code, each with its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Environment {
    facts: Vec<(String, String)>,
}

impl Figure {
    pub(crate) const fn new(name: &'static str, value: f64, unit: &'static str) -> Self {
        Self { name, value, unit, bar: None, spread: None }
    }

    /// The median of these values, between the least and the most of them.
    pub(crate) fn median(name: &'static str, values: &[f64], unit: &'static str) -> Self {
        let at = |fraction| quantile(values, fraction);
        Self::new(name, at(0.5), unit).between(at(0.0), at(1.0))
    }

    /// Sets a maximum.
    pub(crate) const fn bar(self, most: f64) -> Self {
        Self { bar: Some(Bar::AtMost(most)), ..self }
    }

    /// Sets a minimum.
    pub(crate) const fn at_least(self, least: f64) -> Self {
        Self { bar: Some(Bar::AtLeast(least)), ..self }
    }

    const fn between(self, least: f64, most: f64) -> Self {
        Self { spread: Some((least, most)), ..self }
    }

    pub(crate) fn holds(&self) -> bool {
        match self.bar {
            None => true,
            Some(Bar::AtMost(bar)) => self.value <= bar,
            Some(Bar::AtLeast(bar)) => self.value >= bar,
        }
    }

    pub(crate) fn json(&self, bench: &str, environment: &Environment) -> Value {
        let (at_most, at_least) = match self.bar {
            None => (None, None),
            Some(Bar::AtMost(bar)) => (Some(bar), None),
            Some(Bar::AtLeast(bar)) => (None, Some(bar)),
        };
        let facts: Map<_, _> =
            environment.facts.iter().map(|(name, fact)| (name.clone(), json!(fact))).collect();
        json!({
            "bench": bench, "figure": self.name, "value": self.value, "unit": self.unit, "bar": at_most,
            "at_least": at_least, "holds": self.holds(), "least": self.spread.map(|s| s.0),
            "most": self.spread.map(|s| s.1), "setting": facts,
        })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { name, value, unit, bar, spread } = self;
        write!(f, "  {name:<44} {value:>8.2} {unit:<5}")?;
        if let Some((least, most)) = spread {
            write!(f, " [{least:.2}–{most:.2}]")?;
        }
        let verdict = if self.holds() { "ok      " } else { "MISSED  " };
        match bar {
            Some(Bar::AtMost(bar)) => write!(f, " {verdict}(bar {bar} {unit})"),
            Some(Bar::AtLeast(bar)) => write!(f, " {verdict}(at least {bar} {unit})"),
            None => Ok(()),
        }
    }
}

impl fmt::Display for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, fact)) in self.facts.iter().enumerate() {
            let comma = if number == 0 { "" } else { ", " };
            write!(f, "{comma}{name} {fact}")?;
        }
        Ok(())
    }
}

impl Environment {
    /// Describes the machine and its load, because a figure that was measured beside compilers must
    /// show that load.
    pub(crate) fn machine() -> Self {
        let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
        let cpuinfo = read("/proc/cpuinfo");
        let model = cpuinfo.lines().find_map(|line| line.strip_prefix("model name"));
        let model = model.map_or("unknown", |rest| rest.trim_start_matches([' ', '\t', ':']));
        let cpus = std::thread::available_parallelism().map_or(1, usize::from);
        let load = read("/proc/loadavg").split(' ').next().unwrap_or_default().to_owned();
        Self::default()
            .and("CPU", format!("{cpus} x {model}"))
            .and("kernel", read("/proc/sys/kernel/osrelease").trim())
            .and("load before", load)
    }

    pub(crate) fn and(mut self, name: &str, fact: impl fmt::Display) -> Self {
        self.facts.push((name.to_owned(), fact.to_string()));
        self
    }

    /// Reads the facts of the machine and its engine, before a measurement starts anything.
    pub(crate) async fn look(docker: &Docker) -> Result<Self> {
        let info = docker.info().await?;
        let tenants = HashMap::from([("label".to_owned(), vec!["cial.tenant".to_owned()])]);
        let options = ListContainersOptionsBuilder::default().filters(&tenants).build();
        let running = docker.list_containers(Some(options)).await?.len();
        let text = |value: Option<String>| value.unwrap_or_else(|| "unknown".to_owned());
        Ok(Self::machine()
            .and("engine", text(info.server_version))
            .and("storage driver", text(info.driver))
            .and("tenants running", running))
    }
}

/// Returns the value at a fraction of the sorted values, by rank.
pub(crate) fn quantile(values: &[f64], fraction: f64) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    let last = sorted.len().saturating_sub(1);
    let place = (0..=last).find(|place| *place as f64 >= fraction * last as f64).unwrap_or(last);
    sorted.get(place).copied().unwrap_or(f64::NAN)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn quantiles_are_measured_values() {
        let values = [5.0, 1.0, 4.0, 2.0, 3.0];
        assert_eq!(quantile(&values, 0.0), 1.0);
        assert_eq!(quantile(&values, 0.5), 3.0);
        assert_eq!(quantile(&values, 1.0), 5.0);
        assert!(quantile(&[], 0.5).is_nan());
    }

    #[test]
    fn a_value_at_its_maximum_holds() {
        let figure = |value| Figure::new("x", value, "ms").bar(30.0);
        assert!(figure(30.0).holds());
        assert!(!figure(30.1).holds());
        assert!(!figure(f64::NAN).holds());
    }

    #[test]
    fn a_minimum_is_printed_as_a_minimum() {
        let figure = Figure::new("tenants", 299.0, "").at_least(300.0);
        assert!(!figure.holds());
        assert!(figure.to_string().ends_with("MISSED  (at least 300 )"), "{figure}");
    }

    #[test]
    fn a_spread_stands_beside_its_median() {
        let text = Figure::new("ratio", 0.8, "").between(0.7, 0.9).bar(0.95).to_string();
        assert!(text.contains("0.80") && text.contains("[0.70–0.90] ok"), "{text}");
    }
}
