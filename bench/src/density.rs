//! Hundreds of tenants on one machine: the memory of each, and all of them woken at once.

use anyhow::{Result, ensure};
use bollard::Docker;
use bollard::query_parameters::{StartContainerOptions, StopContainerOptions, TopOptionsBuilder};
use docker_command::InstallationObjects;
use futures_util::future::join_all;
use futures_util::{StreamExt as _, TryStreamExt as _};
use testkit::Installation;

use super::engine_events::EngineEvents;
use super::figure::{Environment, Figure, quantile};
use super::fixture::{ContainerStatus, Fixture, IdlePolicy, Tenant};
use super::request::TimedResponse;
use super::tenant::proportional_set_size;
use crate::{Measured, now};

/// Long enough that all tenants wake before the first falls asleep again.
const FREEZES: IdlePolicy = IdlePolicy { freeze_after: 20, sleep_after: 0 };
const STOPS: IdlePolicy = IdlePolicy { freeze_after: 0, sleep_after: 180 };
const ENOUGH: f64 = 300.0;
const BAR: f64 = 1.2;
/// The number of concurrent requests that are not measured.
const AT_ONCE: usize = 16;

/// Measures in an installation that is ready and has no owner yet.
pub(crate) async fn measure(installation: &Installation, count: usize) -> Result<Measured> {
    ensure!(count > 0, "--tenants must be 1 at least");
    let fixture = Fixture::open(installation).await?;
    let environment = Environment::look(&fixture.docker).await?;
    Ok((environment, on(&fixture, count).await?))
}

async fn on(fixture: &Fixture<'_>, count: usize) -> Result<Vec<Figure>> {
    let start = now();
    let tenants = fixture.tenants("dense", count, IdlePolicy::NEVER).await?;
    let took = start.elapsed().as_secs_f64();
    eprintln!("{count} tenants were made in {took:.0} s");
    let answered = futures_util::stream::iter(&tenants)
        .map(async |tenant| Ok::<_, anyhow::Error>(tenant.request().await?.status == 200))
        .buffered(AT_ONCE);
    let answered: Vec<bool> = answered.try_collect().await?;
    fixture.all(&tenants, ContainerStatus::Running).await?;
    let answering = answered.iter().filter(|is| **is).count() as f64;
    let mut figures = vec![
        Figure::new("tenants running, all made in", took, "s"),
        Figure::new("tenants that run and answer", answering, "").at_least(ENOUGH),
    ];
    figures.extend(memory(&fixture.docker, &tenants).await?);
    figures.extend(thaw(fixture, &tenants).await?);
    figures.extend(wake(fixture, &tenants).await?);
    Ok(figures)
}

/// Measures the proportional set size of all processes of each tenant.
async fn memory(docker: &Docker, tenants: &[Tenant]) -> Result<Vec<Figure>> {
    let mut weights = Vec::with_capacity(tenants.len());
    for tenant in tenants {
        let options = TopOptionsBuilder::default().ps_args("-eo pid").build();
        let seen = docker.top_processes(&tenant.container, Some(options)).await?;
        let mut weight = 0.0;
        for pid in seen.processes.unwrap_or_default().into_iter().flatten() {
            weight += proportional_set_size(pid)? / 1e6;
        }
        weights.push(weight);
    }
    Ok(vec![Figure::median("a tenant, PSS", &weights, "MB")])
}

/// Freezes all tenants, then sends each a request at the same moment.
async fn thaw(fixture: &Fixture<'_>, tenants: &[Tenant]) -> Result<Vec<Figure>> {
    fixture.policies(tenants, FREEZES).await?;
    fixture.all(tenants, ContainerStatus::Paused).await?;
    let events = EngineEvents::watch(&fixture.docker, &fixture.installation.name);
    let Hit { failed, waits, .. } = hit(tenants).await;
    let thaws = events.count("unpause", None) as f64;
    fixture.policies(tenants, IdlePolicy::NEVER).await?;
    Ok(vec![
        Figure::new("frozen, hit at once: not served", failed, "").bar(0.0),
        Figure::new("frozen, hit at once: p99", quantile(&waits, 0.99), "s"),
        Figure::new("frozen, hit at once: unpause calls", thaws, "").bar(tenants.len() as f64),
    ])
}

/// Lets all tenants fall asleep, then sends each a request at the same moment. Afterwards the
/// engine alone starts the same containers, as many at a time as there are CPUs, without other
/// calls.
async fn wake(fixture: &Fixture<'_>, tenants: &[Tenant]) -> Result<Vec<Figure>> {
    fixture.policies(tenants, STOPS).await?;
    fixture.all(tenants, ContainerStatus::Exited).await?;
    let events = EngineEvents::watch(&fixture.docker, &fixture.installation.name);
    let Hit { failed, waits, took } = hit(tenants).await;
    let starts = events.count("start", None) as f64;
    fixture.all(tenants, ContainerStatus::Exited).await?;
    let bare = bare(fixture, tenants).await?;
    Ok(vec![
        Figure::new("asleep, hit at once: not served", failed, "").bar(0.0),
        Figure::new("asleep, hit at once: starts", starts, "").bar(tenants.len() as f64),
        Figure::new("asleep, hit at once: median", quantile(&waits, 0.5), "s"),
        Figure::new("asleep, hit at once: all served after", took, "s"),
        Figure::new("the same started by the engine alone", bare, "s"),
        Figure::new("asleep, hit at once / the engine alone", took / bare, "").bar(BAR),
    ])
}

struct Hit {
    failed: f64,
    /// Seconds to the first byte of each served request.
    waits: Vec<f64>,
    /// Seconds until the last request was served.
    took: f64,
}

async fn hit(tenants: &[Tenant]) -> Hit {
    let start = now();
    let seen = join_all(tenants.iter().map(Tenant::request_until_served)).await;
    let took = start.elapsed().as_secs_f64();
    let (mut failed, mut waits) = (0.0, Vec::with_capacity(tenants.len()));
    for seen in seen {
        match seen.and_then(TimedResponse::good) {
            Ok(seen) => waits.push(seen.first_byte.as_secs_f64()),
            Err(error) => {
                eprintln!("not served: {error:#}");
                failed += 1.0;
            }
        }
    }
    Hit { failed, waits, took }
}

/// Returns seconds. Takes the control plane down permanently, so this measurement must be the last
/// one.
async fn bare(fixture: &Fixture<'_>, tenants: &[Tenant]) -> Result<f64> {
    let objects = InstallationObjects::of(&fixture.installation.name);
    for service in ["app-api", "orchestrator", "router"] {
        let container = objects.service(service)?.id;
        fixture.docker.stop_container(&container, None::<StopContainerOptions>).await?;
    }
    let start = now();
    let at_once = std::thread::available_parallelism().map_or(1, usize::from);
    let starts = tenants.iter().map(async |tenant| {
        fixture.docker.start_container(&tenant.container, None::<StartContainerOptions>).await
    });
    let started: Vec<()> =
        futures_util::stream::iter(starts).buffer_unordered(at_once).try_collect().await?;
    ensure!(started.len() == tenants.len(), "not all were started");
    Ok(start.elapsed().as_secs_f64())
}
