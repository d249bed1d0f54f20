//! Memory of an idle WebSocket in a proxy.

use std::process::Stdio;

use anyhow::Result;
use nix::sys::resource::{Resource, getrlimit, setrlimit};

use super::process::{ChildProcess, command};
use super::proxies::{Kind, Peer, Setup};
use crate::figure::Figure;

const PEERS: [(Kind, &str); 3] = [
    (Kind::Router, "an idle WebSocket, router"),
    (Kind::Nginx, "an idle WebSocket, nginx"),
    (Kind::Haproxy, "an idle WebSocket, haproxy"),
];
const KILOBYTES: f64 = 1.5;
/// Each tunnel takes two descriptors of the proxy, and 20,000 is a usual limit.
const TUNNELS: u64 = 9_000;
const SPARE: u64 = 500;

/// Measures WebSockets that have passed one message in each direction.
pub(super) fn measure(setup: &Setup<'_>) -> Result<Vec<Figure>> {
    let tunnels = TUNNELS.min((descriptors()? - SPARE) / 2);
    let mut figures = vec![Figure::new("idle WebSockets", tunnels as f64, "")];
    for (kind, name) in PEERS {
        let figure = Figure::new(name, weight(kind, setup, tunnels)?, "KB");
        figures.push(if kind == Kind::Router { figure.bar(KILOBYTES) } else { figure });
    }
    Ok(figures)
}

/// Returns the memory of one tunnel, in thousands of bytes.
fn weight(kind: Kind, setup: &Setup<'_>, tunnels: u64) -> Result<f64> {
    let peer = Peer::start(kind, setup, None, &[])?;
    let before = peer.process.resident()?;
    let (port, tunnels_text) = (peer.port.to_string(), tunnels.to_string());
    let args = setup.tools.args(["tunnels", "--port", &port, "--connections", &tunnels_text]);
    let mut hold = command(None, args.iter().map(String::as_str));
    let mut hold =
        ChildProcess::start("tunnels", hold.stdin(Stdio::piped()).stdout(Stdio::piped()))?;
    hold.stdout_says("open")?;
    let after = peer.process.resident()?;
    drop(hold);
    peer.process.end()?;
    Ok((after - before) / 1e3 / tunnels as f64)
}

/// Raises the limit of descriptors to the maximum of this process; child processes inherit the
/// limit.
pub(super) fn descriptors() -> Result<u64> {
    let (_, most) = getrlimit(Resource::RLIMIT_NOFILE)?;
    setrlimit(Resource::RLIMIT_NOFILE, most, most)?;
    Ok(most)
}
