//! Starts one service with its user, its descriptors and its environment.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::unistd::Pid;

use crate::environment::{self, Variables};
use crate::output::{OutputStream, set_nonblocking};
use crate::services::{Layout, Service};
use crate::{privilege_drop, sockets};

/// A started service.
#[derive(Debug)]
pub struct RunningService {
    pub service: Service,
    pub pid: Pid,
    /// PID 1's end of the readiness link, over which the service reports that it accepts
    /// connections.
    pub link: UnixDatagram,
    pub out: OutputStream,
    pub err: OutputStream,
    /// Kept open, so that no other process can listen there after the service has ended.
    _listeners: Vec<OwnedFd>,
}

/// Opens the listening sockets of a service. All are opened before the first service starts.
///
/// # Errors
/// When a socket cannot be opened; the error names its address.
pub fn open_listeners(service: Service, layout: &Layout) -> io::Result<Vec<OwnedFd>> {
    let opened = service.listeners(layout).into_iter();
    opened.filter_map(|listener| sockets::open(&listener).transpose()).collect()
}

/// Starts a service. A failure between fork and exec is written to `errors`.
///
/// # Errors
/// When the process cannot be started.
pub fn spawn(
    service: Service,
    layout: &Layout,
    listeners: Vec<OwnedFd>,
    container: &Variables,
    errors: BorrowedFd<'_>,
) -> io::Result<RunningService> {
    let (link, theirs) = UnixDatagram::pair()?;
    link.set_nonblocking(true)?;
    let mut inherited: Vec<_> = listeners.iter().map(OwnedFd::as_fd).collect();
    inherited.push(theirs.as_fd());
    let arguments = service.arguments();
    let mut command = Command::new(service.program(layout));
    command
        .arg0(arguments[0])
        .args(&arguments[1..])
        .env_clear()
        .envs(environment::build(service.zone(), container, inherited.len()))
        .current_dir("/")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .process_group(0);
    let steps = privilege_drop::drop_steps(service.zone().account(), &inherited);
    privilege_drop::install(&mut command, steps, errors);
    // Dropping the handle does not wait for the child: only the reaper waits.
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (Some(out), Some(err)) = (child.stdout, child.stderr) else {
        return Err(io::Error::other("the child has no pipes"));
    };
    Ok(RunningService {
        service,
        pid: Pid::from_raw(pid),
        link,
        out: OutputStream::new(service.name(), set_nonblocking(out.into())?),
        err: OutputStream::new(service.name(), set_nonblocking(err.into())?),
        _listeners: listeners,
    })
}
