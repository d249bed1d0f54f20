//! The router beside Debian's nginx and haproxy: clients over loopback TCP, one backend behind a unix socket, as in
//! production. What a request costs is told as a ratio to a peer of the same round.

mod control;
mod cost;
mod instructions;
mod latency;
mod memory;
mod packages;
mod peer;
mod process;
mod published;
mod rounds;
mod self_test;

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail, ensure};
use serde_json::Value;

use super::figure::{Figure, Setting};
use crate::images::binaries;
use control::Control;
use peer::Site;
use process::Running;

pub(crate) use self_test::self_test;

/// Where requests go.
#[derive(Clone, Copy)]
enum Target<'a> {
    Port(u16),
    Socket(&'a Path),
}

/// What a load tells.
struct Answered {
    completed: f64,
    p50_us: f64,
    p99_us: f64,
}

/// What is measured of a proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum Row {
    /// CPU time per request.
    Cpu,
    /// User instructions per request.
    Instructions,
    /// Of idle WebSockets.
    Memory,
    /// Added to an answer's time.
    Latency,
    /// What the engine's own port publishing adds to all of that.
    Published,
}

pub(crate) struct Wish<'a> {
    pub(crate) rounds: usize,
    /// Otherwise they are built.
    pub(crate) router: Option<&'a Path>,
    pub(crate) tools: Option<&'a Path>,
    /// None: all there are.
    pub(crate) rows: &'a [Row],
}

pub(crate) fn measure(wish: &Wish<'_>) -> Result<(Setting, Vec<Figure>)> {
    let rounds = wish.rounds;
    ensure!(rounds > 0, "--times must be 1 at least");
    let wants = |row| wish.rows.is_empty() || wish.rows.contains(&row);
    packages::provide(&packages::PEERS)?;
    packages::provide(&[packages::VALGRIND])?;
    let router = match wish.router {
        Some(router) => router.to_owned(),
        None => binaries::on_this_machine("router", "release")?,
    };
    let is_timed = [Row::Cpu, Row::Latency, Row::Published].into_iter().any(wants);
    let tools = match wish.tools {
        Some(tools) => Tools::at(tools)?,
        None if is_timed => Tools::optimised()?,
        // How fast it is asked is nothing to a count of instructions or bytes.
        None => Tools::own()?,
    };
    let setting = setting(rounds)?;
    memory::descriptors()?;
    let (first, last) = process::cpus()?;
    let mut figures = Vec::new();
    if wants(Row::Cpu) {
        figures.extend(on_site(Some(last), &router, &tools, |site, control| {
            let mut figures = cost::SMALL.measure(site, last, rounds)?;
            figures.extend(cost::LARGE.measure(site, last, rounds)?);
            figures.push(Figure::new("calls about leases meanwhile", control.calls() as f64, ""));
            Ok(figures)
        })?);
    }
    if wants(Row::Instructions) {
        figures.extend(on_site(None, &router, &tools, |site, _| instructions::measure(site))?);
    }
    if wants(Row::Memory) {
        figures.extend(on_site(None, &router, &tools, |site, _| memory::measure(site))?);
    }
    if wants(Row::Latency) && first == last {
        eprintln!("one CPU only: nothing is said of latency");
    } else if wants(Row::Latency) {
        figures.extend(on_site(Some(first), &router, &tools, |site, _| {
            latency::measure(site, (last, first), rounds)
        })?);
    }
    if wants(Row::Published) {
        figures.extend(on_site(None, &router, &tools, |site, _| published::measure(site, rounds))?);
    }
    Ok((setting, figures))
}

fn setting(rounds: usize) -> Result<Setting> {
    let mut facts = Setting::machine();
    for name in packages::PEERS.into_iter().chain([packages::VALGRIND]) {
        facts = facts.and(name, packages::version(name)?);
    }
    Ok(facts.and("rounds", rounds))
}

/// What the backend and the load are run from. A tool that was compiled without optimisation would be what is measured.
#[derive(Clone)]
struct Tools(String);

impl Tools {
    fn optimised() -> Result<Self> {
        Self::at(&binaries::on_this_machine("xtask", "control")?)
    }

    /// This very program: good enough to tell a bad proxy from a good one.
    fn own() -> Result<Self> {
        Self::at(&std::env::current_exe()?)
    }

    fn at(path: &Path) -> Result<Self> {
        Ok(Self(path.to_str().context("a path that is no text")?.to_owned()))
    }

    fn program(&self) -> &str {
        &self.0
    }

    /// The command line of one of them.
    fn words<'a>(&self, words: impl IntoIterator<Item = &'a str>) -> Vec<String> {
        let mut all = vec![self.0.clone(), "bench-tool".to_owned()];
        all.extend(words.into_iter().map(str::to_owned));
        all
    }
}

/// A folder with a backend on `cpu` and a scripted control plane; all gone afterwards.
fn on_site<T>(
    cpu: Option<usize>,
    router: &Path,
    tools: &Tools,
    work: impl FnOnce(&Site<'_>, &Control) -> Result<T>,
) -> Result<T> {
    let folder = Folder::new()?;
    let socket = folder.0.join("backend.sock");
    let text = socket.to_str().context("a path that is no text")?;
    let words = tools.words(["backend", "--socket", text, "--proof", &control::proof()]);
    let mut command = process::command(cpu, words.iter().map(String::as_str));
    let mut backend = Running::start("the backend", &mut command)?;
    backend.until("its socket", || std::os::unix::net::UnixStream::connect(&socket).is_ok())?;
    let control = Control::start(&socket)?;
    let site = Site { folder: &folder.0, socket: &socket, control: control.address, router, tools };
    work(&site, &control)
}

/// A folder of its own that peers of other users may look into, gone at the end.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Result<Self> {
        let mut number = [0; 8];
        getrandom::fill(&mut number).map_err(std::io::Error::other)?;
        let name = format!("cial-bench-{:016x}", u64::from_ne_bytes(number));
        let path = std::env::temp_dir().join(name);
        std::fs::create_dir(&path).with_context(|| format!("cannot make {}", path.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        // What cannot be removed lies in a folder for what passes.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

impl Site<'_> {
    /// Asks until it is told to stop, on `cpu`.
    fn load(
        &self,
        cpu: Option<usize>,
        target: Target<'_>,
        path: &str,
        more: &[&str],
    ) -> Result<Answered> {
        let (flag, value) = match target {
            Target::Port(port) => ("--port", port.to_string()),
            Target::Socket(path) => ("--socket", path.display().to_string()),
        };
        let words = ["load", "--path", path, flag, &value].into_iter().chain(more.iter().copied());
        let words = self.tools.words(words);
        let mut command: Command = process::command(cpu, words.iter().map(String::as_str));
        let output = command.stdout(Stdio::piped()).output().context("cannot start the load")?;
        if !output.status.success() {
            bail!("the load failed: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        let said: Value = serde_json::from_slice(&output.stdout)?;
        let number =
            |name: &str| said[name].as_f64().with_context(|| format!("no {name} in {said}"));
        Ok(Answered {
            completed: number("completed")?,
            p50_us: number("p50_us")?,
            p99_us: number("p99_us")?,
        })
    }
}
