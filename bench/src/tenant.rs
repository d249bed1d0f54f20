//! One tenant: its memory at rest, the size of its image, and its time to readiness.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::MountPoint;
use bollard::query_parameters::TopOptionsBuilder;
use testkit::engine::{Endpoint, Sandbox, TenantContainer, TenantOptions};
use testkit::installation::required;

use super::figure::{Environment, Figure, quantile};
use crate::{Measured, now};

/// Megabytes that the image may add to its base.
const ADDED_MB: f64 = 16.0;
/// Megabytes of memory that the processes of a tenant may use together.
const MEMORY_MB: f64 = 10.0;
/// Milliseconds from the end of the engine's start call until all five services are ready.
const READY_MS: f64 = 30.0;
/// How often an unready tenant is requested; bounds the error of the figure.
const INTERVAL: Duration = Duration::from_micros(500);
/// How long a tenant takes to settle after its first requests.
const SETTLE: Duration = Duration::from_secs(3);
/// The volume of the tenant's own files.
pub(super) const FILES: &str = "/home/agent/files";
/// A start that takes longer hangs.
const READY_TIMEOUT: Duration = Duration::from_secs(30);

pub(crate) async fn measure(times: usize) -> Result<Measured> {
    let docker = testkit::engine::connect().await?;
    let environment = Environment::look(&docker).await?;
    let sandbox = Sandbox::new(docker, &required("CIAL_E2E_IMAGE")?, "bench");
    let figures = sandbox.run(measure_in(&sandbox, times)).await?;
    Ok((environment, figures))
}

async fn measure_in(sandbox: &Sandbox, times: usize) -> Result<Vec<Figure>> {
    let options = TenantOptions { name: "bench", ..TenantOptions::default() };
    let (tenant, port) = sandbox.healthy(&options).await?;
    for path in ["/", "/.cial", "/.cial/api/echo-path"] {
        Endpoint::Port(port).get(path, &[]).await?;
    }
    tokio::time::sleep(SETTLE).await;
    let mut figures = memory(&sandbox.docker, &tenant).await?;
    figures.push(added(sandbox).await?);
    let socket = ingress(&tenant).await?;
    let mut waits = Vec::with_capacity(times);
    for _ in 0..times {
        waits.push(time_to_readiness(&tenant, &socket).await?);
    }
    let figure = |name, fraction| Figure::new(name, quantile(&waits, fraction), "ms");
    figures.push(figure("start returned → ready, median", 0.5).bar(READY_MS));
    figures.push(figure("start returned → ready, worst", 1.0));
    Ok(figures)
}

/// Measures the proportional set size of each process: a page that two processes share counts half
/// for each. The values come from the engine's own machine, because PID 1 hides its memory from
/// processes inside.
async fn memory(docker: &Docker, tenant: &TenantContainer) -> Result<Vec<Figure>> {
    let options = TopOptionsBuilder::default().ps_args("-eo pid").build();
    let seen = docker.top_processes(&tenant.id, Some(options)).await?;
    let pids: Vec<_> = seen.processes.unwrap_or_default().into_iter().flatten().collect();
    let mut figures = Vec::new();
    for (name, args) in PROCESSES {
        let pid = pids.iter().find(|pid| words_of(pid).is_some_and(|own| own == args));
        let pid = pid.with_context(|| format!("no process {args:?} on this machine"))?;
        figures.push(Figure::new(name, proportional_set_size(pid)? / 1e6, "MB"));
    }
    let value = figures.iter().map(|figure| figure.value).sum();
    figures.push(Figure::new("all at rest, PSS", value, "MB").bar(MEMORY_MB));
    Ok(figures)
}

fn words_of(pid: &str) -> Option<String> {
    let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
    Some(line.trim_end_matches('\0').replace('\0', " "))
}

/// Returns the memory of a process in bytes.
pub(super) fn proportional_set_size(pid: impl Display) -> Result<f64> {
    let path = format!("/proc/{pid}/smaps_rollup");
    let table = std::fs::read_to_string(&path)
        .with_context(|| format!("cannot read {path}: run this as root on the engine's machine"))?;
    read_rollup(&table).with_context(|| format!("no Pss in {path}"))
}

/// Parses the proportional set size, in bytes.
fn read_rollup(table: &str) -> Option<f64> {
    let line = table.lines().find_map(|line| line.strip_prefix("Pss:"))?;
    let kilobytes: f64 = line.trim().trim_end_matches(" kB").parse().ok()?;
    Some(kilobytes * 1024.0)
}

/// Names of the figures, and arguments of the processes.
const PROCESSES: [(&str, &str); 7] = [
    ("supervisor, PSS", "supervisor"),
    ("file server, PSS", "/usr/local/bin/supervisor files /home/agent/files"),
    ("edge, PSS", "edge"),
    ("core back, PSS", "core back"),
    ("core front, PSS", "core front"),
    ("platform front, PSS", "platform front"),
    ("platform back, PSS", "platform back"),
];

async fn added(sandbox: &Sandbox) -> Result<Figure> {
    let base = required("CIAL_E2E_BASE_IMAGE")?;
    let mut sizes = Vec::new();
    for image in [&sandbox.image, &base] {
        let inspected = sandbox.docker.inspect_image(image).await?;
        sizes.push(inspected.size.unwrap_or_default() as f64 / 1e6);
    }
    Ok(Figure::new("image on top of its base", sizes[0] - sizes[1], "MB").bar(ADDED_MB))
}

/// Returns the path of the tenant's router socket on the engine's own machine.
async fn ingress(tenant: &TenantContainer) -> Result<PathBuf> {
    Ok(mounted(tenant, "/run/cial/ingress").await?.join("edge.sock"))
}

/// Returns the path on the engine's own machine of what is mounted at `destination`.
pub(super) async fn mounted(tenant: &TenantContainer, destination: &str) -> Result<PathBuf> {
    let mounts = tenant.inspect().await?.mounts.unwrap_or_default();
    let is_it = |mount: &MountPoint| mount.destination.as_deref() == Some(destination);
    let source = mounts.into_iter().find(is_it).and_then(|mount| mount.source);
    Ok(source.with_context(|| format!("nothing is mounted at {destination}"))?.into())
}

/// Returns milliseconds from the end of the start call until the health endpoint responds over the
/// router's socket. The endpoint responds when all five services are ready.
async fn time_to_readiness(tenant: &TenantContainer, socket: &Path) -> Result<f64> {
    tenant.kill().await?;
    tenant.start().await?;
    let since = now();
    let ready = async {
        // The socket of the previous start refuses until PID 1 has replaced it.
        while !is_healthy(socket).await {
            tokio::time::sleep(INTERVAL).await;
        }
    };
    tokio::time::timeout(READY_TIMEOUT, ready).await.context("not ready")?;
    Ok(since.elapsed().as_secs_f64() * 1e3)
}

async fn is_healthy(socket: &Path) -> bool {
    let response = Endpoint::HostSocket(socket).get("/.cial/api/healthz", &[]).await;
    response.is_ok_and(|response| response.status == 200)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_kilobytes_are_1024_bytes() {
        let table =
            "00400000-7fff ---p [rollup]\nRss:  2000 kB\nPss:      1000 kB\nPss_Anon:  10 kB\n";
        assert_eq!(read_rollup(table), Some(1_024_000.0));
        assert_eq!(read_rollup("Rss: 1 kB\n"), None);
    }
}
