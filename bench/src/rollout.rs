//! A rollout of sleeping tenants: the time until all of them follow the new release, and the starts meanwhile, counted by the
//! engine's own events.

use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use futures_util::{StreamExt as _, TryStreamExt as _};
use serde_json::{Value, json};
use testkit::{Client, Installation};

use crate::engine_events::EngineEvents;
use crate::figure::{Environment, Figure};
use crate::fixture::{ContainerStatus, Fixture, IdlePolicy, Tenant, until};
use crate::{Measured, now, program};

const APP: &str = "bench";
const IMAGE: &str = "cial-bench-rollout";
/// Answers every request on `PORT`.
const PROGRAM: &str =
    concat!(env!("CARGO_MANIFEST_DIR"), "/../crates/e2e/tests/installation/notes.rs");
/// Asleep as soon as the orchestrator looks, and not before the tenant was reached once.
const SLEEPS: IdlePolicy = IdlePolicy { freeze_after: 0, sleep_after: 20 };
const BAR_SECONDS: f64 = 30.0;
/// The number of tenants that are created concurrently.
const AT_ONCE: usize = 4;
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// Measures in an installation that is ready and has no owner yet.
pub(crate) async fn measure(installation: &Installation, count: usize) -> Result<Measured> {
    ensure!(count > 0, "--tenants must be 1 at least");
    let fixture = Fixture::open(installation).await?;
    let environment = Environment::look(&fixture.docker).await?;
    let mut owner = fixture.owner().clone();
    let app = json!({ "slug": APP, "name": "Bench" });
    let created = owner.post("/api/admin/apps", &app).await?;
    ensure!(created.status == 201, "cannot create the app: {}", created.summary());
    let images = [Image::build(1)?, Image::build(2)?];
    release(&mut owner, &images[0].0).await?;
    let tenants = futures_util::stream::iter(0..count)
        .map(async |number| fixture.tenant_of(&format!("moved-{number}"), APP, SLEEPS).await)
        .buffered(AT_ONCE);
    let tenants: Vec<Tenant> = tenants.try_collect().await?;
    fixture.all(&tenants, ContainerStatus::Exited).await?;
    release(&mut owner, &images[1].0).await?;
    Ok((environment, roll_out(&fixture, &tenants, owner).await?))
}

async fn roll_out(
    fixture: &Fixture<'_>,
    tenants: &[Tenant],
    mut owner: Client,
) -> Result<Vec<Figure>> {
    let events = EngineEvents::watch(&fixture.docker, &fixture.installation.name);
    let start = now();
    let path = format!("/api/admin/apps/{APP}/rollouts");
    let started = owner.post(&path, &json!({ "release": "v2" })).await?;
    ensure!(started.status == 201, "cannot start the rollout: {}", started.summary());
    let mut last = Value::Null;
    let finished = until("the rollout is finished", async || {
        last = owner.get(&path).await?.json()["rollouts"][0].clone();
        let is_over =
            ["failed", "aborted", "rolling_back"].iter().any(|state| last["state"] == *state);
        ensure!(!is_over, "the rollout failed: {last}");
        tokio::time::sleep(POLL_INTERVAL).await;
        Ok(last["state"] == "done")
    });
    finished.await?;
    let took = start.elapsed().as_secs_f64();
    let mut moved = 0;
    for tenant in tenants {
        let shown = owner.get(&format!("/api/admin/tenants/{}", tenant.slug)).await?.json();
        moved += usize::from(shown["release"] == "v2");
    }
    let starts = events.count("start", None) as f64;
    // A tenant that was moved runs the new release once somebody wants it.
    if let Some(first) = tenants.first() {
        first.request_until_served().await?;
    }
    Ok(vec![
        Figure::new("sleeping tenants that moved", moved as f64, "").at_least(tenants.len() as f64),
        Figure::new("all of them moved after", took, "s").bar(BAR_SECONDS),
        Figure::new("starts meanwhile", starts, "").bar(0.0),
    ])
}

async fn release(owner: &mut Client, image: &str) -> Result<()> {
    let release = json!({ "image": image });
    let created = owner.post(&format!("/api/admin/apps/{APP}/releases"), &release).await?;
    ensure!(created.status == 201, "cannot create a release: {}", created.summary());
    Ok(())
}

/// An image of an app, removed with this value.
struct Image(String);

impl Image {
    /// Compiles the program of the end-to-end tests, and lays it into an image of its own.
    fn build(number: u32) -> Result<Self> {
        let folder = testkit::TempDir::new("bench-rollout")?;
        let at = |name: &str| folder.path().join(name);
        program::compile(Path::new(PROGRAM), &at("notes"))?;
        let recipe =
            format!("FROM scratch\nENV VERSION={number}\nCOPY notes /notes\nCMD [\"/notes\"]\n");
        std::fs::write(at("Dockerfile"), recipe)?;
        let image = Self(format!("{IMAGE}:{number}"));
        let mut build = Command::new("docker");
        build.args(["build", "--quiet", "--tag", &image.0]).arg(folder.path());
        program::run(&mut build)?;
        Ok(image)
    }
}

impl Drop for Image {
    fn drop(&mut self) {
        // A wrapped image may still need it: then its name goes, and the rest with the installation.
        let _ = program::run(Command::new("docker").args(["rmi", "--force", &self.0]));
    }
}
