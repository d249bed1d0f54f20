//! The latency that a proxy adds, at a fixed rate of requests that does not wait for responses.

use anyhow::{Result, ensure};

use super::proxies::{Kind, Peer, Setup};
use super::rounds::{column, order, ratios};
use super::{LoadResult, Target};
use crate::figure::Figure;

const PEERS: [Kind; 3] = [Kind::Router, Kind::Nginx, Kind::Haproxy];
const P50: [&str; 3] = ["added p50, router", "added p50, nginx", "added p50, haproxy"];
const P99: [&str; 3] = ["added p99, router", "added p99, nginx", "added p99, haproxy"];
const BAR: f64 = 1.0;
const MILLISECONDS: u32 = 2_000;
const WARM_UP: &str = "300";

/// Requests per second.
pub(super) const RATE: u32 = 12_000;

/// Measures with the proxies on `proxies`, and the load and the backend on `others`.
pub(super) fn measure(
    setup: &Setup<'_>,
    (proxies, others): (usize, usize),
    rounds: usize,
) -> Result<Vec<Figure>> {
    let start = |kind| Peer::start(kind, setup, Some(proxies), &[]);
    let peers: Vec<_> = PEERS.into_iter().map(start).collect::<Result<_>>()?;
    let (mut p50, mut p99) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        let mut added = vec![(f64::NAN, f64::NAN); peers.len()];
        let direct = ask(setup, Target::Socket(setup.socket), Some(others), (RATE, MILLISECONDS))?;
        for place in order(round, peers.len()) {
            let seen =
                ask(setup, Target::Port(peers[place].port), Some(others), (RATE, MILLISECONDS))?;
            added[place] = (seen.p50_us - direct.p50_us, seen.p99_us - direct.p99_us);
        }
        // A stall of the whole machine during the direct requests makes the round useless for every
        // peer.
        if added.iter().all(|(_, tail)| *tail > 0.0) {
            p50.push(added.iter().map(|(middle, _)| *middle).collect::<Vec<_>>());
            p99.push(added.iter().map(|(_, tail)| *tail).collect::<Vec<_>>());
        }
    }
    for peer in peers {
        peer.process.end()?;
    }
    ensure!(!p99.is_empty(), "{RATE} requests a second: no round without a stall");
    Ok(figures(&p50, &p99, rounds))
}

/// Runs a warm-up, then the load at this rate for the given milliseconds.
pub(super) fn ask(
    setup: &Setup<'_>,
    target: Target<'_>,
    cpu: Option<usize>,
    (rate, milliseconds): (u32, u32),
) -> Result<LoadResult> {
    let (rate, so_long) = (rate.to_string(), milliseconds.to_string());
    setup.load(cpu, target, "/600", &["--rate", &rate, "--milliseconds", WARM_UP])?;
    setup.load(cpu, target, "/600", &["--rate", &rate, "--milliseconds", &so_long])
}

fn figures(p50: &[Vec<f64>], p99: &[Vec<f64>], rounds: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (names, seen) in [(P50, p50), (P99, p99)] {
        for (place, name) in names.into_iter().enumerate() {
            figures.push(Figure::median(name, &column(seen, place), "us"));
        }
    }
    let dropped = (rounds - p99.len()) as f64;
    figures.push(Figure::median("added p99, router / nginx", &ratios(p99, 0, &[1]), "").bar(BAR));
    figures.push(Figure::new("rounds dropped for a stall", dropped, ""));
    figures
}
