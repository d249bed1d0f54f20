//! An installation on a machine of its own, which tests take down: an engine in a network, process and mount namespace.
//!
//! The machine's network has no way out. So the bases of images come from the engine of this machine, and the sources of
//! crates are downloaded before; everything else is built on the new engine, as everywhere.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use docker_command::Docker;
use nix::fcntl::OFlag;

use crate::e2e;
use crate::environment::{self, cargo, connect_docker, require_programs, root, variable};
use crate::local::{self, Installation};
use crate::{ephemeral, interrupt};

/// The variable by which the tests find the machine.
const MACHINE: &str = "CIAL_E2E_MACHINE";
/// From a start of the engine until it responds, and from the end of the machine until nothing of it is left.
const TIMEOUT: Duration = Duration::from_secs(60);
const INTERVAL: Duration = Duration::from_millis(200);

/// Runs `smoke-local --reboot` on a new machine.
pub(crate) fn on_a_machine_of_its_own() -> Result<()> {
    ensure!(
        nix::unistd::geteuid().is_root(),
        "a machine of its own needs namespaces: run this step as root"
    );
    require_programs(&["dockerd", "nft", "nsenter", "unshare"])?;
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
    ephemeral::test(Installation::ephemeral("reboot")?, e2e::REBOOT, &[(MACHINE, machine)])
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
        let (mut machine, start) = (Self { folder, script }, environment::now());
        while Docker::connect(Some(&machine.host())).is_err() {
            let has_ended = machine.script.try_wait()?.is_some();
            ensure!(!has_ended, "the machine ended: {}", machine.log());
            ensure!(start.elapsed() < TIMEOUT, "its engine does not respond: {}", machine.log());
            std::thread::sleep(INTERVAL);
        }
        Ok(machine)
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

    /// Writes to the pipe of the script, which must run.
    fn power(&self, how: &str) -> std::io::Result<()> {
        // Without a reader, the pipe does not open, instead of waiting for one.
        let without_waiting = OFlag::O_NONBLOCK.bits();
        let pipe = self.folder.join("power");
        let mut pipe = OpenOptions::new().write(true).custom_flags(without_waiting).open(pipe)?;
        writeln!(pipe, "{how}")
    }
}

impl Drop for Machine {
    fn drop(&mut self) {
        // The script removes what outlives the processes of the machine.
        let is_ending = self.power("off").is_ok();
        let start = environment::now();
        while is_ending && start.elapsed() < TIMEOUT && matches!(self.script.try_wait(), Ok(None)) {
            std::thread::sleep(INTERVAL);
        }
        let _ = self.script.kill();
        let _ = self.script.wait();
        if let Err(error) = fs::remove_dir_all(&self.folder) {
            eprintln!("cannot remove {}: {error}", self.folder.display());
        }
    }
}
