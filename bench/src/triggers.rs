//! Triggers that are not due, and triggers of many tenants that are due in one second. The figures come from a bench of app-api, with its
//! own Postgres and a scripted orchestrator.

use anyhow::Result;

use crate::Measured;
use crate::cargo::Report;
use crate::figure::{Environment, Figure};

/// One query each second. The first second of a window may hold the query of the second before.
const LOOKS: f64 = 1.05;
/// The places for packages on their way into tenants, which app-api holds during a wake.
const WAKES_AT_ONCE: f64 = 16.0;
/// The places for tasks, at app-api as at the orchestrator.
const TASKS_AT_ONCE: f64 = 128.0;

pub(crate) fn measure() -> Result<Measured> {
    let environment = Environment::machine();
    Ok((environment, figures(&Report::of("app-api", "triggers")?)?))
}

fn figures(report: &Report) -> Result<Vec<Figure>> {
    let value = |name: &str| report.value(name);
    let more = |name: &str| {
        anyhow::Ok(value(&format!("resting_{name}"))? - value(&format!("none_{name}"))?)
    };
    let started = value("all_started_s")?;
    let wakes = value("due")? / WAKES_AT_ONCE * value("wake_s")?;
    Ok(vec![
        Figure::new("CPU at rest, 10,000 triggers, a second", value("resting_ms")?, "ms"),
        Figure::new("of it for the triggers", more("ms")?, "ms"),
        Figure::new("Postgres' CPU meanwhile, a second", value("resting_database_ms")?, "ms"),
        Figure::new("of it for the triggers", more("database_ms")?, "ms"),
        Figure::new("queries for triggers that are due", value("resting_looks")?, "/s").bar(LOOKS),
        Figure::new("all statements at rest", value("resting_statements")?, "/s"),
        Figure::new("of them for the triggers", more("statements")?, "/s"),
        Figure::new("1,000 due at once, the most wakes at once", value("most_waking")?, "")
            .bar(WAKES_AT_ONCE),
        Figure::new("1,000 due at once, the most tasks at once", value("most_tasks")?, "")
            .bar(TASKS_AT_ONCE),
        Figure::new("1,000 due at once, all started after", started, "s"),
        Figure::new("all started / the wakes alone, 16 at once", started / wakes, ""),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_figures_beside_their_bars() {
        let text = r#"{"resting_ms":5,"none_ms":4,"resting_database_ms":3,"none_database_ms":3,"resting_looks":1.0,"resting_statements":9,"none_statements":9,"most_waking":17,"most_tasks":128,"all_started_s":30,"wake_s":0.4,"due":1000}"#;
        let figures = figures(&Report::parse(text).unwrap()).unwrap();
        let missed: Vec<_> = figures.iter().filter(|f| !f.holds()).map(|f| f.name).collect();
        assert_eq!(missed, ["1,000 due at once, the most wakes at once"]);
        assert_eq!(figures.last().unwrap().value, 1.2);
    }
}
