//! The cost of the engine's own port publishing. Compares a relay to the backend on the host with
//! the same relay in a container. The container's port is published on loopback, like the router's
//! in an installation.

use std::collections::HashMap;

use anyhow::{Context as _, Result};
use bollard::Docker;
use bollard::models::{ContainerCreateBody, HostConfig};
use bollard::query_parameters::{
    AttachContainerOptionsBuilder, CreateContainerOptions, RemoveContainerOptionsBuilder,
    StartContainerOptions,
};
use testkit::engine::{TenantContainer, any_loopback_port};

use super::process::cpu_time;
use super::proxies::{Kind, Peer, Setup};
use super::rounds::order;
use super::{Target, latency, text};
use crate::block_on;
use crate::figure::Figure;

/// Requests per second that the engine's proxy can carry on a small machine.
const RATE: u32 = 2_000;
const MILLISECONDS: u32 = 1_000;
const PORT: &str = "8080/tcp";
const TOOLS: &str = "/bench-tools";

/// Measures without a bar: the figure stands beside the router's figures and is no part of them.
pub(super) fn measure(setup: &Setup<'_>, rounds: usize) -> Result<Vec<Figure>> {
    block_on(async {
        let docker = match testkit::engine::connect().await {
            Ok(docker) => docker,
            Err(error) => {
                eprintln!("nothing is said of published ports: {error:#}");
                return Ok(Vec::new());
            }
        };
        let container = Container::start(&docker, setup).await?;
        let figures = container.measure(setup, rounds).await;
        container.end().await?;
        figures
    })
}

/// A relay in a container that ends with this process, whatever ends the process. PID 1 in the
/// container reads a pipe that this process holds open, and the engine removes ended containers.
struct Container<'a> {
    docker: &'a Docker,
    id: String,
    _held: bollard::container::AttachContainerResults,
}

impl<'a> Container<'a> {
    async fn start(docker: &'a Docker, setup: &Setup<'_>) -> Result<Self> {
        let image = testkit::installation::required("CIAL_E2E_BASE_IMAGE")?;
        let (folder, socket) = (text(setup.folder)?, text(setup.socket)?);
        let relay =
            format!("{TOOLS} tool relay --listen 0.0.0.0 --port 8080 --socket {socket} & exec cat");
        let tools = setup.tools.program();
        let body = ContainerCreateBody {
            image: Some(image),
            entrypoint: Some(["/bin/sh", "-c"].map(str::to_owned).to_vec()),
            cmd: Some(vec![relay]),
            open_stdin: Some(true),
            stdin_once: Some(true),
            attach_stdin: Some(true),
            exposed_ports: Some(vec![PORT.to_owned()]),
            labels: Some(HashMap::from([("cial.bench".to_owned(), "1".to_owned())])),
            host_config: Some(HostConfig {
                auto_remove: Some(true),
                binds: Some(vec![format!("{tools}:{TOOLS}:ro"), format!("{folder}:{folder}")]),
                port_bindings: Some(any_loopback_port()),
                ..HostConfig::default()
            }),
            ..ContainerCreateBody::default()
        };
        let id = docker.create_container(None::<CreateContainerOptions>, body).await?.id;
        let attach = AttachContainerOptionsBuilder::default().stdin(true).stream(true).build();
        let held = docker.attach_container(&id, Some(attach)).await?;
        let container = Self { docker, id, _held: held };
        match docker.start_container(&container.id, None::<StartContainerOptions>).await {
            Ok(()) => Ok(container),
            Err(error) => {
                container.end().await?;
                Err(error).context("cannot start a container with a published port")
            }
        }
    }

    async fn end(self) -> Result<()> {
        let force = RemoveContainerOptionsBuilder::default().force(true).build();
        Ok(self.docker.remove_container(&self.id, Some(force)).await?)
    }

    async fn measure(&self, setup: &Setup<'_>, rounds: usize) -> Result<Vec<Figure>> {
        let relay = Kind::Relay { sleep_us: 0, spin: 0 };
        let direct = Peer::start(relay, setup, None, &[])?;
        let published = TenantContainer::existing(self.docker, &self.id).port().await?;
        super::proxies::wait_for_answer(setup, published)
            .context("the relay in a container: does this program run on the base image?")?;
        let proxy = proxy_of(published)?;
        let (mut p50, mut p99, mut cpu) = (Vec::new(), Vec::new(), Vec::new());
        for round in 0..rounds {
            let ports = [direct.port, published];
            let mut seen = [(f64::NAN, f64::NAN); 2];
            for place in order(round, ports.len()) {
                let target = Target::Port(ports[place]);
                let answered = latency::ask(setup, target, None, (RATE, MILLISECONDS))?;
                seen[place] = (answered.p50_us, answered.p99_us);
            }
            p50.push(seen[1].0 - seen[0].0);
            p99.push(seen[1].1 - seen[0].1);
            if let Some(proxy) = proxy {
                let before = cpu_time(proxy)?;
                let so_long = ["--milliseconds", &MILLISECONDS.to_string()];
                let answered = setup.load(None, Target::Port(published), "/600", &so_long)?;
                let used = cpu_time(proxy)?.saturating_sub(before);
                cpu.push(used.as_secs_f64() * 1e6 / answered.completed);
            }
        }
        direct.process.end()?;
        let mut figures = vec![
            Figure::median("published port, added p50", &p50, "us"),
            Figure::median("published port, added p99", &p99, "us"),
        ];
        if !cpu.is_empty() {
            let name = "published port, CPU of the engine's proxy";
            figures.push(Figure::median(name, &cpu, "us"));
        }
        Ok(figures)
    }
}

/// Finds the engine's process behind a published port; `None` where the engine is configured
/// without a proxy.
fn proxy_of(port: u16) -> Result<Option<u32>> {
    let port = port.to_string();
    let is_it = |line: &str| {
        let args: Vec<_> = line.split('\0').collect();
        args[0].ends_with("docker-proxy")
            && args.windows(2).any(|pair| pair[0] == "-host-port" && pair[1] == port)
    };
    let found = std::fs::read_dir("/proc")?.flatten().find_map(|entry| {
        let pid = entry.file_name().to_str()?.parse().ok()?;
        is_it(&std::fs::read_to_string(entry.path().join("cmdline")).ok()?).then_some(pid)
    });
    Ok(found)
}
