//! SIGINT and SIGTERM during work that must clean up: the work ends early, and the cleanup runs.

use std::sync::Once;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Result, ensure};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::iterator::Signals;

static INTERRUPTED: AtomicBool = AtomicBool::new(false);
static HANDLER: Once = Once::new();

/// Defers signals from now on: a signal ends the running child processes and makes [`check`] fail,
/// but does not end xtask.
pub(crate) fn defer() {
    HANDLER.call_once(|| {
        let Ok(mut signals) = Signals::new([SIGINT, SIGTERM]) else { return };
        std::thread::spawn(move || {
            for _ in signals.forever() {
                INTERRUPTED.store(true, Ordering::Relaxed);
                for child in children() {
                    let _ = kill(child, Signal::SIGTERM);
                }
            }
        });
    });
}

/// Forgets a signal, so that the cleanup does not end early, too.
pub(crate) fn reset() {
    INTERRUPTED.store(false, Ordering::Relaxed);
}

/// # Errors
/// A signal arrived.
pub(crate) fn check() -> Result<()> {
    ensure!(!INTERRUPTED.load(Ordering::Relaxed), "interrupted");
    Ok(())
}

/// Lists the child processes of every thread, where the system provides them.
fn children() -> Vec<Pid> {
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let lists =
        threads.filter_map(|task| std::fs::read_to_string(task.path().join("children")).ok());
    let pids = lists.flat_map(|list| {
        list.split_whitespace().filter_map(|pid| pid.parse().ok()).collect::<Vec<i32>>()
    });
    pids.map(Pid::from_raw).collect()
}
