//! Starts one service on its way through the door.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use crate::environment::{self, Variables};
use crate::output::{Stream, unblock};
use crate::services::{Layout, Service};
use crate::{door, sockets};

/// A service that runs.
#[derive(Debug)]
pub struct Running {
    pub service: Service,
    pub pid: Pid,
    /// PID 1's end of the pair over which the service says that it accepts.
    pub link: UnixDatagram,
    pub out: Stream,
    pub err: Stream,
    /// Held, so that nobody can listen there when the service is gone.
    _listeners: Vec<OwnedFd>,
}

/// The listening sockets of a service, opened before any service runs.
pub fn open(service: Service, layout: &Layout) -> io::Result<Vec<OwnedFd>> {
    let opened = service.listeners(layout).into_iter();
    opened.filter_map(|listener| sockets::open(&listener).transpose()).collect()
}

/// Starts it. What goes wrong between fork and exec is told to `complaints`.
pub fn spawn(
    service: Service,
    layout: &Layout,
    listeners: Vec<OwnedFd>,
    container: &Variables,
    complaints: BorrowedFd<'_>,
) -> io::Result<Running> {
    let (link, theirs) = UnixDatagram::pair()?;
    link.set_nonblocking(true)?;
    let mut hand_over: Vec<_> = listeners.iter().map(OwnedFd::as_fd).collect();
    hand_over.push(theirs.as_fd());
    let words = service.words();
    let mut command = Command::new(service.program(layout));
    command
        .arg0(words[0])
        .args(&words[1..])
        .env_clear()
        .envs(environment::of(service.zone(), container, hand_over.len()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    door::install(&mut command, door::locks(service.zone().account(), &hand_over), complaints);
    // Dropping the handle of a child does not wait for it: that is the reaper's alone.
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (Some(out), Some(err)) = (child.stdout, child.stderr) else {
        return Err(io::Error::other("a child without its pipes"));
    };
    Ok(Running {
        service,
        pid: Pid::from_raw(pid),
        link,
        out: Stream::new(service.name(), unblock(out.into())?),
        err: Stream::new(service.name(), unblock(err.into())?),
        _listeners: listeners,
    })
}
