//! A change of one route in the router's table, beside a table made anew. The figures come from a
//! bench of the router, whose table is no public interface of a process.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Measured;
use crate::cargo::cargo_bench;
use crate::figure::{Environment, Figure};

pub(crate) fn measure() -> Result<Measured> {
    let environment = Environment::machine();
    Ok((environment, figures(&cargo_bench("router", "routes")?)?))
}

fn figures(report: &str) -> Result<Vec<Figure>> {
    let of_size = |routes: u64| {
        let mut lines = report.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let line = lines.find(|line| line["routes"] == routes);
        line.with_context(|| format!("no figures of {routes} routes in {report:?}"))
    };
    let (small, large) = (of_size(1_000)?, of_size(10_000)?);
    let value = |line: &Value, name: &str| {
        line[name].as_f64().with_context(|| format!("no {name} in {line}"))
    };
    let (change, rebuild) = (value(&large, "change_us")?, value(&large, "rebuild_us")?);
    let allocations = value(&large, "change_allocations")?;
    let growth = allocations / value(&small, "change_allocations")?;
    Ok(vec![
        Figure::new("one change of 10,000 routes", change, "µs"),
        Figure::new("one change of 10,000, allocations", allocations, "").bar(32.0),
        Figure::new("one change of 10,000, bytes", value(&large, "change_bytes")?, "B"),
        Figure::new("one change of 1,000 routes", value(&small, "change_us")?, "µs"),
        Figure::new("allocations, of 10,000 / of 1,000", growth, "").bar(1.5),
        Figure::new("10,000 routes anew", rebuild, "µs"),
        Figure::new("10,000 anew, allocations", value(&large, "rebuild_allocations")?, ""),
        Figure::new("one change / anew", change / rebuild, "").bar(0.01),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_figures_beside_their_bars() {
        let line = |routes: u32, change: f64| {
            format!(
                r#"{{"routes":{routes},"change_us":{change},"change_allocations":12,"change_bytes":900,"rebuild_us":4000,"rebuild_allocations":20000}}"#
            )
        };
        let report = format!("running\n{}\n{}\n", line(1_000, 2.0), line(10_000, 3.0));
        let figures = figures(&report).unwrap();
        assert!(figures.iter().all(Figure::holds), "{figures:?}");
        let slow =
            self::figures(&format!("{}\n{}", line(1_000, 2.0), line(10_000, 300.0))).unwrap();
        let missed: Vec<_> = slow.iter().filter(|f| !f.holds()).map(|f| f.name).collect();
        assert_eq!(missed, ["one change / anew"]);
        assert!(self::figures("").is_err());
    }
}
