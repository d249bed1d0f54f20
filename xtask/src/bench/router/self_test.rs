//! Whether the harness can tell good from bad: a relay that sleeps must come out slow, one that computes must come
//! out dear, and miss a bar.

use std::path::Path;

use anyhow::{Context as _, Result, ensure};

use super::cost::Row;
use super::peer::{Kind, Peer};
use super::{Target, Tools, cost, latency, on_site, process};
use crate::world;

const SLEEP_US: u64 = 1_000;
const SPIN: u64 = 1_000_000;
/// Between the sleeper and who does not sleep.
const LEAST_US: f64 = 500.0;
/// Far below what either could do.
const RATE: u32 = 500;
const MILLISECONDS: u32 = 500;
/// The one that computes in the router's place.
const BAD: Row = Row {
    peers: &[Kind::Relay { sleep_us: 0, spin: SPIN }, Kind::Relay { sleep_us: 0, spin: 0 }],
    path: "/600",
    each: &["600 B, who computes, CPU", "600 B, who does not, CPU"],
    ratio: "600 B, who computes / who does not",
    against: &[1],
    bar: 0.95,
};
const ROUNDS: usize = 1;

/// A few seconds. An error is a harness that nobody should believe.
pub(crate) fn self_test() -> Result<()> {
    on_site(None, Path::new("/nonexistent"), &Tools::own()?, |site, _| {
        let start = |sleep_us, spin| Peer::start(Kind::Relay { sleep_us, spin }, site, None, &[]);
        let (good, slow, dear) = (start(0, 0)?, start(SLEEP_US, 0)?, start(0, SPIN)?);
        let direct = latency::ask(site, Target::Socket(site.socket), None, (RATE, MILLISECONDS))?;
        let through = |peer: &Peer| {
            let seen = latency::ask(site, Target::Port(peer.port), None, (RATE, MILLISECONDS))?;
            let (name, p50) = (peer.kind.name(), seen.p50_us);
            world::say(format_args!("{name}: p50 {p50:.0} us, {:.0} us without it", direct.p50_us));
            Ok::<_, anyhow::Error>(p50)
        };
        let (fast, sleepy) = (through(&good)?, through(&slow)?);
        // What sleeps for a millisecond takes one at the least, on any machine, and much of it beside who does not.
        ensure!(sleepy >= SLEEP_US as f64, "the sleeper came out fast");
        ensure!(sleepy - fast >= LEAST_US, "who does not sleep came out as slow");
        let few = &["--requests", "100"];
        let (cheap, dear) =
            (cost::of(site, &good, "/600", None, few)?, cost::of(site, &dear, "/600", None, few)?);
        world::say(format_args!("CPU per request: {cheap:.0} us, {dear:.0} us where it computes"));
        ensure!(dear > 2.0 * cheap, "who computes came out cheap");
        // As the router is measured and judged.
        let figures = BAD.measure(site, process::cpus()?.1, ROUNDS)?;
        figures.iter().for_each(world::say);
        let ratio = figures.last().context("no figure")?;
        ensure!(ratio.bar.is_some() && !ratio.holds(), "who computes misses no bar");
        Ok(())
    })
}
