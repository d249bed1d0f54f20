//! The loop of PID 1: waits for signals, links and lines, asks the machine, does what it says.

use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::prctl::set_child_subreaper;
use nix::sys::signal::{SigSet, Signal, kill, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::{Pid, geteuid, getpid};
use protocol::inside::link;

use crate::environment::Variables;
use crate::machine::{Event, Machine, Order};
use crate::output::{Outlet, unblock};
use crate::services::{Layout, Service};
use crate::spawn::{self, Running};
use crate::{door, reaper, sockets};

/// How long the last lines may take to leave.
const LAST_WORDS: Duration = Duration::from_millis(200);
/// Could not start at all.
const NOT_STARTED: u8 = 1;

/// Runs a tenant until it ends: 0 if it was asked to, anything else if it was not.
pub fn run(layout: &Layout, container: Variables) -> ExitCode {
    match Tenant::start(layout, &container) {
        Ok(mut tenant) => {
            drop(container);
            let code = tenant.live();
            tenant.clear_the_house();
            tenant.last_words();
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("[supervisor] cannot start: {error}");
            ExitCode::from(NOT_STARTED)
        }
    }
}

struct Tenant {
    machine: Machine,
    running: Vec<Running>,
    /// Whose link need not be listened to any more.
    heard: [bool; Service::ALL.len()],
    signals: SignalFd,
    out: Outlet,
    err: Outlet,
    _blocked: Option<OwnedFd>,
}

/// What one entry of the loop's wait stands for.
#[derive(Clone, Copy)]
enum Source {
    Signals,
    Link(usize),
    Out(usize),
    Err(usize),
    Outlet,
}

impl Tenant {
    fn start(layout: &Layout, container: &Variables) -> io::Result<Self> {
        if !geteuid().is_root() {
            return Err(io::Error::other(
                "it must start as root: it becomes the services' users itself",
            ));
        }
        let reserved = door::reserve()?;
        // PID 1 is this anyway; where it is not PID 1, as in its tests, orphans come to it all the same.
        set_child_subreaper(true)?;
        let signals = watch_signals()?;
        let out = Outlet::new(unblock(io::stdout().as_fd().try_clone_to_owned()?)?);
        let err = Outlet::new(unblock(io::stderr().as_fd().try_clone_to_owned()?)?);
        let blocked = sockets::block_ipv6(layout.public.port());
        let opened: Vec<_> = Service::ALL
            .into_iter()
            .map(|service| Ok((service, spawn::open(service, layout)?)))
            .collect::<io::Result<_>>()?;
        let mut running = Vec::with_capacity(Service::ALL.len());
        for (service, listeners) in opened {
            match spawn::spawn(service, layout, listeners, container, err.pipe.as_fd()) {
                Ok(started) => running.push(started),
                Err(why) => {
                    running.iter().for_each(|started| signal(started, Signal::SIGKILL));
                    return Err(io::Error::other(format!("{}: {why}", service.name())));
                }
            }
        }
        door::keep_only_kill()
            .map_err(|why| io::Error::other(format!("cannot give up its powers: {why}")))?;
        drop(reserved);
        let (machine, heard) = (Machine::default(), [false; Service::ALL.len()]);
        Ok(Self { machine, running, heard, signals, out, err, _blocked: blocked })
    }

    /// Until the machine says that it is over.
    fn live(&mut self) -> u8 {
        loop {
            let woken = match self.wait() {
                Ok(woken) => woken,
                Err(Errno::EINTR) => Vec::new(),
                Err(error) => {
                    self.err.say(&format!("cannot wait: {error}"));
                    return NOT_STARTED;
                }
            };
            let events: Vec<_> = woken.into_iter().flat_map(|source| self.attend(source)).collect();
            let mut orders: Vec<_> =
                events.into_iter().flat_map(|event| self.machine.handle(event, now())).collect();
            orders.extend(self.machine.tick(now()));
            if let Some(code) = orders.into_iter().find_map(|order| self.carry_out(order)) {
                return code;
            }
            self.out.flush();
            self.err.flush();
        }
    }

    /// Sleeps until something is to be done. A full outlet leaves what feeds it waiting.
    fn wait(&self) -> Result<Vec<Source>, Errno> {
        let mut asked = vec![(Source::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        for (place, running) in self.running.iter().enumerate() {
            if !self.heard[place] {
                asked.push((Source::Link(place), running.link.as_fd(), PollFlags::POLLIN));
            }
            if let Some(pipe) = running.out.pipe.as_ref().filter(|_| !self.out.is_full()) {
                asked.push((Source::Out(place), pipe.as_fd(), PollFlags::POLLIN));
            }
            if let Some(pipe) = running.err.pipe.as_ref().filter(|_| !self.err.is_full()) {
                asked.push((Source::Err(place), pipe.as_fd(), PollFlags::POLLIN));
            }
        }
        for outlet in [&self.out, &self.err].into_iter().filter(|outlet| !outlet.is_empty()) {
            asked.push((Source::Outlet, outlet.pipe.as_fd(), PollFlags::POLLOUT));
        }
        let mut fds: Vec<_> = asked.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        poll(&mut fds, self.patience())?;
        let woken = asked.iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(true));
        Ok(woken.map(|((source, ..), _)| *source).collect())
    }

    fn patience(&self) -> PollTimeout {
        let Some(at) = self.machine.deadline() else { return PollTimeout::NONE };
        // A millisecond more than the whole ones that are left: not to wake just too early.
        let left = at.saturating_duration_since(now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn attend(&mut self, source: Source) -> Vec<Event> {
        match source {
            Source::Signals => self.take_signals(),
            Source::Link(place) => self.hear(place).into_iter().collect(),
            Source::Out(place) => {
                self.running[place].out.pump(&mut self.out);
                Vec::new()
            }
            Source::Err(place) => {
                self.running[place].err.pump(&mut self.err);
                Vec::new()
            }
            Source::Outlet => Vec::new(),
        }
    }

    fn hear(&mut self, place: usize) -> Option<Event> {
        let mut word = [0; 16];
        match self.running[place].link.recv(&mut word) {
            Ok(length) if word[..length] == *link::READY => {
                self.heard[place] = true;
                Some(Event::Ready(self.running[place].service))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // Not a word that is known, or a link that is cut: its owner's death is told by a signal.
            Ok(length) => {
                self.heard[place] = length == 0;
                None
            }
            Err(_) => {
                self.heard[place] = true;
                None
            }
        }
    }

    fn take_signals(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(Some(info)) = self.signals.read_signal() {
            if i32::try_from(info.ssi_signo) == Ok(Signal::SIGCHLD as i32) {
                events.extend(self.bury());
            } else {
                events.push(Event::Stop);
            }
        }
        events
    }

    /// Reaps all dead. What one of the five said last comes before the news of its death.
    fn bury(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for (pid, death) in reaper::reap() {
            let ours = |running: &&mut Running| {
                running.pid == pid && self.machine.is_alive(running.service)
            };
            let Some(running) = self.running.iter_mut().find(ours) else { continue };
            running.out.drain(&mut self.out);
            running.err.drain(&mut self.err);
            events.push(Event::Died(running.service, death));
        }
        events
    }

    fn carry_out(&mut self, order: Order) -> Option<u8> {
        match order {
            Order::AllReady => {
                let back = &self.running[Service::CoreBack.index()].link;
                if let Err(error) = back.send(link::ALL_READY) {
                    self.err.say(&format!("cannot tell core-back that all are ready: {error}"));
                }
            }
            Order::Terminate(service) => signal(&self.running[service.index()], Signal::SIGTERM),
            Order::Kill(service) => signal(&self.running[service.index()], Signal::SIGKILL),
            Order::Say(text) => self.err.say(&text),
            Order::Exit(code) => return Some(code),
        }
        None
    }

    /// Ends every other process while the listening sockets are still held. The kernel would end them too, but
    /// only after it has closed those: long enough for one of them to take the public port.
    fn clear_the_house(&self) {
        // Where this is not PID 1, "every process" is not ours.
        if getpid() != Pid::from_raw(1) {
            return;
        }
        let everyone = Pid::from_raw(-1);
        let until = now() + LAST_WORDS;
        while kill(everyone, Signal::SIGKILL).is_ok() && now() < until {
            reaper::reap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn last_words(&mut self) {
        for running in &mut self.running {
            running.out.drain(&mut self.out);
            running.err.drain(&mut self.err);
        }
        let until = now() + LAST_WORDS;
        for outlet in [&mut self.out, &mut self.err] {
            outlet.flush();
            while !outlet.is_empty() && now() < until {
                let mut fds = [PollFd::new(outlet.pipe.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::from(10_u8));
                outlet.flush();
            }
        }
    }
}

/// To the service and all that it has started in its group.
fn signal(running: &Running, signal: Signal) {
    if killpg(running.pid, signal).is_err() {
        // Gone in between: its death is on its way.
        let _ = kill(running.pid, signal);
    }
}

fn watch_signals() -> io::Result<SignalFd> {
    let stops = [Signal::SIGTERM, Signal::SIGINT, Signal::SIGQUIT];
    let watched: SigSet = stops.into_iter().chain([Signal::SIGCHLD]).collect();
    watched.thread_block()?;
    Ok(SignalFd::with_flags(&watched, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "the shell around the machine: the one reader of the clock"
)]
fn now() -> Instant {
    Instant::now()
}
