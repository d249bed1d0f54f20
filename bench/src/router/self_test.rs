//! Tests that the harness distinguishes good from bad. A relay that sleeps must be reported as
//! slow. A relay that computes must be reported as expensive and miss a bar.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::cost::Row;
use super::proxies::{Kind, Peer};
use super::{Target, ToolProgram, cost, latency, process, with_setup};
use crate::print_line;

const SLEEP_US: u64 = 1_000;
const SPIN: u64 = 1_000_000;
/// The least difference from the relay that sleeps to the relay that does not.
const LEAST_US: f64 = 500.0;
/// Comparisons of these two on a machine that is busy all the while.
const TRIES: usize = 30;
/// Far below the capacity of both relays.
const RATE: u32 = 500;
const MILLISECONDS: u32 = 500;
/// The relay that computes takes the router's place.
const BAD: Row = Row {
    peers: &[Kind::Relay { sleep_us: 0, spin: SPIN }, Kind::Relay { sleep_us: 0, spin: 0 }],
    path: "/600",
    each: &["600 B, who computes, CPU", "600 B, who does not, CPU"],
    ratio: "600 B, who computes / who does not",
    against: &[1],
    bar: 0.95,
};
const ROUNDS: usize = 1;

/// Takes a few seconds. An error means that no figure of the harness can be trusted.
pub(crate) fn self_test() -> Result<()> {
    with_setup(None, Path::new("/nonexistent"), &ToolProgram::own()?, |setup, _| {
        let start = |sleep_us, spin| Peer::start(Kind::Relay { sleep_us, spin }, setup, None, &[]);
        let (good, slow, dear) = (start(0, 0)?, start(SLEEP_US, 0)?, start(0, SPIN)?);
        let direct = latency::ask(setup, Target::Socket(setup.socket), None, (RATE, MILLISECONDS))?;
        let through = |peer: &Peer| {
            let seen = latency::ask(setup, Target::Port(peer.port), None, (RATE, MILLISECONDS))?;
            let (name, p50) = (peer.kind.name(), seen.p50_us);
            print_line(format_args!("{name}: p50 {p50:.0} us, {:.0} us without it", direct.p50_us));
            Ok::<_, anyhow::Error>(p50)
        };
        // A relay that sleeps for a millisecond takes at least that long on any machine, and longer
        // than one without a sleep, unless a busy machine delayed just that one.
        let mut is_told_apart = false;
        for _ in 0..TRIES {
            let (fast, slow) = (through(&good)?, through(&slow)?);
            ensure!(slow >= SLEEP_US as f64, "the sleeper came out fast");
            is_told_apart = slow - fast >= LEAST_US;
            if is_told_apart {
                break;
            }
        }
        ensure!(is_told_apart, "the relay that does not sleep came out slow");
        let few = &["--requests", "100"];
        let (cheap, dear) = (
            cost::of(setup, &good, "/600", None, few)?,
            cost::of(setup, &dear, "/600", None, few)?,
        );
        print_line(format_args!("CPU per request: {cheap:.0} us, {dear:.0} us where it computes"));
        ensure!(dear > 2.0 * cheap, "the relay that computes came out cheap");
        // Measures and judges the relay like the router.
        let figures = BAD.measure(setup, process::cpus()?.1, ROUNDS)?;
        figures.iter().for_each(print_line);
        let ratio = figures.last().context("no figure")?;
        ensure!(ratio.bar.is_some() && !ratio.holds(), "the relay that computes misses no bar");
        Ok(())
    })
}
