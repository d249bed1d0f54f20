//! When the next request of an open loop is due, to some microseconds: the runtime's own timer knows milliseconds.

use std::time::{Duration, Instant};

use anyhow::Result;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};

use crate::now;

/// Moments at which one connection is to send. The schedule never waits for an answer: a slow one makes those after
/// it late, and late they are counted.
pub(super) type Schedule = UnboundedReceiver<Instant>;

/// Calls each of so many connections in turn, one every `interval`, until all of them are gone.
pub(super) fn start(connections: u32, interval: Duration) -> Vec<Schedule> {
    let (callers, dues): (Vec<_>, Vec<_>) = (0..connections).map(|_| unbounded_channel()).unzip();
    std::thread::spawn(move || call(&callers, interval));
    dues
}

fn call(callers: &[UnboundedSender<Instant>], interval: Duration) -> Result<()> {
    // Otherwise the kernel may let this sleep 50 us longer than it was asked to.
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
