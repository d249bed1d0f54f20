//! Commands that a person runs in the platform half. The engine starts each as `agent`; this program, which every tenant
//! has, gives the command the environment of the app, and ends it.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use std::time::Duration;
use std::{fs, io, thread};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getpid, getsid};
use protocol::inside;

use crate::app;
use crate::environment::{self, Variables};
use crate::services::Zone;

/// The exit codes of shells for a program that is not found, and for one that cannot be started.
const NOT_FOUND: u8 = 127;
const NOT_STARTED: u8 = 126;
/// The first of these that the image has is the shell.
const SHELLS: [&str; 3] = ["bash", "sh", "ash"];
/// The time between the request to end and the kill.
const GRACE: Duration = Duration::from_secs(1);
const GRACE_STEP: Duration = Duration::from_millis(50);
/// Processes may start others while they are killed.
const MAX_KILL_ROUNDS: u32 = 20;

/// Becomes the program that `argv` names, or a shell, in the environment and the working folder of the app. Returns only
/// when that fails.
pub fn run(argv: &[String], container: &Variables) -> ExitCode {
    let (variables, directory) = match surroundings(container) {
        Ok(surroundings) => surroundings,
        Err(error) => {
            return fail(NOT_STARTED, &format!("cannot read the app's environment: {error}"));
        }
    };
    let path = variables.iter().rev().find(|(name, _)| name == "PATH");
    let path = path.map(|(_, path)| path.clone()).unwrap_or_default();
    let shell = || SHELLS.iter().find_map(|shell| find_program(shell, &path));
    let (program, arguments) = match argv.split_first() {
        Some((program, arguments)) => (PathBuf::from(program), arguments),
        None => match shell() {
            Some(shell) => (shell, [].as_slice()),
            None => {
                let why = "the image has no shell. Name a program of the image, like: cial tenants exec SLUG -- PROGRAM";
                return fail(NOT_FOUND, why);
            }
        },
    };
    let mut command = Command::new(&program);
    // The folder may be closed to the user of the app, or absent: its own home is there always.
    let directory = if fs::read_dir(&directory).is_ok() { &directory } else { Path::new("/") };
    let error = command.args(arguments).env_clear().envs(variables).current_dir(directory).exec();
    let code = if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_STARTED };
    fail(code, &format!("{} cannot be started: {error}", program.display()))
}

fn fail(code: u8, why: &str) -> ExitCode {
    eprintln!("cial: {why}");
    ExitCode::from(code)
}

/// The environment and the working folder of the app's program, for a process that the engine started with the variables of
/// the container.
pub(crate) fn surroundings(container: &Variables) -> io::Result<(Variables, PathBuf)> {
    let own = |name: &str| container.iter().find(|(found, _)| found == name);
    let (mut variables, directory) = match app::parse(container)? {
        Some(mut app) => {
            if let Some((_, json)) = own(inside::COMMAND_VARIABLES) {
                let more: BTreeMap<String, String> =
                    serde_json::from_slice(json.as_bytes()).map_err(io::Error::other)?;
                app.env.extend(more);
            }
            let directory = PathBuf::from(&app.working_dir);
            (environment::build_for_app(&app, container), directory)
        }
        None => {
            (environment::build(Zone::Platform, container, 0), Zone::Platform.account().home.into())
        }
    };
    variables.retain(|(name, _)| name != "LISTEN_FDS");
    let kept = ["TERM", inside::COMMAND_ID].into_iter().filter_map(own).cloned();
    variables.extend(kept);
    Ok((variables, directory))
}

fn find_program(name: &str, path: &OsStr) -> Option<PathBuf> {
    use std::os::unix::fs::PermissionsExt as _;
    let folders = path.as_bytes().split(|byte| *byte == b':').filter(|folder| !folder.is_empty());
    let places = folders.map(|folder| Path::new(OsStr::from_bytes(folder)).join(name));
    let is_program = |place: &PathBuf| {
        fs::metadata(place)
            .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
    };
    places.into_iter().find(is_program)
}

/// Ends every process of a command: hangs up, and kills what is left after a second. Of a process that took the command's
/// id out of its environment, only those in a session of the command are found.
pub fn end(id: &str) -> ExitCode {
    let signal_all = |signal| {
        let found = processes_of(id);
        for pid in &found {
            // A process that ended meanwhile needs no signal.
            let _ = kill(*pid, signal);
        }
        found.is_empty()
    };
    signal_all(Signal::SIGHUP);
    // A process that was stopped acts on a signal only when it goes on.
    signal_all(Signal::SIGCONT);
    let mut waited = Duration::ZERO;
    while waited < GRACE && !processes_of(id).is_empty() {
        thread::sleep(GRACE_STEP);
        waited += GRACE_STEP;
    }
    for _ in 0..MAX_KILL_ROUNDS {
        if signal_all(Signal::SIGKILL) {
            return ExitCode::SUCCESS;
        }
        thread::sleep(GRACE_STEP);
    }
    ExitCode::FAILURE
}

/// The processes with the command's id in their environment, and those of their sessions. Without this process and PID 1.
fn processes_of(id: &str) -> Vec<Pid> {
    let mark = [inside::COMMAND_ID.as_bytes(), b"=", id.as_bytes()].concat();
    let numbers = fs::read_dir("/proc").into_iter().flatten().flatten();
    let numbers = numbers.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    let others: Vec<_> =
        numbers.map(Pid::from_raw).filter(|pid| *pid != getpid() && pid.as_raw() > 1).collect();
    let is_marked = |pid: &&Pid| {
        let environment = fs::read(format!("/proc/{pid}/environ")).unwrap_or_default();
        environment.split(|byte| *byte == 0).any(|variable| variable == mark)
    };
    let marked: Vec<_> = others.iter().filter(is_marked).copied().collect();
    // A session whose leader is outside of this container, or PID 1, holds other processes too.
    let leads = |pid: &Pid| getsid(Some(*pid)).ok().filter(|leader| marked.contains(leader));
    let is_of = |pid: &Pid| (marked.contains(pid) || leads(pid).is_some()) && is_alive(*pid);
    others.into_iter().filter(is_of).collect()
}

/// A process that has ended may wait for its parent to notice.
fn is_alive(pid: Pid) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let state = stat.rsplit_once(')').and_then(|(_, rest)| rest.trim_start().chars().next());
    state.is_some_and(|state| !matches!(state, 'Z' | 'X'))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(pairs: &[(&str, &str)]) -> Variables {
        pairs.iter().map(|(name, value)| (name.into(), value.into())).collect()
    }

    fn shown(container: &Variables) -> (String, String) {
        let (variables, directory) = surroundings(container).unwrap();
        let mut lines: Vec<_> = variables
            .iter()
            .map(|(name, value)| format!("{}={}", name.display(), value.display()))
            .collect();
        lines.sort();
        (lines.join("\n"), directory.display().to_string())
    }

    #[test]
    fn a_command_has_the_environment_of_the_app() {
        let process = serde_json::json!({
            "command": ["/bin/notes"], "working_dir": "/srv/notes", "port": 5000,
            "env": { "PATH": "/opt/venv/bin:/bin", "COLOUR": "blue", "CIAL_X": "no" },
        });
        let container = variables(&[
            (inside::APP_PROCESS, &process.to_string()),
            (inside::COMMAND_VARIABLES, r#"{"COLOUR":"red","DATABASE_URL":"postgresql://…"}"#),
            (inside::COMMAND_ID, "7"),
            (inside::TENANT_ID, "acme"),
            ("TERM", "xterm"),
            ("HOSTNAME", "acme"),
        ]);
        let (variables, directory) = shown(&container);
        assert_eq!(directory, "/srv/notes");
        assert_eq!(
            variables,
            "CIAL_COMMAND_ID=7\nCOLOUR=red\nDATABASE_URL=postgresql://…\nHOME=/home/agent\n\
             PATH=/opt/venv/bin:/bin\nPORT=5000\nTENANT_ID=acme\nTERM=xterm\nTMPDIR=/tmp\nUSER=agent"
        );
    }

    #[test]
    fn a_command_of_the_built_in_app_has_the_environment_of_the_platform() {
        let container = variables(&[
            (inside::COMMAND_ID, "7"),
            (inside::TENANT_UUID, "no"),
            (inside::TENANT_ID, "acme"),
        ]);
        let (variables, directory) = shown(&container);
        assert_eq!(directory, "/home/agent");
        assert_eq!(
            variables,
            "CIAL_COMMAND_ID=7\nHOME=/home/agent\n\
             PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin\nTENANT_ID=acme\nTMPDIR=/tmp\nUSER=agent"
        );
    }

    #[test]
    fn a_program_is_found_in_the_path() {
        let path = OsStr::new(":/nowhere:/bin");
        assert_eq!(find_program("sh", path), Some("/bin/sh".into()));
        assert_eq!(find_program("passwd-is-no-program", path), None);
        assert_eq!(find_program("sh", OsStr::new("")), None);
        assert_eq!(find_program("passwd", OsStr::new("/etc")), None, "a file that is no program");
    }

    /// Starts a shell that stays, prints a line first, and belongs to the command `id`.
    fn start(
        id: &str,
        script: &str,
    ) -> (std::process::Child, io::BufReader<std::process::ChildStdout>) {
        use std::io::BufRead as _;
        let mut command = Command::new("/bin/sh");
        command.args(["-c", script]).env(inside::COMMAND_ID, id);
        let mut child = command.stdout(std::process::Stdio::piped()).spawn().unwrap();
        let mut output = io::BufReader::new(child.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        assert_eq!(line, "up\n");
        (child, output)
    }

    /// The pipe ends only once the last process of the command has ended.
    fn wait_for_end(mut output: impl io::Read) {
        io::copy(&mut output, &mut io::sink()).unwrap();
    }

    #[test]
    fn a_command_ends_with_all_its_processes_and_with_no_other() {
        let id = format!("test-{}", std::process::id());
        let other = format!("{id}-other");
        // All ignore to be hung up; the last one is in a session of its own, and has no id.
        let stubborn = "trap '' HUP; sleep 300 & \
            setsid sh -c 'env -u CIAL_COMMAND_ID sleep 300; true' & echo up; wait; sleep 300";
        let (mut child, output) = start(&id, stubborn);
        let (mut bystander, _output) = start(&other, "echo up; exec sleep 300");
        let ended = end(&id);
        wait_for_end(output);
        assert!(child.wait().unwrap().code().is_none(), "killed by a signal");
        assert_eq!(format!("{ended:?}"), format!("{:?}", ExitCode::SUCCESS));
        assert!(bystander.try_wait().unwrap().is_none(), "another command goes on");
        assert!(processes_of(&id).is_empty());
        bystander.kill().unwrap();
        bystander.wait().unwrap();
        end("no-such-command");
    }
}
