//! The router beside Debian's nginx and haproxy: clients over loopback TCP, one backend behind a
//! unix socket, as in production. The cost of a request is a ratio to a peer of the same round.

mod control;
mod cost;
mod debian;
mod instructions;
mod latency;
mod memory;
mod process;
mod proxies;
mod published;
mod rounds;
mod self_test;

use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::cargo;
use super::figure::{Environment, Figure};
use control::Control;
use process::ChildProcess;
use proxies::Setup;

pub(crate) use self_test::self_test;

/// The destination of requests.
#[derive(Clone, Copy)]
enum Target<'a> {
    Port(u16),
    Socket(&'a Path),
}

/// The report of a load.
struct LoadResult {
    completed: f64,
    p50_us: f64,
    p99_us: f64,
}

/// The figures of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// CPU time per request.
    Cpu,
    /// User instructions per request.
    Instructions,
    /// Memory of idle WebSockets.
    Memory,
    /// Latency that the proxy adds to a response.
    Latency,
    /// The cost of the engine's own port publishing.
    Published,
}

pub(crate) struct Options<'a> {
    pub(crate) rounds: usize,
    /// The router's binary; `None` builds it.
    pub(crate) router: Option<&'a Path>,
    pub(crate) tools: Option<&'a Path>,
    /// The rows to measure; an empty slice selects all rows.
    pub(crate) rows: &'a [Row],
}

pub(crate) fn measure(options: &Options<'_>) -> Result<(Environment, Vec<Figure>)> {
    let rounds = options.rounds;
    ensure!(rounds > 0, "--times must be 1 at least");
    let wants = |row| options.rows.is_empty() || options.rows.contains(&row);
    debian::provide(&debian::PEERS)?;
    debian::provide(&[debian::VALGRIND])?;
    let router = match options.router {
        Some(router) => router.to_owned(),
        None => cargo::executable("router", "release")?,
    };
    let is_timed = [Row::Cpu, Row::Latency, Row::Published].into_iter().any(wants);
    let tools = match options.tools {
        Some(tools) => ToolProgram::at(tools)?,
        None if is_timed => ToolProgram::optimised()?,
        // The speed of the load does not affect a count of instructions or bytes.
        None => ToolProgram::own()?,
    };
    let environment = environment(rounds)?;
    memory::descriptors()?;
    let (first, last) = process::cpus()?;
    let mut figures = Vec::new();
    if wants(Row::Cpu) {
        figures.extend(with_setup(Some(last), &router, &tools, |setup, control| {
            let mut figures = cost::SMALL.measure(setup, last, rounds)?;
            figures.extend(cost::LARGE.measure(setup, last, rounds)?);
            figures.push(Figure::new("calls about leases meanwhile", control.calls() as f64, ""));
            Ok(figures)
        })?);
    }
    if wants(Row::Instructions) {
        figures.extend(with_setup(None, &router, &tools, |setup, _| instructions::measure(setup))?);
    }
    if wants(Row::Memory) {
        figures.extend(with_setup(None, &router, &tools, |setup, _| memory::measure(setup))?);
    }
    if wants(Row::Latency) && first == last {
        eprintln!("one CPU only: latency is not measured");
    } else if wants(Row::Latency) {
        figures.extend(with_setup(Some(first), &router, &tools, |setup, _| {
            latency::measure(setup, (last, first), rounds)
        })?);
    }
    if wants(Row::Published) {
        figures.extend(with_setup(None, &router, &tools, |setup, _| {
            published::measure(setup, rounds)
        })?);
    }
    Ok((environment, figures))
}

fn environment(rounds: usize) -> Result<Environment> {
    let mut facts = Environment::machine();
    for name in debian::PEERS.into_iter().chain([debian::VALGRIND]) {
        facts = facts.and(name, debian::version(name)?);
    }
    Ok(facts.and("rounds", rounds))
}

/// The program of backend and load. Compiled without optimisation, the program would dominate the
/// figures.
#[derive(Clone)]
struct ToolProgram(String);

impl ToolProgram {
    fn optimised() -> Result<Self> {
        Self::at(&cargo::executable("bench", "control")?)
    }

    /// Returns this very program, which is good enough to distinguish a bad proxy from a good one.
    fn own() -> Result<Self> {
        Self::at(&std::env::current_exe()?)
    }

    fn at(path: &Path) -> Result<Self> {
        Ok(Self(text(path)?.to_owned()))
    }

    fn program(&self) -> &str {
        &self.0
    }

    /// Returns the command line of a tool.
    fn args<'a>(&self, args: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut all = vec![self.0.clone(), "tool".to_owned()];
        all.extend(args.into_iter().map(str::to_owned));
        all
    }
}

fn text(path: &Path) -> Result<&str> {
    path.to_str().context("a path that is no text")
}

/// Runs `work` with a folder, a backend on `cpu` and a scripted control plane, and removes all of
/// them afterwards.
fn with_setup<T>(
    cpu: Option<usize>,
    router: &Path,
    tools: &ToolProgram,
    work: impl FnOnce(&Setup<'_>, &Control) -> Result<T>,
) -> Result<T> {
    let folder = testkit::TempDir::new("bench")?;
    let socket = folder.path().join("backend.sock");
    let args = ["backend", "--socket", text(&socket)?, "--proof", &control::proof()];
    let args = tools.args(args);
    let mut command = process::command(cpu, args.iter().map(String::as_str));
    let mut backend = ChildProcess::start("the backend", &mut command)?;
    backend.until("its socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
    let control = Control::start(&socket)?;
    let setup =
        Setup { folder: folder.path(), socket: &socket, control: control.address, router, tools };
    work(&setup, &control)
}

impl Setup<'_> {
    /// Runs the load on `cpu` until its bound.
    fn load(
        &self,
        cpu: Option<usize>,
        target: Target<'_>,
        path: &str,
        more: &[&str],
    ) -> Result<LoadResult> {
        let (flag, value) = match target {
            Target::Port(port) => ("--port", port.to_string()),
            Target::Socket(path) => ("--socket", path.display().to_string()),
        };
        let args = ["load", "--path", path, flag, &value].into_iter().chain(more.iter().copied());
        let args = self.tools.args(args);
        let mut command: Command = process::command(cpu, args.iter().map(String::as_str));
        let output = command.stdout(Stdio::piped()).output().context("cannot start the load")?;
        if !output.status.success() {
            bail!("the load failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let number =
            |name: &str| said[name].as_f64().with_context(|| format!("no {name} in {said}"));
        Ok(LoadResult {
            completed: number("completed")?,
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
        })
    }
}
