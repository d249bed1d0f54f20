//! Instructions per request, counted by callgrind. The count is the same on a busy machine as on a
//! quiet one.

use std::path::Path;

use anyhow::{Context as _, Result};

use super::Target;
use super::proxies::{Kind, Peer, Setup};
use crate::figure::Figure;

const PEERS: [(Kind, &str); 4] = [
    (Kind::Router, "instructions, router"),
    (Kind::Nginx, "instructions, nginx"),
    (Kind::Haproxy, "instructions, haproxy"),
    (Kind::BareNginx, "instructions, nginx that only forwards"),
];
const BAR: f64 = 0.70;
/// Two runs of different length: both contain the cost of start and end, which cancels out.
const RUNS: [u64; 2] = [1_000, 6_000];

pub(super) fn measure(setup: &Setup<'_>) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (kind, name) in PEERS {
        let [few, many] = RUNS;
        let counted = count(kind, setup, many)? - count(kind, setup, few)?;
        figures.push(Figure::new(name, counted / (many - few) as f64, ""));
    }
    let ratio = figures[0].value / figures[1].value;
    figures.push(Figure::new("instructions, router / nginx", ratio, "").bar(BAR));
    Ok(figures)
}

/// Counts the user instructions of a process from start to end, in which the process serves
/// `requests`.
fn count(kind: Kind, setup: &Setup<'_>, requests: u64) -> Result<f64> {
    let out = setup.folder.join(format!("callgrind-{}-{requests}", kind.name()));
    let file = format!("--callgrind-out-file={}", out.display());
    let tool = ["valgrind", "--quiet", "--tool=callgrind", &file].map(str::to_owned);
    let peer = Peer::start(kind, setup, None, &tool)?;
    setup.load(None, Target::Port(peer.port), "/600", &["--requests", &requests.to_string()])?;
    peer.process.end()?;
    total(&out)
}

fn total(out: &Path) -> Result<f64> {
    let text = std::fs::read_to_string(out).context("callgrind left no figures")?;
    let sum = text.lines().find_map(|line| line.strip_prefix("totals: "));
    Ok(sum.context("callgrind tells no total")?.trim().parse()?)
}
