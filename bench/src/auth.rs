//! The price of knowing who calls, the end of access, and lists of ten thousands. The figures come from a bench of app-api, with
//! its own Postgres.

use anyhow::{Context as _, Result};
use serde_json::Value;

use crate::Measured;
use crate::cargo::cargo_bench;
use crate::figure::{Environment, Figure};

pub(crate) fn measure() -> Result<Measured> {
    let environment = Environment::machine();
    Ok((environment, figures(&cargo_bench("app-api", "auth")?)?))
}

fn figures(report: &str) -> Result<Vec<Figure>> {
    let mut lines = report.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let line = lines.next().with_context(|| format!("no figures in {report:?}"))?;
    let value = |name: &str| line[name].as_f64().with_context(|| format!("no {name} in {line}"));
    let anonymous = value("anonymous_us")?;
    Ok(vec![
        Figure::new("CPU of an anonymous request, with its client", anonymous, "µs"),
        Figure::new("CPU of a key above an anonymous request", value("key_us")? - anonymous, "µs"),
        Figure::new("CPU of a session above it", value("session_us")? - anonymous, "µs"),
        Figure::new("revocation at another replica, p99", value("revocation_p99_ms")?, "ms")
            .bar(1_000.0),
        Figure::new("healthz during 100 sign-ins, p99", value("healthz_p99_ms")?, "ms").bar(50.0),
        Figure::new("of 100 sign-ins at once succeed", value("signed_in")?, "").at_least(100.0),
        Figure::new("100 sign-ins at once, all", value("sign_ins_ms")?, "ms"),
        Figure::new("a page of 10,000 tenants, p95", value("tenants_p95_ms")?, "ms").bar(50.0),
        Figure::new("a filter of 100,000 entries, p95", value("audit_p95_ms")?, "ms").bar(100.0),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_becomes_figures_beside_their_bars() {
        let report = |healthz: f64| {
            format!(
                r#"{{"anonymous_us":100,"key_us":300,"session_us":350,"revocation_p99_ms":9,"healthz_p99_ms":{healthz},"signed_in":100,"sign_ins_ms":900,"tenants_p95_ms":9,"audit_p95_ms":9}}"#
            )
        };
        let good = figures(&report(9.0)).unwrap();
        assert!(good.iter().all(Figure::holds), "{good:?}");
        let slow = figures(&report(51.0)).unwrap();
        let missed: Vec<_> = slow.iter().filter(|f| !f.holds()).map(|f| f.name).collect();
        assert_eq!(missed, ["healthz during 100 sign-ins, p99"]);
        assert!(figures("running").is_err());
    }
}
