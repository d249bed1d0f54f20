//! The only caller of `waitpid`. PID 1 inherits every orphan and reaps it here as well.

use nix::errno::Errno;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::machine::ExitReason;

/// Reaps every ended child, services and orphans alike, and returns how each ended.
pub fn reap() -> Vec<(Pid, ExitReason)> {
    let mut dead = Vec::new();
    loop {
        match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => dead.push((pid, ExitReason::Exit(code))),
            Ok(WaitStatus::Signaled(pid, signal, _)) => {
                dead.push((pid, ExitReason::Signal(signal as i32)));
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
