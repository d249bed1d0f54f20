//! The only place that waits for processes. PID 1 inherits every orphan: those are reaped here as well.

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::machine::Death;

/// Reaps all that have ended, ours or not, and says who.
pub fn reap() -> Vec<(Pid, Death)> {
    let mut dead = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => dead.push((pid, Death::Exit(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                dead.push((pid, Death::Signal(signal as i32)));
            }
            Err(Errno::EINTR)
            | Ok(
                WaitStatus::Stopped(..)
                | WaitStatus::Continued(_)
                | WaitStatus::PtraceEvent(..)
                | WaitStatus::PtraceSyscall(_),
            ) => {}
            Ok(WaitStatus::StillAlive) | Err(_) => return dead,
        }
    }
}
