//! CPU time per request, peers by turns, everything on one CPU. No peer's time then depends on how
//! often an idle CPU had to wake.

use anyhow::Result;

use super::Target;
use super::proxies::{Kind, Peer, Setup};
use super::rounds::{column, order, ratios};
use crate::figure::Figure;

pub(super) struct Row {
    pub(super) peers: &'static [Kind],
    pub(super) path: &'static str,
    /// Names of the figure for each peer, in the order of `peers`.
    pub(super) each: &'static [&'static str],
    pub(super) ratio: &'static str,
    /// Indices in `peers` of the rivals; the best of them is the reference.
    pub(super) against: &'static [usize],
    pub(super) bar: f64,
}

pub(super) const SMALL: Row = Row {
    peers: &[Kind::Router, Kind::Nginx, Kind::Haproxy, Kind::BareNginx],
    path: "/600",
    each: &[
        "600 B, router, CPU",
        "600 B, nginx, CPU",
        "600 B, haproxy, CPU",
        "600 B, nginx that only forwards, CPU",
    ],
    ratio: "600 B, router / nginx",
    against: &[1],
    bar: 0.95,
};

pub(super) const LARGE: Row = Row {
    peers: &[Kind::Router, Kind::TunedNginx, Kind::TunedHaproxy, Kind::Nginx],
    path: "/65536",
    each: &[
        "64 KiB, router, CPU",
        "64 KiB, tuned nginx, CPU",
        "64 KiB, tuned haproxy, CPU",
        "64 KiB, nginx by default, CPU",
    ],
    ratio: "64 KiB, router / the better tuned",
    against: &[1, 2],
    bar: 0.95,
};

const MILLISECONDS: &str = "1000";
const WARM_UP: &str = "200";

impl Row {
    pub(super) fn measure(
        &self,
        setup: &Setup<'_>,
        cpu: usize,
        rounds: usize,
    ) -> Result<Vec<Figure>> {
        let start = |kind: &Kind| Peer::start(*kind, setup, Some(cpu), &[]);
        let peers: Vec<_> = self.peers.iter().map(start).collect::<Result<_>>()?;
        let mut seen = Vec::with_capacity(rounds);
        for round in 0..rounds {
            let mut costs = vec![f64::NAN; peers.len()];
            for place in order(round, peers.len()) {
                costs[place] = cost(setup, &peers[place], self.path, cpu)?;
            }
            seen.push(costs);
        }
        for peer in peers {
            peer.process.end()?;
        }
        Ok(self.figures(&seen))
    }

    fn figures(&self, seen: &[Vec<f64>]) -> Vec<Figure> {
        let each = self.each.iter().enumerate();
        let each = each.map(|(place, name)| Figure::median(name, &column(seen, place), "us"));
        let ratio = Figure::median(self.ratio, &ratios(seen, 0, self.against), "").bar(self.bar);
        each.chain([ratio]).collect()
    }
}

fn cost(setup: &Setup<'_>, peer: &Peer, path: &str, cpu: usize) -> Result<f64> {
    setup.load(Some(cpu), Target::Port(peer.port), path, &["--milliseconds", WARM_UP])?;
    of(setup, peer, path, Some(cpu), &["--milliseconds", MILLISECONDS])
}

/// Returns microseconds of CPU time per request while the load runs for `so_long`.
pub(super) fn of(
    setup: &Setup<'_>,
    peer: &Peer,
    path: &str,
    cpu: Option<usize>,
    so_long: &[&str],
) -> Result<f64> {
    let before = peer.process.cpu_time()?;
    let answered = setup.load(cpu, Target::Port(peer.port), path, so_long)?;
    let used = peer.process.cpu_time()?.saturating_sub(before);
    Ok(used.as_secs_f64() * 1e6 / answered.completed)
}
