//! A crowd of requests for one sleeping tenant: one start, and every request is served.

use anyhow::Result;
use futures_util::future::join_all;

use crate::engine_events::EngineEvents;
use crate::figure::{Figure, quantile};
use crate::fixture::{ContainerStatus, Fixture, IdlePolicy, until};
use crate::request::TimedResponse;

const CROWD: usize = 1_000;
/// Failures that are printed; a crowd repeats the same one a thousand times.
const SHOWN_FAILURES: usize = 3;
const SLEEPS: IdlePolicy = IdlePolicy { freeze_after: 0, sleep_after: 1 };

pub(super) async fn measure(fixture: &Fixture<'_>, rounds: usize) -> Result<Vec<Figure>> {
    let tenant = fixture.tenant("crowd", SLEEPS).await?;
    let (mut failed, mut most, mut waits) = (0, 0, Vec::new());
    for _ in 0..rounds {
        fixture.all(std::slice::from_ref(&tenant), ContainerStatus::Exited).await?;
        let events = EngineEvents::watch(&fixture.docker, &fixture.installation.name);
        let crowd = join_all((0..CROWD).map(|_| tenant.request())).await;
        for seen in crowd {
            match seen.and_then(TimedResponse::good) {
                Ok(seen) => waits.push(seen.first_byte.as_secs_f64() * 1e3),
                Err(error) => {
                    if failed < SHOWN_FAILURES {
                        eprintln!("one of the crowd: {error:#}");
                    }
                    failed += 1;
                }
            }
        }
        // Asleep again: every start of this crowd has ended, and the engine has reported it.
        fixture.all(std::slice::from_ref(&tenant), ContainerStatus::Exited).await?;
        let container = Some(tenant.container.as_str());
        until("the event of its end", async || Ok(events.count("die", container) > 0)).await?;
        most = most.max(events.count("start", container));
    }
    fixture.policy(&tenant.slug, IdlePolicy::NEVER).await?;
    Ok(vec![
        Figure::new("crowds of 1,000 before a sleeping tenant", rounds as f64, ""),
        Figure::new("starts for one crowd, the most", most as f64, "").bar(1.0),
        Figure::new("of the crowds, not served", failed as f64, "").bar(0.0),
        Figure::new("first byte in a crowd, median", quantile(&waits, 0.5), "ms"),
        Figure::new("first byte in a crowd, p99", quantile(&waits, 0.99), "ms"),
    ])
}
