//! `router parent`: holds the doors and serves nobody. Processes that serve come and go behind it, so that a router
//! can be started anew without a request lost: also where it is PID 1 of a container, which must not end.
//!
//! SIGHUP or SIGUSR2 starts another process (of the file that is there by then, with the settings and secrets of that
//! moment), which is handed the listening sockets. Once it serves, the one before takes no new connection, answers
//! each that it has once more, drains, and ends. If the new one does not get that far, nothing changes.

use std::io;
use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use service::Failed;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::OwnedWriteHalf;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};

use crate::process::fd_passing;
use crate::process::server::Server;
use crate::process::upgrade::{Event, Number, Order, Upgrade};
use crate::settings::Settings;

/// What a process that serves is started with: the first one, and each that follows another.
pub const FIRST: &str = "handed-first";
pub const NEXT: &str = "handed-next";

/// Serves by processes of its own until it is asked to stop and they have drained.
pub fn run(settings: Settings) -> Result<(), Failed> {
    let program = std::env::current_exe()?;
    let sockets = Server::new(settings)?.into_sockets();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let well = runtime.block_on(async {
        let (told, events) = mpsc::unbounded_channel();
        let parent = Parent { program, sockets, processes: Vec::new(), told };
        parent.live(events).await
    })?;
    if well { Ok(()) } else { Err(anyhow::anyhow!("a process that served has failed").into()) }
}

struct Parent {
    program: PathBuf,
    /// The doors, and last the internal listener.
    sockets: Vec<TcpListener>,
    processes: Vec<Process>,
    told: mpsc::UnboundedSender<Event>,
}

struct Process {
    number: Number,
    child: Child,
    /// Dropped, it asks the process to finish.
    link: Option<OwnedWriteHalf>,
}

impl Parent {
    async fn live(mut self, mut events: mpsc::UnboundedReceiver<Event>) -> io::Result<bool> {
        let mut ended = signal(SignalKind::child())?;
        self.listen([SignalKind::terminate(), SignalKind::interrupt()], Event::Stop)?;
        self.listen([SignalKind::hangup(), SignalKind::user_defined2()], Event::Again)?;
        let (mut succession, since) = (Upgrade::default(), now());
        self.start(0)?;
        loop {
            let deadline = succession.deadline().map(|at| since + at);
            let events = tokio::select! {
                event = events.recv() => event.into_iter().collect(),
                _ = ended.recv() => self.bury(),
                () = at(deadline) => Vec::new(),
            };
            let mut orders = succession.tick(now() - since);
            orders.extend(events.into_iter().flat_map(|e| succession.handle(e, now() - since)));
            for order in orders {
                if let Some(well) = self.carry_out(order) {
                    return Ok(well);
                }
            }
        }
    }

    fn carry_out(&mut self, order: Order) -> Option<bool> {
        match order {
            Order::Start(number) => {
                if let Err(error) = self.start(number) {
                    tracing::error!(%error, "cannot start another process");
                    // Whoever listens lives as long as this does.
                    let _ = self.told.send(Event::Ended(number, false));
                }
            }
            Order::Relieve(number) => {
                if let Some(mut link) = self.process(number).and_then(|p| p.link.take()) {
                    // Whoever does not hear it any more hears the end of the link.
                    tokio::spawn(async move { link.write_all(fd_passing::RELIEVED).await });
                }
            }
            Order::Dismiss(number) => {
                if let Some(process) = self.process(number) {
                    process.link = None;
                }
            }
            Order::Kill(number) => {
                // Gone in between: its end is on its way.
                let _ = self.process(number).map(|process| process.child.kill());
            }
            Order::Close => self.sockets.clear(),
            Order::Say(text) => tracing::info!("{text}"),
            Order::Exit(well) => return Some(well),
        }
        None
    }

    fn start(&mut self, number: Number) -> io::Result<()> {
        let (ours, theirs) = UnixStream::pair()?;
        fd_passing::send(&ours, &self.sockets)?;
        let mut command = Command::new(&self.program);
        command.arg(if number == 0 { FIRST } else { NEXT });
        command.stdin(Stdio::from(OwnedFd::from(theirs)));
        let child = command.spawn()?;
        ours.set_nonblocking(true)?;
        let (mut hears, link) = tokio::net::UnixStream::from_std(ours)?.into_split();
        let told = self.told.clone();
        tokio::spawn(async move {
            let mut word = [0; fd_passing::SERVES.len()];
            if hears.read_exact(&mut word).await.is_ok() && word == fd_passing::SERVES {
                let _ = told.send(Event::Ready(number));
            }
        });
        self.processes.push(Process { number, child, link: Some(link) });
        Ok(())
    }

    /// Who has ended since this was asked last.
    fn bury(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        self.processes.retain_mut(|process| match process.child.try_wait() {
            Ok(None) => true,
            Ok(Some(status)) => {
                events.push(Event::Ended(process.number, status.success()));
                false
            }
            Err(error) => {
                tracing::error!(%error, "a process cannot be waited for");
                events.push(Event::Ended(process.number, false));
                false
            }
        });
        events
    }

    fn process(&mut self, number: Number) -> Option<&mut Process> {
        self.processes.iter_mut().find(|process| process.number == number)
    }

    fn listen(&self, kinds: [SignalKind; 2], event: Event) -> io::Result<()> {
        for kind in kinds {
            let (mut heard, told) = (signal(kind)?, self.told.clone());
            tokio::spawn(async move {
                while heard.recv().await.is_some() && told.send(event).is_ok() {}
            });
        }
        Ok(())
    }
}

/// Serves with what the parent hands over, until that or a signal asks for the end.
///
/// One that follows another leaves all connections to that until it has a table to serve by.
pub fn handed(settings: Settings, follows: bool) -> Result<(), Failed> {
    let link = fd_passing::link()?;
    let sockets = fd_passing::receive(&link)?;
    Server::handed(settings, sockets, link, follows)?.run(service::stop_requested)
}

async fn at(deadline: Option<Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}

#[expect(clippy::disallowed_methods, reason = "the shell reads the clock; the succession is told")]
fn now() -> Instant {
    Instant::now()
}
