//! Somebody at a terminal in a checkout: types commands, reads what they say, presses Ctrl-C.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Read};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;

use crate::local::Installation;
use crate::world;

/// For a command that compiles and builds everything.
const PATIENCE: Duration = Duration::from_secs(1_500);
/// From Ctrl-C to the end of a command.
const FAREWELL: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(50);
/// What the environment must not say, for `.env` to be heard.
const CHOSEN: [&str; 6] = [
    "CIAL_INSTALL",
    "CIAL_ADMIN_PORT",
    "CIAL_ADMIN_URL",
    "CIAL_ROUTER_PORT",
    "CIAL_POSTGRES_PORT",
    "CIAL_DOMAIN",
];

pub(super) struct Hands<'a> {
    folder: &'a Path,
    installation: &'a Installation,
    /// Where the docker command finds Compose 2, when not by itself.
    plugins: Option<&'a Path>,
    done: BTreeSet<&'static str>,
}

/// All that a command said, on both its outputs.
pub(super) struct Told {
    command: &'static str,
    text: String,
}

impl<'a> Hands<'a> {
    pub(super) fn new(
        folder: &'a Path,
        installation: &'a Installation,
        plugins: Option<&'a Path>,
    ) -> Self {
        Self { folder, installation, plugins, done: BTreeSet::new() }
    }

    /// Runs a command to its end, which must be good.
    pub(super) fn run(&mut self, command: &'static str) -> Result<Told> {
        let start = world::now();
        let (told, status) = self.complete(command)?;
        ensure!(status.success(), "`{command}` ended with {status} and said:\n{}", told.text);
        world::say(format_args!("ok     {command} ({:.1} s)", start.elapsed().as_secs_f32()));
        Ok(told)
    }

    /// Runs one to its end, which must be a failure.
    pub(super) fn refuse(&mut self, command: &'static str) -> Result<Told> {
        let (told, status) = self.complete(command)?;
        ensure!(
            status.code() == Some(1),
            "`{command}` ended with {status} and said:\n{}",
            told.text
        );
        world::say(format_args!("ok     {command}, refused"));
        Ok(told)
    }

    /// Presses Ctrl-C once the command has said a line that starts like this.
    pub(super) fn interrupt(&mut self, command: &'static str, start: &str) -> Result<()> {
        let mut running = Running::start(self.command(command))?;
        running.until(|line| line.starts_with(start))?;
        let status = running.interrupt()?;
        ensure!(!status.success(), "`{command}` was interrupted, and ended well all the same");
        world::say(format_args!("ok     {command}, and Ctrl-C at {start}"));
        Ok(())
    }

    /// Reads on until a service's line is shown, then presses Ctrl-C.
    pub(super) fn watch(&mut self, command: &'static str) -> Result<()> {
        let mut running = Running::start(self.command(command))?;
        // No earlier line will do: make repeats the command before it runs it, and Ctrl-C in between is lost.
        running.until(|line| line.contains(" | "))?;
        running.interrupt()?;
        world::say(format_args!("ok     {command}, and Ctrl-C"));
        Ok(())
    }

    /// Leaves the command running until another one succeeds, then presses Ctrl-C.
    pub(super) fn until(&mut self, command: &'static str, success: &'static str) -> Result<()> {
        let mut running = Running::start(self.command(command))?;
        let deadline = world::now() + PATIENCE;
        loop {
            let (told, status) = self.complete(success)?;
            if status.success() {
                break;
            }
            let has_ended = running.child.try_wait()?.is_some();
            ensure!(
                !has_ended && world::now() < deadline,
                "`{command}`: {}\n{}",
                running.said(),
                told.text
            );
        }
        running.interrupt()?;
        world::say(format_args!("ok     {command}, until {success}"));
        Ok(())
    }

    /// Everything of a list was run, and nothing else.
    pub(super) fn have_done(&self, commands: &[&'static str]) -> Result<()> {
        let wanted: BTreeSet<_> = commands.iter().copied().collect();
        let differing: Vec<_> = wanted.symmetric_difference(&self.done).collect();
        ensure!(differing.is_empty(), "listed and not run, or run and not listed: {differing:?}");
        Ok(())
    }

    fn complete(&mut self, command: &'static str) -> Result<(Told, ExitStatus)> {
        let mut running = Running::start(self.command(command))?;
        let status = running.end()?;
        Ok((Told { command, text: running.said() }, status))
    }

    /// The command as it is documented, but for what this installation is called and where it listens.
    fn command(&mut self, text: &'static str) -> Command {
        self.done.insert(text);
        let port = self.installation.router_port.to_string();
        let label = format!("cial.install={}", self.installation.name);
        let line = text.replace("8080", &port).replace("cial.install=local", &label);
        let mut shell = Command::new("sh");
        shell.args(["-c", &format!("exec {line}")]).current_dir(self.folder).stdin(Stdio::null());
        for name in CHOSEN {
            shell.env_remove(name);
        }
        let target =
            world::var("CARGO_TARGET_DIR").map_or_else(|| world::root().join("target"), Into::into);
        shell.env("CARGO_TARGET_DIR", target);
        shell.envs(self.plugins.iter().map(|folder| ("DOCKER_CONFIG", folder)));
        shell
    }
}

impl Told {
    pub(super) fn says(&self, words: &str) -> Result<()> {
        let Self { command, text } = self;
        ensure!(text.contains(words), "`{command}` does not say {words:?}, but:\n{text}");
        Ok(())
    }

    pub(super) fn lacks(&self, words: &str) -> Result<()> {
        let Self { command, text } = self;
        ensure!(!text.contains(words), "`{command}` says {words:?}:\n{text}");
        Ok(())
    }

    /// The word that starts like this.
    pub(super) fn word_with(&self, start: &str) -> Result<&str> {
        let found = self.text.split_whitespace().find(|word| word.starts_with(start));
        found.with_context(|| format!("`{}` says no {start}…, but:\n{}", self.command, self.text))
    }
}

/// A command in a process group of its own, as a terminal would run it.
struct Running {
    child: Child,
    lines: Receiver<String>,
    heard: Vec<String>,
    /// By when it must have said what is waited for.
    deadline: Instant,
}

impl Running {
    fn start(mut command: Command) -> Result<Self> {
        command.process_group(0).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().context("cannot run sh")?;
        let (sender, lines) = channel();
        let outputs: [Option<Box<dyn Read + Send>>; 2] = [
            child.stdout.take().map(|output| Box::new(output) as _),
            child.stderr.take().map(|output| Box::new(output) as _),
        ];
        for output in outputs.into_iter().flatten() {
            let sender = sender.clone();
            // Ends with the output: the last process of the group holds it.
            std::thread::spawn(move || {
                for line in BufReader::new(output).lines().map_while(Result::ok) {
                    let _ = sender.send(line);
                }
            });
        }
        Ok(Self { child, lines, heard: Vec::new(), deadline: world::now() + PATIENCE })
    }

    fn until(&mut self, is_it: impl Fn(&str) -> bool) -> Result<()> {
        while self.hear()? {
            if self.heard.last().is_some_and(|line| is_it(line)) {
                return Ok(());
            }
        }
        bail!("it ended after:\n{}", self.said())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        while self.hear()? {}
        Ok(self.child.wait()?)
    }

    /// Waits for one more line; `false` when there will be none.
    fn hear(&mut self) -> Result<bool> {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(world::now())) {
            Ok(line) => self.heard.push(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("what was waited for is not said in time, but:\n{}", self.said())
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }

    /// What was said so far.
    fn said(&mut self) -> String {
        self.heard.extend(self.lines.try_iter());
        self.heard.join("\n")
    }

    fn interrupt(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGINT)?;
        let deadline = world::now() + FAREWELL;
        while world::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(INTERVAL);
        }
        bail!("Ctrl-C does not end it; it said:\n{}", self.said())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(killpg(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // The group is gone already, unless something failed half-way.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}
