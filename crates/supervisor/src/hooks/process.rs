//! The process of one hook: its time, its end, and the end of what it leaves behind.

use std::cell::Cell;
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal, killpg};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use nix::unistd::Pid;

use crate::machine::ExitReason;

/// The time that a hook has to end after the signal.
const GRACE: Duration = Duration::from_secs(5);

/// The signals that this process reads while hooks run: the end of a hook, and the request of PID 1 to stop.
pub(super) struct Signals {
    descriptor: SignalFd,
    stop_requested: Cell<bool>,
}

impl Signals {
    pub(super) fn block() -> io::Result<Self> {
        let mut signals = SigSet::from(Signal::SIGCHLD);
        signals.add(Signal::SIGTERM);
        signals.thread_block()?;
        let flags = SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK;
        let descriptor = SignalFd::with_flags(&signals, flags)?;
        Ok(Self { descriptor, stop_requested: Cell::new(false) })
    }

    pub(super) fn is_stop_requested(&self) -> bool {
        self.take();
        self.stop_requested.get()
    }

    /// Takes the signals that arrived; returns whether one of them is a request to stop.
    fn take(&self) -> bool {
        let mut stops = false;
        while let Ok(Some(signal)) = self.descriptor.read_signal() {
            stops |= i32::try_from(signal.ssi_signo) == Ok(Signal::SIGTERM as i32);
        }
        self.stop_requested.set(self.stop_requested.get() || stops);
        stops
    }

    /// Waits for a signal. An interrupted wait ends like any other.
    fn wait(&self, longest: Duration) {
        let timeout = PollTimeout::try_from(longest).unwrap_or(PollTimeout::MAX);
        let _ = poll(&mut [PollFd::new(self.descriptor.as_fd(), PollFlags::POLLIN)], timeout);
    }
}

/// Runs a hook to its end, in a process group of its own: none of the processes that it leaves there runs beside the program.
pub(super) fn run(mut command: Command, seconds: u32, signals: &Signals) -> Result<(), String> {
    let spawned = command.stdin(Stdio::null()).process_group(0).spawn();
    let program = || command.get_program().display();
    let mut child =
        spawned.map_err(|error| format!("cannot be started: {}: {error}", program()))?;
    let ended = i32::try_from(child.id()).map_err(io::Error::other).and_then(|pid| {
        let group = Pid::from_raw(pid);
        let ended = wait(&mut child, group, Duration::from_secs(seconds.into()), signals);
        // Most groups are empty by now.
        let _ = killpg(group, Signal::SIGKILL);
        ended
    });
    match ended.map_err(|error| error.to_string())? {
        // A program that ends well when it is told to may have left its work undone.
        Some(_) if signals.stop_requested.get() => Err("was stopped".to_owned()),
        Some(status) if status.success() => Ok(()),
        Some(status) => Err(ExitReason::from(status).to_string()),
        None => Err(format!("took longer than {seconds} s")),
    }
}

/// Waits for the end of a hook, which receives each request to stop; `None` when its time came first.
fn wait(
    child: &mut Child,
    group: Pid,
    time: Duration,
    signals: &Signals,
) -> io::Result<Option<ExitStatus>> {
    let (mut until, mut is_late) = (now() + time, false);
    loop {
        if signals.take() {
            let _ = killpg(group, Signal::SIGTERM);
        }
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status).filter(|_| !is_late));
        }
        let left = until.saturating_duration_since(now());
        if left.is_zero() {
            let signal = if is_late { Signal::SIGKILL } else { Signal::SIGTERM };
            let _ = killpg(group, signal);
            (until, is_late) = (now() + GRACE, true);
            continue;
        }
        signals.wait(left);
    }
}

#[expect(clippy::disallowed_methods, reason = "a shell: hooks have no state machine")]
fn now() -> Instant {
    Instant::now()
}
