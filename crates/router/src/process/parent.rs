//! `router parent`: holds the listeners and serves no request. Child processes serve and are
//! replaced, so that an upgrade loses no request. The parent may be PID 1 of a container and must
//! not exit.
//!
//! SIGHUP or SIGUSR2 starts another child (from the program file and with the settings and secrets
//! of that moment), which receives the listening sockets. Once the new child serves, the old one
//! accepts no connection, answers one more request on each that it has, drains, and exits. If the
//! new child fails before that, nothing changes.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use service::ServiceError;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::process::fd_passing;
use crate::process::server::Server;
use crate::process::upgrade::{Command as UpgradeCommand, Event, ProcessNumber, Upgrade};
use crate::settings::Settings;

/// The subcommands of the first child, and of each child that replaces another.
pub const FIRST_CHILD: &str = "handed-first";
pub const NEXT_CHILD: &str = "handed-next";

/// Serves through child processes until a stop is requested and all of them have drained.
///
/// # Errors
/// A listener cannot be opened, or a child failed.
pub fn run(settings: Settings) -> Result<(), ServiceError> {
    let program = std::env::current_exe()?;
    let sockets = Server::new(settings)?.into_sockets();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let success = runtime.block_on(async {
        let (events, received) = mpsc::unbounded_channel();
        let parent = Parent { program, sockets, processes: Vec::new(), events };
        parent.supervise(received).await
    })?;
    if success { Ok(()) } else { Err(anyhow::anyhow!("a serving process failed").into()) }
}

struct Parent {
    program: PathBuf,
    /// The public listeners, and last the internal listener.
    sockets: Vec<TcpListener>,
    processes: Vec<Process>,
    events: mpsc::UnboundedSender<Event>,
}

struct Process {
    number: ProcessNumber,
    child: Child,
    /// Dropping the link requests the process to finish.
    link: Option<OwnedWriteHalf>,
}

impl Parent {
    /// Returns whether all processes succeeded.
    async fn supervise(mut self, mut received: mpsc::UnboundedReceiver<Event>) -> io::Result<bool> {
        let mut child_exited = signal(SignalKind::child())?;
        self.forward_signals(
            [SignalKind::terminate(), SignalKind::interrupt()],
            Event::StopRequested,
        )?;
        self.forward_signals(
            [SignalKind::hangup(), SignalKind::user_defined2()],
            Event::UpgradeRequested,
        )?;
        let (mut upgrade, since) = (Upgrade::default(), now());
        self.start(0)?;
        loop {
            let deadline = upgrade.deadline().map(|at| since + at);
            let events = tokio::select! {
                event = received.recv() => event.into_iter().collect(),
                _ = child_exited.recv() => self.reap(),
                () = sleep_until_deadline(deadline) => Vec::new(),
            };
            let mut commands = upgrade.tick(now() - since);
            commands.extend(events.into_iter().flat_map(|e| upgrade.handle(e, now() - since)));
            for command in commands {
                if let Some(success) = self.execute(command) {
                    return Ok(success);
                }
            }
        }
    }

    /// Returns `Some` with the last command.
    fn execute(&mut self, command: UpgradeCommand) -> Option<bool> {
        match command {
            UpgradeCommand::Start(number) => {
                if let Err(error) = self.start(number) {
                    tracing::error!(%error, "starting a child process failed");
                    // The receiver lives as long as `self`.
                    let _ = self.events.send(Event::Exited { process: number, success: false });
                }
            }
            UpgradeCommand::Drain(number) => {
                if let Some(mut link) = self.process(number).and_then(|p| p.link.take()) {
                    // A process that misses the message still notices the end of the link.
                    tokio::spawn(async move { link.write_all(fd_passing::REPLACED).await });
                }
            }
            UpgradeCommand::Stop(number) => {
                if let Some(process) = self.process(number) {
                    process.link = None;
                }
            }
            UpgradeCommand::Kill(number) => {
                // An error means that the process has just exited; its exit is reported by SIGCHLD.
                let _ = self.process(number).map(|process| process.child.kill());
            }
            UpgradeCommand::CloseListeners => self.sockets.clear(),
            UpgradeCommand::Log(event) => tracing::info!("{event}"),
            UpgradeCommand::Exit { success } => return Some(success),
        }
        None
    }

    fn start(&mut self, number: ProcessNumber) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        fd_passing::send(&ours, &self.sockets)?;
        let mut command = Command::new(&self.program);
        command.arg(if number == 0 { FIRST_CHILD } else { NEXT_CHILD });
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn()?;
        ours.set_nonblocking(true)?;
        let (mut incoming, link) = tokio::net::UnixStream::from_std(ours)?.into_split();
        let events = self.events.clone();
        tokio::spawn(async move {
            let mut message = [0; fd_passing::READY.len()];
            if incoming.read_exact(&mut message).await.is_ok() && message == fd_passing::READY {
                let _ = events.send(Event::Ready(number));
            }
        });
        self.processes.push(Process { number, child, link: Some(link) });
        Ok(())
    }

    /// Collects the processes that exited since the last call.
    fn reap(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.processes.retain_mut(|process| match process.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                let success = status.success();
                events.push(Event::Exited { process: process.number, success });
                false
            }
            Err(error) => {
                tracing::error!(%error, "waiting for a child process failed");
                events.push(Event::Exited { process: process.number, success: false });
                false
            }
        });
        events
    }

    fn process(&mut self, number: ProcessNumber) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.number == number)
    }

    fn forward_signals(&self, kinds: [SignalKind; 2], event: Event) -> io::Result<()> {
        for kind in kinds {
            let (mut signals, events) = (signal(kind)?, self.events.clone());
            tokio::spawn(async move {
                while signals.recv().await.is_some() && events.send(event).is_ok() {}
            });
        }
        Ok(())
    }
}

/// Serves with the sockets of the parent, until the parent or a signal requests the end.
///
/// A child that replaces another (`replaces`) accepts no connection before it has a route table.
///
/// # Errors
/// No sockets arrive, or serving fails.
pub fn run_child(settings: Settings, replaces: bool) -> Result<(), ServiceError> {
    let link = fd_passing::link()?;
    let sockets = fd_passing::receive(&link)?;
    Server::with_sockets(settings, sockets, link, replaces)?.run(service::shutdown_token)
}

/// `router upgrade`: requests an upgrade from a parent process, which is PID 1 in a container.
///
/// A signal through the engine's API would mark the container as stopped by hand, and the engine would not restart it
/// after a crash. A signal from inside changes nothing that the engine believes.
///
/// # Errors
/// `pid` is not a number, or names no process that runs `router parent`.
pub fn request_upgrade(pid: Option<String>) -> Result<(), ServiceError> {
    let pid: i32 = match pid {
        Some(pid) => pid.parse().map_err(|_| anyhow::anyhow!("PID is a number"))?,
        None => 1,
    };
    // The image starts the router through a link of another name, so the first word of the command line does not count.
    // The kernel marks a replaced file as deleted, behind its name.
    let program = std::fs::read_link(format!("/proc/{pid}/exe")).unwrap_or_default();
    let is_router =
        program.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"router"));
    let command_line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let is_parent = command_line.split(|byte| *byte == 0).nth(1) == Some(b"parent");
    if !is_router || !is_parent {
        return Err(anyhow::anyhow!("process {pid} does not run `router parent`").into());
    }
    let pid = Pid::from_raw(pid).ok_or_else(|| anyhow::anyhow!("PID is a positive number"))?;
    kill_process(pid, Signal::USR2).map_err(|e| anyhow::anyhow!("signal to {pid:?}: {e}"))?;
    Ok(())
}

async fn sleep_until_deadline(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "`Upgrade` is pure and receives the time")]
fn now() -> Instant {
    Instant::now()
}
