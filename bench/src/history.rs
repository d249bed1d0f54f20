//! Appends and pages of a tenant's history with a million entries. The figures come from a bench of tenant-core.

use anyhow::Result;

use crate::Measured;
use crate::cargo::Report;
use crate::figure::{Environment, Figure};

const APPEND_MS: f64 = 5.0;
const PAGE_MS: f64 = 10.0;

pub(crate) fn measure() -> Result<Measured> {
    let environment = Environment::machine();
    Ok((environment, figures(&Report::of("tenant-core", "history")?)?))
}

fn figures(report: &Report) -> Result<Vec<Figure>> {
    let value = |name: &str| report.value(name);
    Ok(vec![
        Figure::new("durable append, median", value("append_ms")?, "ms"),
        Figure::new("durable append, p99", value("append_p99_ms")?, "ms").bar(APPEND_MS),
        Figure::new("bare insert, median", value("bare_ms")?, "ms"),
        Figure::new("bare insert, p99", value("bare_p99_ms")?, "ms"),
        Figure::new("append / bare insert, median of pairs", value("append_ratio")?, ""),
        Figure::new("page of 100 from a million, median", value("page_ms")?, "ms"),
        Figure::new("page of 100 from a million, p99", value("page_p99_ms")?, "ms").bar(PAGE_MS),
        Figure::new("first use after a start, with its check", value("first_use_ms")?, "ms"),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_figures_beside_their_bars() {
        let text = r#"{"first_use_ms":900,"append_ms":1,"append_p99_ms":5.1,"bare_ms":1,"bare_p99_ms":2,"append_ratio":1.1,"page_ms":1,"page_p99_ms":9}"#;
        let figures = figures(&Report::parse(text).unwrap()).unwrap();
        let missed: Vec<_> = figures.iter().filter(|f| !f.holds()).map(|f| f.name).collect();
        assert_eq!(missed, ["durable append, p99"]);
    }
}
