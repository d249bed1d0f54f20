//! Due times of the requests of an open loop, precise to microseconds. The runtime's own timer has
//! a resolution of milliseconds.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::now;

/// The times at which one connection sends. The schedule never waits for a response: after a slow
/// response, the next requests are late and count as late.
pub(super) type Schedule = UnboundedReceiver<Instant>;

/// Notifies the connections in turn, one every `interval`, until all of them are gone.
pub(super) fn start(connections: u32, interval: Duration) -> Vec<Schedule> {
    let (callers, dues): (Vec<_>, Vec<_>) = (0..connections).map(|_| unbounded_channel()).unzip();
    std::thread::spawn(move || call(&callers, interval));
    dues
}

fn call(callers: &[UnboundedSender<Instant>], interval: Duration) -> Result<()> {
    // Without this call, the kernel may extend each sleep by 50 us.
    nix::sys::prctl::set_timerslack(1)?;
    let mut due = now();
    loop {
        let mut heard = false;
        for caller in callers {
            let wait = due.saturating_duration_since(now());
            if !wait.is_zero() {
                std::thread::sleep(wait);
            }
            heard |= caller.send(due).is_ok();
            due += interval;
        }
        if !heard {
            return Ok(());
        }
    }
}
