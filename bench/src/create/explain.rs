//! One create, step by step: when the owner's call returned, what the engine did, and when the tenant's URL answered.
//! The engine alone follows, with the same steps of its own.

use std::time::Duration;

use anyhow::Result;
use testkit::Installation;
use testkit::clock::unix_time;

use super::create;
use crate::baseline::EngineBaseline;
use crate::engine_events::{self, EngineStep};
use crate::fixture::Fixture;
use crate::print_line;

/// Events may carry a time a little after the effect that a client sees.
const MARGIN: Duration = Duration::from_millis(50);

/// Creates one tenant, then the engine's objects alone, and prints the steps of both. The create before them pays for
/// cold caches.
///
/// # Errors
/// A create fails.
pub(crate) async fn explain(installation: &Installation) -> Result<()> {
    let fixture = Fixture::open(installation).await?;
    let mut owner = fixture.owner().clone();
    create(installation, &mut owner, 0).await?;
    let start = unix_time();
    let created = create(installation, &mut owner, 1).await?;
    let end = start + created.served_after;
    let steps = engine_events::between(&fixture.docker, start, end + MARGIN, &created.id).await?;
    let own = [
        (created.accepted_after, "the owner's call returns"),
        (created.served_after, "the URL answers"),
    ];
    let own = own.map(|(at, what)| EngineStep { at: start + at, what: what.to_owned() });
    print("Cial", start, steps.into_iter().chain(own).collect());

    let baseline = EngineBaseline::new(&fixture.docker, installation);
    let start = unix_time();
    let took = baseline.create(1).await?;
    let steps =
        engine_events::between(&fixture.docker, start, start + took + MARGIN, &baseline.name(1))
            .await?;
    let end = EngineStep { at: start + took, what: "the last call returns".to_owned() };
    print("the engine alone", start, steps.into_iter().chain([end]).collect());
    Ok(())
}

fn print(title: &str, start: Duration, mut steps: Vec<EngineStep>) {
    steps.sort_by_key(|step| step.at);
    print_line(format_args!("create by {title}"));
    let mut before = start;
    for EngineStep { at, what } in steps {
        let milliseconds = |time: Duration| time.as_secs_f64() * 1_000.0;
        let (since, step) = (at.saturating_sub(start), at.saturating_sub(before));
        print_line(format_args!(
            "{:>9.1} ms  +{:<7.1} {what}",
            milliseconds(since),
            milliseconds(step)
        ));
        before = before.max(at);
    }
}
