//! The event loop of PID 1: waits for signals, readiness and output, and performs the actions of
//! the state machine.

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
use crate::machine::{Action, Event, Machine};
use crate::output::{OutputWriter, set_nonblocking};
use crate::services::{Layout, Service};
use crate::spawn::{self, RunningService};
use crate::{app, files, privilege_drop, probe, reaper, sockets};

/// Bounds the kill of remaining processes and the write of the last lines.
const EXIT_TIMEOUT: Duration = Duration::from_millis(200);
/// The exit code of a tenant that could not start.
const EXIT_NOT_STARTED: u8 = 1;

/// Runs a tenant until it ends. The exit code is 0 after a requested stop only.
pub fn run(layout: &Layout, container: Variables) -> ExitCode {
    match Supervisor::start(layout, &container) {
        Ok(mut tenant) => {
            drop(container);
            let code = tenant.run_loop();
            tenant.kill_all_processes();
            tenant.flush_output();
            ExitCode::from(code)
        }
        Err(error) => {
            eprintln!("[supervisor] cannot start: {error}");
            ExitCode::from(EXIT_NOT_STARTED)
        }
    }
}

struct Supervisor {
    machine: Machine,
    running: Vec<RunningService>,
    /// The port of an app's program; `None` is the built-in app.
    app_port: Option<u16>,
    /// The services whose readiness link is no longer read.
    link_done: [bool; Service::ALL.len()],
    signals: SignalFd,
    out: OutputWriter,
    err: OutputWriter,
    _blocked_ipv6: Option<OwnedFd>,
}

/// The source of a wake-up of the loop.
#[derive(Clone, Copy)]
enum WakeSource {
    Signals,
    Link(usize),
    Out(usize),
    Err(usize),
    Writer,
}

impl Supervisor {
    fn start(layout: &Layout, container: &Variables) -> io::Result<Self> {
        if !geteuid().is_root() {
            return Err(io::Error::other(
                "it must start as root, because it changes to the users of the services",
            ));
        }
        let app = app::read(container, &layout.secrets)?;
        let services: &[Service] = if app.is_some() { &Service::WITH_APP } else { &Service::ALL };
        let reserved = privilege_drop::reserve_fds()?;
        // PID 1 inherits orphans anyway; in tests this process is not PID 1.
        set_child_subreaper(true)?;
        let signals = watch_signals()?;
        let out = OutputWriter::new(set_nonblocking(io::stdout().as_fd().try_clone_to_owned()?)?);
        let err = OutputWriter::new(set_nonblocking(io::stderr().as_fd().try_clone_to_owned()?)?);
        let blocked = sockets::block_ipv6(layout.public.port());
        // The program of an app opens its own port.
        let is_app = |service: Service| app.is_some() && service == Service::PlatformFront;
        let opened: Vec<_> = services
            .iter()
            .map(|service| {
                let none = is_app(*service).then(Vec::new);
                let listeners = none.map_or_else(|| spawn::open_listeners(*service, layout), Ok)?;
                Ok((*service, listeners))
            })
            .collect::<io::Result<_>>()?;
        let mut running = Vec::with_capacity(services.len());
        for (service, listeners) in opened {
            let started = match &app {
                Some(app) if is_app(service) => {
                    spawn::spawn_app(app, layout, container, err.pipe.as_fd())
                }
                Some(_) | None => {
                    spawn::spawn(service, layout, listeners, container, err.pipe.as_fd())
                }
            };
            match started {
                Ok(started) => running.push(started),
                Err(why) => {
                    running.iter().for_each(|started| signal(started, Signal::SIGKILL));
                    return Err(io::Error::other(format!("{}: {why}", service.name())));
                }
            }
        }
        files::spawn(layout, err.pipe.as_fd()).map_err(|why| {
            running.iter().for_each(|started| signal(started, Signal::SIGKILL));
            io::Error::other(format!("file server: {why}"))
        })?;
        privilege_drop::keep_only_cap_kill()
            .map_err(|why| io::Error::other(format!("cannot drop its privileges: {why}")))?;
        drop(reserved);
        let (machine, link_done) = (Machine::new(services), [false; Service::ALL.len()]);
        let app_port = app.map(|app| app.port);
        Ok(Self {
            machine,
            running,
            app_port,
            link_done,
            signals,
            out,
            err,
            _blocked_ipv6: blocked,
        })
    }

    /// Runs until the state machine orders the exit; returns the exit code.
    fn run_loop(&mut self) -> u8 {
        loop {
            let woken = match self.wait() {
                Ok(woken) => woken,
                Err(Errno::EINTR) => Vec::new(),
                Err(error) => {
                    self.err.log(&format!("poll failed: {error}"));
                    return EXIT_NOT_STARTED;
                }
            };
            let events: Vec<_> =
                woken.into_iter().flat_map(|source| self.handle_source(source)).collect();
            let mut actions: Vec<_> =
                events.into_iter().flat_map(|event| self.machine.handle(event, now())).collect();
            actions.extend(self.machine.tick(now()));
            if let Some(code) = actions.into_iter().find_map(|action| self.perform(action)) {
                return code;
            }
            self.out.flush();
            self.err.flush();
        }
    }

    /// Waits for the next wake-up. While a writer is full, the streams that feed it are not read.
    fn wait(&self) -> Result<Vec<WakeSource>, Errno> {
        let mut polled = vec![(WakeSource::Signals, self.signals.as_fd(), PollFlags::POLLIN)];
        for (index, running) in self.running.iter().enumerate() {
            if !self.link_done[index] {
                polled.push((WakeSource::Link(index), running.link.as_fd(), PollFlags::POLLIN));
            }
            if let Some(pipe) = running.out.pipe.as_ref().filter(|_| !self.out.is_full()) {
                polled.push((WakeSource::Out(index), pipe.as_fd(), PollFlags::POLLIN));
            }
            if let Some(pipe) = running.err.pipe.as_ref().filter(|_| !self.err.is_full()) {
                polled.push((WakeSource::Err(index), pipe.as_fd(), PollFlags::POLLIN));
            }
        }
        for writer in [&self.out, &self.err].into_iter().filter(|writer| !writer.is_empty()) {
            polled.push((WakeSource::Writer, writer.pipe.as_fd(), PollFlags::POLLOUT));
        }
        let mut fds: Vec<_> =
            polled.iter().map(|(_, fd, flags)| PollFd::new(*fd, *flags)).collect();
        poll(&mut fds, self.poll_timeout())?;
        let woken = polled.iter().zip(&fds).filter(|(_, fd)| fd.any().unwrap_or(true));
        Ok(woken.map(|((source, ..), _)| *source).collect())
    }

    fn poll_timeout(&self) -> PollTimeout {
        let Some(at) = self.machine.deadline() else { return PollTimeout::NONE };
        // One millisecond more than the remaining whole ones, so that the loop does not wake just
        // before the deadline.
        let left = at.saturating_duration_since(now()) + Duration::from_millis(1);
        PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX)
    }

    fn handle_source(&mut self, source: WakeSource) -> Vec<Event> {
        match source {
            WakeSource::Signals => self.take_signals(),
            WakeSource::Link(index) => self.read_link(index).into_iter().collect(),
            WakeSource::Out(index) => {
                self.running[index].out.read_available(&mut self.out);
                Vec::new()
            }
            WakeSource::Err(index) => {
                self.running[index].err.read_available(&mut self.err);
                Vec::new()
            }
            WakeSource::Writer => Vec::new(),
        }
    }

    fn read_link(&mut self, index: usize) -> Option<Event> {
        let mut message = [0; link::MAX_BYTES];
        match self.running[index].link.recv(&mut message) {
            Ok(length) if message[..length] == *link::READY => {
                self.link_done[index] = true;
                Some(Event::Ready(self.running[index].service))
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => None,
            // A report of the probe, an unknown message, or a closed link: SIGCHLD reports the end of the service.
            Ok(length) => {
                self.link_done[index] = length == 0;
                let describe = |port| probe::describe_report(&message[..length], port);
                if let Some(line) = self.app_port.and_then(describe) {
                    self.err.log(&line);
                }
                None
            }
            Err(_) => {
                self.link_done[index] = true;
                None
            }
        }
    }

    fn take_signals(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        while let Ok(Some(info)) = self.signals.read_signal() {
            if i32::try_from(info.ssi_signo) == Ok(Signal::SIGCHLD as i32) {
                events.extend(self.reap_services());
            } else {
                events.push(Event::Stop);
            }
        }
        events
    }

    /// Reaps every ended child. The last lines of a service precede the log line of its end.
    fn reap_services(&mut self) -> Vec<Event> {
        let mut events = Vec::new();
        for (pid, reason) in reaper::reap() {
            let ours = |running: &&mut RunningService| {
                running.pid == pid && self.machine.is_alive(running.service)
            };
            let Some(running) = self.running.iter_mut().find(ours) else { continue };
            running.out.drain(&mut self.out);
            running.err.drain(&mut self.err);
            events.push(Event::Ended(running.service, reason));
        }
        events
    }

    fn perform(&mut self, action: Action) -> Option<u8> {
        match action {
            Action::NotifyAllReady => {
                let back = &self.running[Service::CoreBack.index()].link;
                if let Err(error) = back.send(link::ALL_READY) {
                    self.err.log(&format!("notify core-back failed: {error}"));
                }
            }
            Action::Terminate(service) => signal(&self.running[service.index()], Signal::SIGTERM),
            Action::Kill(service) => signal(&self.running[service.index()], Signal::SIGKILL),
            Action::Log(text) => self.err.log(&text),
            Action::Exit(code) => return Some(code),
        }
        None
    }

    /// Kills every other process while the listening sockets are still open. The kernel kills them
    /// too, but only after it has closed the sockets, which leaves a process the time to take the
    /// public port.
    fn kill_all_processes(&self) {
        // Outside of a container, "every process" is not the tenant's.
        if getpid() != Pid::from_raw(1) {
            return;
        }
        let everyone = Pid::from_raw(-1);
        let until = now() + EXIT_TIMEOUT;
        while kill(everyone, Signal::SIGKILL).is_ok() && now() < until {
            reaper::reap();
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    fn flush_output(&mut self) {
        for running in &mut self.running {
            running.out.drain(&mut self.out);
            running.err.drain(&mut self.err);
        }
        let until = now() + EXIT_TIMEOUT;
        for writer in [&mut self.out, &mut self.err] {
            writer.flush();
            while !writer.is_empty() && now() < until {
                let mut fds = [PollFd::new(writer.pipe.as_fd(), PollFlags::POLLOUT)];
                let _ = poll(&mut fds, PollTimeout::from(10_u8));
                writer.flush();
            }
        }
    }
}

/// Signals the service and every process of its group.
fn signal(running: &RunningService, signal: Signal) {
    if killpg(running.pid, signal).is_err() {
        // The group has ended; SIGCHLD will report it.
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
    reason = "the shell reads the clock; the state machine receives the time"
)]
fn now() -> Instant {
    Instant::now()
}
