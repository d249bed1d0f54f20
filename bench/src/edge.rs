//! The cost of a person's assertion for a request through the edge, by a bench of the edge.

use anyhow::Result;

use crate::Measured;
use crate::cargo::Report;
use crate::figure::{Environment, Figure};

const BAR: f64 = 1.15;

pub(crate) fn measure() -> Result<Measured> {
    let environment = Environment::machine();
    Ok((environment, figures(&Report::of("edge", "assertion")?)?))
}

fn figures(report: &Report) -> Result<Vec<Figure>> {
    let value = |name: &str| report.value(name);
    Ok(vec![
        Figure::new("signed in, with an assertion, CPU", value("with_us")?, "us"),
        Figure::new("signed in, without one, CPU", value("without_us")?, "us"),
        Figure::new("nobody signed in, CPU", value("anonymous_us")?, "us"),
        Figure::new("with / without, median of rounds", value("ratio")?, "").bar(BAR),
        Figure::new("with / without, the worst round", value("ratio_most")?, ""),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_figures_beside_their_bars() {
        let text =
            r#"{"with_us":36,"without_us":30,"anonymous_us":20,"ratio":1.2,"ratio_most":1.3}"#;
        let figures = figures(&Report::parse(text).unwrap()).unwrap();
        let missed: Vec<_> = figures.iter().filter(|f| !f.holds()).map(|f| f.name).collect();
        assert_eq!(missed, ["with / without, median of rounds"]);
    }
}
