//! Prometheus's text format: `# HELP` and `# TYPE`, then one line for each sample.

use std::fmt::{Display, Write as _};

/// The kind of a metric, as `# TYPE` names it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
    Histogram,
}

/// A text under construction. Every family begins with [`Exposition::family`].
#[derive(Debug, Default)]
pub(super) struct Exposition(String);

/// A gauge whose value has an upper bound: exported as `{name}_current` and `{name}_limit`.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounded {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    /// The value of the label `kind`, for families with several bounds.
    pub(crate) kind: Option<&'static str>,
    pub(crate) current: usize,
    pub(crate) limit: usize,
}

impl Exposition {
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) {
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
            Kind::Histogram => "histogram",
        };
        // A write to a String does not fail.
        let _ = writeln!(self.0, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    /// `labels`: empty, or with its braces.
    pub(super) fn sample(&mut self, name: &str, labels: &str, value: impl Display) {
        let _ = writeln!(self.0, "{name}{labels} {value}");
    }

    pub(super) fn gauge(&mut self, name: &str, help: &str, value: impl Display) {
        self.family(name, Kind::Gauge, help);
        self.sample(name, "", value);
    }

    /// Members of one family must stand next to each other in `gauges`.
    pub(super) fn bounded(&mut self, gauges: &[Bounded]) {
        for family in gauges.chunk_by(|one, next| one.name == next.name) {
            let Some(Bounded { name, help, .. }) = family.first() else { continue };
            let (current, limit) = (format!("{name}_current"), format!("{name}_limit"));
            self.family(&current, Kind::Gauge, &format!("{help}: now."));
            for gauge in family {
                self.sample(&current, &gauge.labels(), gauge.current);
            }
            self.family(&limit, Kind::Gauge, &format!("{help}: at most."));
            for gauge in family {
                self.sample(&limit, &gauge.labels(), gauge.limit);
            }
        }
    }

    pub(super) fn finish(self) -> String {
        self.0
    }
}

impl Bounded {
    pub(crate) const fn new(
        name: &'static str,
        help: &'static str,
        current: usize,
        limit: usize,
    ) -> Self {
        Self { name, help, kind: None, current, limit }
    }

    pub(crate) const fn engine_calls(kind: &'static str, current: usize, limit: usize) -> Self {
        let (name, help) = ("cial_engine_calls", "Calls at the engine");
        Self { name, help, kind: Some(kind), current, limit }
    }

    fn labels(&self) -> String {
        self.kind.map_or_else(String::new, |kind| format!("{{kind=\"{kind}\"}}"))
    }
}
