//! Ports on loopback: checks whether a port is free, finds its holder otherwise, and finds free
//! ports.

use std::net::{Ipv4Addr, TcpListener};

use anyhow::{Context as _, Result};
use listeners::Protocol;

pub(super) fn is_free(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok()
}

/// Finds ports that are free now. Each stays reserved until all are known.
pub(super) fn find_free() -> Result<[u16; 3]> {
    let bind = || TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).context("no port is free");
    let listeners = [bind()?, bind()?, bind()?];
    let [first, second, third] = listeners.each_ref().map(TcpListener::local_addr);
    Ok([first?.port(), second?.port(), third?.port()])
}

/// Names the process that listens on a port, as far as this user may see it: `nginx (pid 123)`.
pub(super) fn holder(port: u16) -> Option<String> {
    let process = listeners::get_process_by_port(port, Protocol::TCP).ok()?;
    Some(format!("{} (pid {})", process.name, process.pid))
}

#[test]
fn the_holder_of_a_port_is_named() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    assert!(!is_free(port));
    let holder = holder(port).unwrap();
    assert!(holder.contains(&format!("pid {}", std::process::id())), "{holder}");
}
