//! A person at a terminal in a checkout: types commands, reads their output, presses Ctrl-C.

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

use testkit::Installation;
use testkit::clock::now;
use testkit::installation::variable;

/// For a command that compiles and builds everything.
const COMMAND_TIMEOUT: Duration = Duration::from_secs(1_500);
/// From Ctrl-C to the end of a command.
const INTERRUPT_TIMEOUT: Duration = Duration::from_secs(120);
const INTERVAL: Duration = Duration::from_millis(50);
/// Variables of the test that would hide the `.env` of the copy: all of Cial's but these.
const KEPT_VARIABLES: [&str; 7] = [
    "CIAL_BASE_IMAGE",
    "CIAL_BINARIES",
    "CIAL_BUILDER",
    "CIAL_CONFIG",
    "CIAL_POSTGRES_IMAGE",
    "CIAL_RUST_IMAGE",
    "CIAL_TOOLS",
];

pub(crate) struct Terminal<'a> {
    folder: &'a Path,
    installation: &'a Installation,
    /// The folder in which the docker command finds Compose 2, unless it does by itself.
    plugins: Option<&'a Path>,
    ran: BTreeSet<&'static str>,
}

/// Everything that a command printed, on both outputs.
pub(crate) struct CommandOutput {
    command: &'static str,
    text: String,
}

impl<'a> Terminal<'a> {
    pub(crate) fn new(
        folder: &'a Path,
        installation: &'a Installation,
        plugins: Option<&'a Path>,
    ) -> Self {
        Self { folder, installation, plugins, ran: BTreeSet::new() }
    }

    /// Runs a command to its end, which must be a success.
    pub(crate) fn run(&mut self, command: &'static str) -> Result<CommandOutput> {
        let start = now();
        let (output, status) = self.complete(command)?;
        ensure!(status.success(), "`{command}` ended with {status} and printed:\n{}", output.text);
        print_line(format_args!("ok     {command} ({:.1} s)", start.elapsed().as_secs_f32()));
        Ok(output)
    }

    /// Runs a command to its end, which must be a failure.
    pub(crate) fn refuse(&mut self, command: &'static str) -> Result<CommandOutput> {
        let (output, status) = self.complete(command)?;
        ensure!(
            status.code() == Some(1),
            "`{command}` ended with {status} and printed:\n{}",
            output.text
        );
        print_line(format_args!("ok     {command}, refused"));
        Ok(output)
    }

    /// Presses Ctrl-C once the command has printed a line that starts like this.
    pub(crate) fn interrupt(&mut self, command: &'static str, start: &str) -> Result<()> {
        let mut running = RunningCommand::start(self.command(command))?;
        running.until(|line| line.starts_with(start))?;
        let status = running.interrupt()?;
        ensure!(!status.success(), "`{command}` was interrupted, and ended well all the same");
        print_line(format_args!("ok     {command}, and Ctrl-C at {start}"));
        Ok(())
    }

    /// Reads on until a service's line is shown, then presses Ctrl-C.
    pub(crate) fn watch(&mut self, command: &'static str) -> Result<()> {
        let mut running = RunningCommand::start(self.command(command))?;
        // No earlier line will do: make repeats the command before it runs it, and Ctrl-C in between is lost.
        running.until(|line| line.contains(" | "))?;
        running.interrupt()?;
        print_line(format_args!("ok     {command}, and Ctrl-C"));
        Ok(())
    }

    /// Leaves the command running until another one succeeds, then presses Ctrl-C.
    pub(crate) fn until(&mut self, command: &'static str, success: &'static str) -> Result<()> {
        let mut running = RunningCommand::start(self.command(command))?;
        let deadline = now() + COMMAND_TIMEOUT;
        loop {
            let (output, status) = self.complete(success)?;
            if status.success() {
                break;
            }
            let has_ended = running.child.try_wait()?.is_some();
            ensure!(
                !has_ended && now() < deadline,
                "`{command}`: {}\n{}",
                running.text(),
                output.text
            );
        }
        running.interrupt()?;
        print_line(format_args!("ok     {command}, until {success}"));
        Ok(())
    }

    /// Fails unless exactly the commands of this list were run.
    pub(crate) fn has_run(&self, commands: &str) -> Result<()> {
        let wanted: BTreeSet<_> = commands.lines().collect();
        let differing: Vec<_> = wanted.symmetric_difference(&self.ran).collect();
        ensure!(differing.is_empty(), "listed and not run, or run and not listed: {differing:?}");
        Ok(())
    }

    /// Runs the commands of a document in one shell to their end, which must be a success.
    pub(crate) fn script(&self, document: &'static str, text: &str) -> Result<CommandOutput> {
        let start = now();
        let mut running = RunningCommand::start(self.shell(text))?;
        let status = running.end()?;
        let output = CommandOutput { command: document, text: running.text() };
        ensure!(status.success(), "{document} ended with {status} and printed:\n{}", output.text);
        print_line(format_args!("ok     {document} ({:.1} s)", start.elapsed().as_secs_f32()));
        Ok(output)
    }

    fn complete(&mut self, command: &'static str) -> Result<(CommandOutput, ExitStatus)> {
        let mut running = RunningCommand::start(self.command(command))?;
        let status = running.end()?;
        Ok((CommandOutput { command, text: running.text() }, status))
    }

    /// The command as documented.
    fn command(&mut self, text: &'static str) -> Command {
        self.ran.insert(text);
        self.shell(&format!("exec {text}"))
    }

    /// A shell in the folder, with the name and the ports of this installation in the place of the documented ones.
    fn shell(&self, text: &str) -> Command {
        let port = self.installation.router_port.to_string();
        let label = format!("cial.install={}", self.installation.name);
        let line = text.replace("8080", &port).replace("cial.install=local", &label);
        let mut shell = Command::new("sh");
        shell.args(["-c", &line]).current_dir(self.folder).stdin(Stdio::null());
        for name in names_of_variables() {
            if name.starts_with("CIAL_") && !KEPT_VARIABLES.contains(&name.as_str()) {
                shell.env_remove(name);
            }
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let target = variable("CARGO_TARGET_DIR").map_or_else(|| root.join("target"), Into::into);
        shell.env("CARGO_TARGET_DIR", target);
        shell.envs(self.plugins.iter().map(|folder| ("DOCKER_CONFIG", folder)));
        shell
    }
}

impl CommandOutput {
    pub(crate) fn contains(&self, words: &str) -> Result<()> {
        let Self { command, text } = self;
        ensure!(text.contains(words), "`{command}` does not print {words:?}, but:\n{text}");
        Ok(())
    }

    pub(crate) fn lacks(&self, words: &str) -> Result<()> {
        let Self { command, text } = self;
        ensure!(!text.contains(words), "`{command}` prints {words:?}:\n{text}");
        Ok(())
    }

    /// The word that starts like this.
    pub(crate) fn word_with(&self, start: &str) -> Result<&str> {
        let found = self.text.split_whitespace().find(|word| word.starts_with(start));
        found.with_context(|| format!("`{}` prints no {start}…, but:\n{}", self.command, self.text))
    }
}

/// A command in a process group of its own, as a terminal would run it.
struct RunningCommand {
    child: Child,
    lines: Receiver<String>,
    lines_read: Vec<String>,
    /// When the awaited line must have been printed.
    deadline: Instant,
}

impl RunningCommand {
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
        Ok(Self { child, lines, lines_read: Vec::new(), deadline: now() + COMMAND_TIMEOUT })
    }

    fn until(&mut self, is_it: impl Fn(&str) -> bool) -> Result<()> {
        while self.read_line()? {
            if self.lines_read.last().is_some_and(|line| is_it(line)) {
                return Ok(());
            }
        }
        bail!("it ended after:\n{}", self.text())
    }

    fn end(&mut self) -> Result<ExitStatus> {
        while self.read_line()? {}
        Ok(self.child.wait()?)
    }

    /// Reads one more line; `false` at the end of the output.
    fn read_line(&mut self) -> Result<bool> {
        match self.lines.recv_timeout(self.deadline.saturating_duration_since(now())) {
            Ok(line) => self.lines_read.push(line),
            Err(RecvTimeoutError::Timeout) => {
                bail!("the awaited line is not printed in time, but:\n{}", self.text())
            }
            Err(RecvTimeoutError::Disconnected) => return Ok(false),
        }
        Ok(true)
    }

    /// Everything printed so far.
    fn text(&mut self) -> String {
        self.lines_read.extend(self.lines.try_iter());
        self.lines_read.join("\n")
    }

    fn interrupt(&mut self) -> Result<ExitStatus> {
        self.signal(Signal::SIGINT)?;
        let deadline = now() + INTERRUPT_TIMEOUT;
        while now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(INTERVAL);
        }
        bail!("Ctrl-C does not end it; it printed:\n{}", self.text())
    }

    fn signal(&self, signal: Signal) -> Result<()> {
        Ok(killpg(Pid::from_raw(i32::try_from(self.child.id())?), signal)?)
    }
}

impl Drop for RunningCommand {
    fn drop(&mut self) {
        // The group is gone already, unless something failed half-way.
        if matches!(self.child.try_wait(), Ok(None)) {
            let _ = self.signal(Signal::SIGKILL);
            let _ = self.child.wait();
        }
    }
}

#[expect(
    clippy::disallowed_methods,
    reason = "a command in a checkout must not see the test's variables"
)]
fn names_of_variables() -> Vec<String> {
    std::env::vars().map(|(name, _)| name).collect()
}

#[expect(clippy::print_stdout, reason = "people read the lines of `cargo xtask test`")]
pub(crate) fn print_line(line: impl std::fmt::Display) {
    println!("{line}");
}
