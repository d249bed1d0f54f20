//! Starts one service with its user, its descriptors and its environment.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use nix::unistd::Pid;
use protocol::inside::{self, supervisor_commands};
use protocol::process::AppProcess;

use crate::environment::{self, Variables};
use crate::output::{OutputStream, set_nonblocking};
use crate::services::{Layout, Service};
use crate::{app, hooks, privilege_drop, sockets};

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

impl RunningService {
    fn new(
        service: Service,
        pid: Pid,
        link: UnixDatagram,
        out: OutputStream,
        err: OutputStream,
        listeners: Vec<OwnedFd>,
    ) -> io::Result<Self> {
        link.set_nonblocking(true)?;
        Ok(Self { service, pid, link, out, err, _listeners: listeners })
    }
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
    let mut inherited: Vec<_> = listeners.iter().map(OwnedFd::as_fd).collect();
    inherited.push(theirs.as_fd());
    let arguments = service.arguments();
    let mut command = Command::new(service.program(layout));
    command.arg0(arguments[0]).args(&arguments[1..]).env_clear().envs(environment::build(
        service.zone(),
        container,
        inherited.len(),
    ));
    let (pid, out, err) = start(command, "/", service, &inherited, errors)?;
    RunningService::new(service, pid, link, out, err, listeners)
}

/// Starts the program of an app in the place of platform-front, and its probe. Where hooks are due, or were, this program
/// itself starts the app: it ends what the hooks began, and then becomes the app's program.
///
/// # Errors
/// When a process cannot be started; the error names the program.
pub fn spawn_app(
    app: &AppProcess,
    layout: &Layout,
    container: &Variables,
    errors: BorrowedFd<'_>,
) -> io::Result<RunningService> {
    let service = Service::PlatformFront;
    let (link, theirs) = UnixDatagram::pair()?;
    let program = &app.command[0];
    let variables = environment::build_for_app(app, container);
    let place = &app.working_dir;
    let started = if app.hooks.is_empty() && !has_hook_state(layout)? {
        let mut command = Command::new(program);
        command.args(&app.command[1..]).env_clear().envs(variables);
        start(command, place, service, &[], errors)
    } else {
        let mut command = Command::new(std::env::current_exe()?);
        command.arg(supervisor_commands::START).arg(&layout.files_dir);
        // Without it, the copy of the files before a hook has the bounds of the disk alone.
        command.args(app::read_disk_share(&layout.secrets)?);
        command.env_clear().envs(variables);
        command.env(inside::START_APP, hooks::describe(app));
        // The working folder may be one that a hook took away, and that comes back.
        start(command, "/", service, &[], errors)
    };
    let (pid, out, err) = started.map_err(|why| {
        io::Error::new(why.kind(), format!("{program} cannot be started in {place}: {why}"))
    })?;
    app::spawn_probe(app, theirs, errors)?;
    RunningService::new(service, pid, link, out, err, Vec::new())
}

/// Whether the tenant's files, which belong to the user of the app, remember hooks of this release or an earlier one.
fn has_hook_state(layout: &Layout) -> io::Result<bool> {
    let agent = Service::PlatformFront.zone().account();
    let _ids = sockets::EffectiveIds::assume(agent, agent)?;
    Ok(layout.files_dir.join(inside::HOOK_STATE_DIR).symlink_metadata().is_ok())
}

/// Starts a program in `directory` as the user of the service, with these descriptors and with
/// pipes for its output.
fn start(
    mut command: Command,
    directory: &str,
    service: Service,
    inherited: &[BorrowedFd<'_>],
    errors: BorrowedFd<'_>,
) -> io::Result<(Pid, OutputStream, OutputStream)> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let steps = privilege_drop::drop_steps(service.zone().account(), inherited);
    privilege_drop::install(&mut command, steps, errors);
    privilege_drop::enter_afterwards(&mut command, CString::new(directory)?);
    // Dropping the handle does not wait for the child: only the reaper waits.
    let child = command.spawn()?;
    let pid = i32::try_from(child.id()).map_err(io::Error::other)?;
    let (Some(out), Some(err)) = (child.stdout, child.stderr) else {
        return Err(io::Error::other("the child has no pipes"));
    };
    let out = OutputStream::new(service.name(), set_nonblocking(out.into())?);
    let err = OutputStream::new(service.name(), set_nonblocking(err.into())?);
    Ok((Pid::from_raw(pid), out, err))
}
