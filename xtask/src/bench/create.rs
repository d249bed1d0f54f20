//! From the owner's create call to the first answer of the tenant's URL, beside what the engine itself takes
//! for the same network, volumes, container and start, one after the other.

use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use serde_json::json;

use super::figure::{Figure, Setting, quantile};
use super::floor::Floor;
use super::scene::{Scene, Sleepy};
use crate::http::Visitor;
use crate::local::{self, Installation};
use crate::smoke_local::passing;
use crate::world;

/// How often the URL is asked; it bounds what the figure can be wrong by.
const INTERVAL: Duration = Duration::from_millis(2);
const PATIENCE: Duration = Duration::from_secs(60);
const BAR: f64 = 1.1;

/// One create through Cial and one by the engine alone.
struct Pair {
    cial: Duration,
    engine: Duration,
}

/// In an installation of its own, that is gone afterwards; `beside`: tenants that run meanwhile.
pub(crate) async fn measure(times: usize, beside: usize) -> Result<(Setting, Vec<Figure>)> {
    let mut installation = Installation::passing("bench")?;
    let mut measured = None;
    passing::with(&mut installation, async |installation| {
        local::up::up(installation).await?;
        let scene = Scene::open(installation).await?;
        let setting = Setting::look(&scene.docker).await?.and("running beside", beside);
        scene.tenants("beside", beside, Sleepy::NEVER).await?;
        measured = Some((setting, pairs(&scene, times).await?));
        Ok(())
    })
    .await?;
    let (setting, pairs) = measured.context("nothing was measured")?;
    Ok((setting, figures(&pairs)))
}

fn figures(pairs: &[Pair]) -> Vec<Figure> {
    let milliseconds = |time: Duration| time.as_secs_f64() * 1_000.0;
    let cial: Vec<_> = pairs.iter().map(|pair| milliseconds(pair.cial)).collect();
    let engine: Vec<_> = pairs.iter().map(|pair| milliseconds(pair.engine)).collect();
    let ratios: Vec<_> =
        pairs.iter().map(|pair| pair.cial.as_secs_f64() / pair.engine.as_secs_f64()).collect();
    vec![
        Figure::new("create → URL, median", quantile(&cial, 0.5), "ms"),
        Figure::new("the engine by itself, median", quantile(&engine, 0.5), "ms"),
        Figure::new("create → URL / the engine, median of pairs", quantile(&ratios, 0.5), "")
            .bar(BAR),
        Figure::new("create → URL / the engine, worst pair", quantile(&ratios, 1.0), ""),
    ]
}

/// Measures pairs in turns, so that whatever else the machine does falls on both alike.
async fn pairs(scene: &Scene<'_>, times: usize) -> Result<Vec<Pair>> {
    let installation = scene.installation;
    let floor = Floor::new(&scene.docker, installation);
    let mut owner = scene.owner().clone();
    let mut measured = Vec::with_capacity(times);
    // The first of each pays for what is cold.
    for number in 0..=times {
        let before = if number % 2 == 1 { Some(floor.create(number).await?) } else { None };
        let cial = create(installation, &mut owner, number).await?;
        let engine = match before {
            Some(engine) => engine,
            None => floor.create(number).await?,
        };
        if number > 0 {
            measured.push(Pair { cial, engine });
        }
    }
    Ok(measured)
}

/// A tenant, from the call until its URL answers; then it is deleted.
async fn create(
    installation: &Installation,
    owner: &mut Visitor,
    number: usize,
) -> Result<Duration> {
    let slug = format!("bench-{number}");
    let mut guest =
        Visitor::new(&format!("{slug}.{}", installation.domain), installation.router_port);
    let start = world::now();
    let created = owner.post("/api/admin/tenants", &json!({ "slug": slug, "name": slug })).await?;
    ensure!(created.status == 201, "cannot create {slug}: {}", created.brief());
    while guest.get("/").await?.status != 200 {
        ensure!(start.elapsed() < PATIENCE, "{slug} does not answer");
        tokio::time::sleep(INTERVAL).await;
    }
    let took = start.elapsed();
    let path = format!("/api/admin/tenants/{slug}");
    owner.delete(&path).await?;
    while owner.get(&path).await?.status != 404 {
        ensure!(start.elapsed() < PATIENCE, "{slug} does not go");
        tokio::time::sleep(INTERVAL).await;
    }
    Ok(took)
}
