//! An installation on a machine of its own, which tests take down: an engine in a network, process and mount namespace.
//!
//! The machine's network has no way out. So the bases of images come from the engine of this machine, and the sources of
//! crates are downloaded before; everything else is built on the new engine, as everywhere.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use docker_command::Docker;

use crate::e2e::{self, Filter};
use crate::environment::{self, cargo, connect_docker, root, succeeds, variable};
use crate::local::{self, Installation};
use crate::{ephemeral, interrupt};

/// The variable by which the tests find the machine.
const MACHINE: &str = "CIAL_E2E_MACHINE";
/// From a start of the engine until it responds, and from a kill until the last process has ended.
const TIMEOUT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs `smoke-local --reboot` on a new machine.
pub(crate) fn on_a_machine_of_its_own() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a machine of its own needs namespaces: run this step as root"
    );
    for program in ["dockerd", "nft", "nsenter", "unshare"] {
        let missing = format!("{program} is missing: scripts/install-tools installs it");
        ensure!(succeeds(program, &["--version"]), missing);
    }
    environment::run(cargo().args(["fetch", "--locked"]), "cargo fetch")?;
    let docker = connect_docker()?;
    let images = local::provide_portable(&docker, &Installation::of_checkout()?)?;
    interrupt::defer();
    let machine = Machine::boot()?;
    let outcome = machine.load(&docker, &images).and_then(|()| {
        let mut smoke = machine.command(&cargo().get_program().to_string_lossy());
        smoke.args(["xtask", "smoke-local", "--reboot"]).env("CARGO_NET_OFFLINE", "true");
        environment::run(smoke.current_dir(root()), "smoke-local --reboot")
    });
    if outcome.is_err() {
        eprintln!("{}", machine.log());
    }
    outcome
}

/// Brings an installation up on the engine of `DOCKER_HOST`, and takes its machine down.
pub(crate) fn smoke() -> Result<()> {
    let machine = variable(MACHINE).with_context(|| {
        format!("{MACHINE} is not set: `cargo xtask test reboot` makes a machine")
    })?;
    ephemeral::with_installation(Installation::ephemeral("reboot")?, |installation| {
        let mut variables = installation.variables();
        variables.push((MACHINE, machine));
        e2e::run(e2e::REBOOT, Filter::All, &variables)
    })
}

/// Ended and removed when it is dropped.
struct Machine {
    folder: PathBuf,
    script: Child,
}

impl Machine {
    /// Returns once the engine responds.
    fn boot() -> Result<Self> {
        let folder = std::env::temp_dir().join(format!("cial-machine-{}", std::process::id()));
        fs::create_dir(&folder).with_context(|| format!("cannot make {}", folder.display()))?;
        let mut script = Command::new("unshare");
        // The end of the script is the end of every process on the machine.
        script.args(["--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc"]);
        script.arg(root().join("crates/e2e/tests/reboot/machine.sh")).arg(&folder);
        let script = script.stdin(Stdio::null()).spawn().context("cannot run unshare")?;
        let mut machine = Self { folder, script };
        machine.wait()?;
        Ok(machine)
    }

    fn wait(&mut self) -> Result<()> {
        let start = environment::now();
        while Docker::connect(Some(&self.host())).is_err() {
            ensure!(self.script.try_wait()?.is_none(), "the machine ended: {}", self.log());
            ensure!(start.elapsed() < TIMEOUT, "its engine does not respond: {}", self.log());
            std::thread::sleep(INTERVAL);
        }
        Ok(())
    }

    fn socket(&self) -> PathBuf {
        self.folder.join("engine.sock")
    }

    fn host(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// The engine's log.
    fn log(&self) -> String {
        fs::read_to_string(self.folder.join("log")).unwrap_or_default()
    }

    /// A command in the machine's network and on its engine.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.arg(format!("--net=/proc/{}/ns/net", self.script.id())).arg(program);
        // The orchestrator mounts the socket; without the second variable it would start tenants on the other engine.
        command.env("DOCKER_HOST", self.host()).env("CIAL_DOCKER_SOCKET", self.socket());
        command.env(MACHINE, &self.folder);
        command
    }

    /// Copies images from an engine.
    fn load(&self, from: &Docker, images: &[String]) -> Result<()> {
        let archive = self.folder.join("images.tar");
        let path = archive.display().to_string();
        let names = images.iter().map(String::as_str);
        let save: Vec<_> = ["save", "--output", path.as_str()].into_iter().chain(names).collect();
        from.run(&save)?;
        from.run(&["--host", &self.host(), "load", "--input", &path])?;
        Ok(fs::remove_file(&archive)?)
    }

    /// Removes the cgroups of the engine's containers, which outlive them, and the folder.
    fn remove(&self) -> std::io::Result<()> {
        let Some(name) = self.folder.file_name() else { return Ok(()) };
        // One hierarchy (version 2), or one for each controller (version 1).
        let controllers = fs::read_dir("/sys/fs/cgroup")?.flatten().map(|entry| entry.path());
        for hierarchy in controllers.chain(["/sys/fs/cgroup".into()]) {
            let root = hierarchy.join(name);
            if root.is_dir() {
                remove_cgroup(&root)?;
            }
        }
        fs::remove_dir_all(&self.folder)
    }
}

/// Removes a cgroup with all below it. A frozen process ends only once it is thawed. Fails while a process is left.
fn remove_cgroup(path: &Path) -> std::io::Result<()> {
    for (file, thawed) in [("freezer.state", "THAWED"), ("cgroup.freeze", "0")] {
        if path.join(file).exists() {
            fs::write(path.join(file), thawed)?;
        }
    }
    for child in fs::read_dir(path)?.flatten().filter(|child| child.path().is_dir()) {
        remove_cgroup(&child.path())?;
    }
    fs::remove_dir(path)
}

impl Drop for Machine {
    fn drop(&mut self) {
        let _ = self.script.kill();
        let _ = self.script.wait();
        // The processes of the machine end a moment later.
        let start = environment::now();
        while let Err(error) = self.remove() {
            if start.elapsed() > TIMEOUT {
                eprintln!("cannot remove {}: {error}", self.folder.display());
                return;
            }
            std::thread::sleep(INTERVAL);
        }
    }
}
