//! The price of knowing who calls, the end of access, and lists of ten thousands. The figures come from a bench of app-api, with
//! its own Postgres.

use anyhow::Result;

use crate::Measured;
use crate::cargo::Report;
use crate::figure::{Environment, Figure};

pub(crate) fn measure() -> Result<Measured> {
    let environment = Environment::machine();
    Ok((environment, figures(&Report::of("app-api", "auth")?)?))
}

fn figures(report: &Report) -> Result<Vec<Figure>> {
    let value = |name: &str| report.value(name);
    let anonymous = value("anonymous_us")?;
    let rate = |caller: &str| value(&format!("{caller}_per_second"));
    Ok(vec![
        Figure::new("CPU of an anonymous request, with its client", anonymous, "µs"),
        Figure::new("CPU of a key above an anonymous request", value("key_us")? - anonymous, "µs"),
        Figure::new("Postgres' CPU of a request with a key", value("key_database_us")?, "µs"),
        Figure::new(
            "CPU of a session above an anonymous one",
            value("session_us")? - anonymous,
            "µs",
        ),
        Figure::new("Postgres' CPU of one with a session", value("session_database_us")?, "µs"),
        Figure::new("anonymous requests at saturation", rate("anonymous")?, "/s"),
        Figure::new("requests with a key at saturation", rate("key")?, "/s"),
        Figure::new("requests with a session at saturation", rate("session")?, "/s"),
        Figure::new("revocation at another replica, p99", value("revocation_p99_ms")?, "ms")
            .bar(1_000.0),
        Figure::new(
            "end of a stream after a revocation, worst of 50",
            value("stream_end_ms")?,
            "ms",
        )
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
            let text = format!(
                r#"{{"anonymous_us":100,"key_us":300,"session_us":350,"key_database_us":200,"session_database_us":220,"anonymous_per_second":9000,"key_per_second":3000,"session_per_second":2900,"revocation_p99_ms":9,"stream_end_ms":600,"healthz_p99_ms":{healthz},"signed_in":100,"sign_ins_ms":900,"tenants_p95_ms":9,"audit_p95_ms":9}}"#
            );
            figures(&Report::parse(&text).unwrap()).unwrap()
        };
        let good = report(9.0);
        assert!(good.iter().all(Figure::holds), "{good:?}");
        let slow = report(51.0);
        let missed: Vec<_> = slow.iter().filter(|f| !f.holds()).map(|f| f.name).collect();
        assert_eq!(missed, ["healthz during 100 sign-ins, p99"]);
        assert!(Report::parse("running").is_err());
    }
}
