//! The program of an app, which replaces the two services of the built-in app.

use std::io;

use nix::unistd::Pid;
use protocol::inside;
use protocol::process::AppProcess;

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::environment::Variables;
use crate::privilege_drop;
use crate::services::Zone;

/// The argument with which PID 1 starts itself as a probe.
pub const PROBE: &str = "probe";

/// Reads the program of the app from the container's variables; `None` is the built-in app.
///
/// # Errors
/// The variable holds no program.
pub fn read(container: &Variables) -> io::Result<Option<AppProcess>> {
    let variable = container.iter().find(|(name, _)| name == inside::APP_PROCESS);
    let Some((_, json)) = variable else { return Ok(None) };
    let read = serde_json::from_slice::<AppProcess>(json.as_encoded_bytes());
    let app = read.map_err(|why| io::Error::other(format!("{}: {why}", inside::APP_PROCESS)))?;
    if app.command.is_empty() {
        return Err(io::Error::other(format!("{} names no program", inside::APP_PROCESS)));
    }
    Ok(Some(app))
}

/// Starts this program again as a probe of the app's port, as the user of the app. The probe holds
/// the app's end of the readiness link, reports once, and ends; the reaper takes it for an orphan.
///
/// # Errors
/// When the process cannot be started.
pub fn spawn_probe(
    app: &AppProcess,
    link: UnixDatagram,
    errors: BorrowedFd<'_>,
) -> io::Result<Pid> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .args([PROBE, &app.port.to_string()])
        .args(&app.health_path)
        .env_clear()
        .current_dir("/")
        .stdin(Stdio::from(std::os::fd::OwnedFd::from(link)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0);
    let steps = privilege_drop::drop_steps(Zone::Platform.account(), &[]);
    privilege_drop::install(&mut command, steps, errors);
    let child = command.spawn()?;
    Ok(Pid::from_raw(i32::try_from(child.id()).map_err(io::Error::other)?))
}
