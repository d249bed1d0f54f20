//! The program of an app, which replaces the two services of the built-in app.

use std::path::Path;
use std::{fs, io};

use nix::unistd::Pid;
use protocol::inside;
use protocol::process::AppProcess;
use protocol::variables::Variables as TenantVariables;

use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixDatagram;
use std::os::unix::process::CommandExt as _;
use std::process::{Command, Stdio};

use crate::environment::Variables;
use crate::privilege_drop;
use crate::services::Zone;
use crate::sockets::EffectiveIds;

/// The argument with which PID 1 starts itself as a probe.
pub const PROBE: &str = "probe";

/// Reads the program of the app from the container's variables, and the tenant's own variables and the URL of its database
/// from files of the directory `secrets`; `None` is the built-in app.
///
/// # Errors
/// The variable holds no program, or a file is not readable.
pub fn read(container: &Variables, secrets: &Path) -> io::Result<Option<AppProcess>> {
    let Some(mut app) = parse(container)? else { return Ok(None) };
    let variables = read_secret(&secrets.join(inside::APP_VARIABLES), |text| {
        serde_json::from_slice::<TenantVariables>(&text).map_err(io::Error::other)
    })?;
    app.env.extend(variables.into_iter().flatten().map(|(name, own)| (name, own.value)));
    let url = read_secret(&secrets.join(inside::DATABASE_URL_FILE), |text| {
        String::from_utf8(text).map_err(io::Error::other)
    })?;
    if let Some(url) = url {
        // A release or a tenant that names another database keeps it.
        app.env.entry(inside::DATABASE_URL.to_owned()).or_insert(url);
    }
    Ok(Some(app))
}

/// Reads the program of the app from the container's variables alone; `None` is the built-in app.
///
/// # Errors
/// The variable holds no program.
pub fn parse(container: &Variables) -> io::Result<Option<AppProcess>> {
    let variable = container.iter().find(|(name, _)| name == inside::APP_PROCESS);
    let Some((_, json)) = variable else { return Ok(None) };
    let read = serde_json::from_slice::<AppProcess>(json.as_encoded_bytes());
    let app = read.map_err(|why| io::Error::other(format!("{}: {why}", inside::APP_PROCESS)))?;
    if app.command.is_empty() {
        return Err(io::Error::other(format!("{} names no program", inside::APP_PROCESS)));
    }
    Ok(Some(app))
}

/// Reads the tenant's share of the disk, a [`DiskShare`](protocol::files::DiskShare) as JSON. `None` under an orchestrator that
/// writes none.
///
/// # Errors
/// The file is not readable.
pub fn read_disk_share(secrets: &Path) -> io::Result<Option<String>> {
    read_secret(&secrets.join(inside::DISK_SHARE), |text| {
        String::from_utf8(text).map_err(io::Error::other)
    })
}

/// Reads a file that belongs to the core's account, because PID 1 has no capability to read files of others. `None` where
/// there is no such file.
fn read_secret<T>(
    path: &Path,
    parse: impl FnOnce(Vec<u8>) -> io::Result<T>,
) -> io::Result<Option<T>> {
    let text = {
        let core = Zone::Core.account();
        let _ids = EffectiveIds::assume(core, core)?;
        fs::read(path)
    };
    match text {
        Ok(text) => parse(text).map(Some),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
    .map_err(|why| io::Error::new(why.kind(), format!("{}: {why}", path.display())))
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
