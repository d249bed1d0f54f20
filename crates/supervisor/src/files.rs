//! The file server of the tenant: this program again, as the user `agent`, behind a socket that the core's account alone
//! may reach.
//!
//! It is no service: a tenant serves its visitors without it, and what the app's programs do to it, they do to their own
//! files. core-back reports to its callers when it is gone.

use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};

use nix::sys::prctl::set_pdeathsig;
use nix::sys::signal::Signal;
use protocol::inside;

use crate::services::{Layout, Listener, Zone};
use crate::{privilege_drop, sockets};

/// The argument with which PID 1 starts itself as the file server.
pub const FILES: &str = "files";

/// Serves the files below the directory that the arguments name, until PID 1 ends. Standard input is the listening socket.
pub fn run(arguments: &[String]) -> ExitCode {
    // It holds nothing that must be brought to an end.
    if set_pdeathsig(Signal::SIGKILL).is_err() {
        return ExitCode::FAILURE;
    }
    let top = arguments.first().map_or(inside::FILES_DIR, String::as_str);
    let Ok(listener) = io::stdin().as_fd().try_clone_to_owned() else { return ExitCode::FAILURE };
    tenant_files::serve(&UnixListener::from(listener), Path::new(top));
    ExitCode::SUCCESS
}

/// Opens the socket and starts the file server. PID 1 keeps no end of the socket: once the server is gone, a connection is
/// refused at once.
///
/// # Errors
/// When the socket cannot be opened or the process cannot be started.
pub fn spawn(layout: &Layout, errors: BorrowedFd<'_>) -> io::Result<()> {
    let listener = sockets::open(&Listener::Unix(layout.files.clone()))?;
    let listener = listener.ok_or_else(|| io::Error::other("the file server has no socket"))?;
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg(FILES)
        .arg(&layout.files_dir)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(listener))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let steps = privilege_drop::drop_steps(Zone::Platform.account(), &[]);
    privilege_drop::install(&mut command, steps, errors);
    // Dropping the handle does not wait for the child: the reaper takes it for an orphan.
    drop(command.spawn()?);
    Ok(())
}
