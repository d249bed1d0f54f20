//! The time from the owner's create call to the first response of the tenant's URL. The baseline is
//! the engine alone, which creates the same network, volumes and container and starts it, one after
//! the other.

mod explain;

use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::json;
use testkit::{Client, Installation};

use crate::baseline::EngineBaseline;
use crate::figure::{Environment, Figure, quantile};
use crate::fixture::{Fixture, IdlePolicy};
use crate::{Measured, now};

pub(crate) use explain::explain;

/// How often the URL is requested; bounds the error of the figure.
const INTERVAL: Duration = Duration::from_millis(2);
const TIMEOUT: Duration = Duration::from_secs(60);
const BAR: f64 = 1.1;

/// A tenant that was created, answered, and is deleted again.
struct Created {
    id: String,
    /// From the owner's call to its response.
    accepted_after: Duration,
    /// From the owner's call to the first response of the tenant's URL.
    served_after: Duration,
}

/// One create through Cial and one by the engine alone.
struct Pair {
    cial: Duration,
    engine: Duration,
}

/// Measures in an installation that is ready and has no owner yet, with `beside` other tenants
/// running.
pub(crate) async fn measure(
    installation: &Installation,
    times: usize,
    beside: usize,
) -> Result<Measured> {
    let fixture = Fixture::open(installation).await?;
    let environment = Environment::look(&fixture.docker).await?.and("running beside", beside);
    fixture.tenants("beside", beside, IdlePolicy::NEVER).await?;
    Ok((environment, figures(&pairs(&fixture, times).await?)))
}

fn figures(pairs: &[Pair]) -> Vec<Figure> {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1_000.0;
    let cial: Vec<_> = pairs.iter().map(|pair| milliseconds(pair.cial)).collect();
    let engine: Vec<_> = pairs.iter().map(|pair| milliseconds(pair.engine)).collect();
    let ratios: Vec<_> =
        pairs.iter().map(|pair| pair.cial.as_secs_f64() / pair.engine.as_secs_f64()).collect();
    vec![
        Figure::new("create → URL, median", quantile(&cial, 0.5), "ms"),
        Figure::new("the engine alone, median", quantile(&engine, 0.5), "ms"),
        Figure::new("create → URL / the engine, median of pairs", quantile(&ratios, 0.5), "")
            .bar(BAR),
        Figure::new("create → URL / the engine, worst pair", quantile(&ratios, 1.0), ""),
    ]
}

/// Measures pairs in turns, so that other load of the machine affects both alike.
async fn pairs(fixture: &Fixture<'_>, times: usize) -> Result<Vec<Pair>> {
    let installation = fixture.installation;
    let baseline = EngineBaseline::new(&fixture.docker, installation);
    let mut owner = fixture.owner().clone();
    let mut measured = Vec::with_capacity(times);
    // The first pair pays for cold caches and is dropped.
    for number in 0..=times {
        let before = if number % 2 == 1 { Some(baseline.create(number).await?) } else { None };
        let cial = create(installation, &mut owner, number).await?.served_after;
        let engine = match before {
            Some(engine) => engine,
            None => baseline.create(number).await?,
        };
        if number > 0 {
            measured.push(Pair { cial, engine });
        }
    }
    Ok(measured)
}

/// Times a create from the call until the tenant's URL responds, and then deletes the tenant.
async fn create(installation: &Installation, owner: &mut Client, number: usize) -> Result<Created> {
    let slug = format!("bench-{number}");
    let mut guest =
        Client::new(&format!("{slug}.{}", installation.domain), installation.router_port);
    let start = now();
    let created = owner.post("/api/admin/tenants", &json!({ "slug": slug, "name": slug })).await?;
    ensure!(created.status == 201, "cannot create {slug}: {}", created.summary());
    let accepted_after = start.elapsed();
    while guest.get("/").await?.status != 200 {
        ensure!(start.elapsed() < TIMEOUT, "{slug} does not answer");
        tokio::time::sleep(INTERVAL).await;
    }
    let served_after = start.elapsed();
    let path = format!("/api/admin/tenants/{slug}");
    owner.delete(&path).await?;
    while owner.get(&path).await?.status != 404 {
        ensure!(start.elapsed() < TIMEOUT, "{slug} is not deleted");
        tokio::time::sleep(INTERVAL).await;
    }
    let id = created.json()["id"].as_str().unwrap_or_default().to_owned();
    Ok(Created { id, accepted_after, served_after })
}
