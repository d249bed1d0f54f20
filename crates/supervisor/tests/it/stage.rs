//! A stand-in tenant in a directory of its own.

use std::fs::{self, Permissions};
use std::io::{BufRead as _, BufReader};
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

/// No step here takes a second on a quiet machine; a step that takes this long hangs.
const HANG: Duration = Duration::from_secs(60);
const CIAL: Option<u32> = Some(protocol::inside::CIAL_UID);
const AGENT: Option<u32> = Some(protocol::inside::AGENT_UID);

/// Held while a program is written and while a program is started. A child that forks in between
/// would hold the file open for writing, and the next start would fail with "text file busy".
static FORKS: Mutex<()> = Mutex::new(());

pub(crate) struct Stage {
    pub(crate) directory: PathBuf,
    supervisor: Child,
    lines: Receiver<String>,
    seen: Vec<String>,
}

impl Stage {
    /// Starts a tenant whose services follow `script`.
    pub(crate) fn play(script: &str) -> Self {
        Self::prepare().start(script)
    }

    pub(crate) fn prepare() -> Set {
        assert!(
            nix::unistd::geteuid().is_root(),
            "PID 1 changes users, so its tests need root: run them as root, or in a container"
        );
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("cial-supervisor-{}-{number}", std::process::id());
        let directory = std::env::temp_dir().join(name);
        fs::create_dir_all(directory.join("programs")).unwrap();
        for (name, group, mode) in
            [("core", CIAL, 0o700), ("ingress", CIAL, 0o700), ("agent", AGENT, 0o750)]
        {
            make_folder(&directory.join(name), CIAL, group, mode);
        }
        make_folder(&directory.join("files"), AGENT, AGENT, 0o750);
        let _alone = FORKS.lock().unwrap_or_else(PoisonError::into_inner);
        fs::copy(rehearsal(), directory.join("rehearsal")).unwrap();
        for program in ["edge", "core", "platform", "app"] {
            symlink("../rehearsal", directory.join("programs").join(program)).unwrap();
        }
        Set { directory }
    }

    /// Returns the next line that `wanted` accepts. Earlier lines are kept for
    /// [`Stage::all_lines`].
    pub(crate) fn line(&mut self, wanted: impl Fn(&str) -> bool) -> String {
        loop {
            let line = self.lines.recv_timeout(HANG);
            let line = line.unwrap_or_else(|why| panic!("{why} after {:#?}", self.seen));
            self.seen.push(line.clone());
            if wanted(&line) {
                return line;
            }
        }
    }

    /// Waits until each of these lines has arrived, in any order.
    pub(crate) fn lines<const N: usize>(&mut self, wanted: [&dyn Fn(&str) -> bool; N]) {
        for want in wanted {
            if !self.seen.iter().any(|line| want(line)) {
                self.line(want);
            }
        }
    }

    /// Kills the process that reported its number on a line with this beginning.
    pub(crate) fn kill(&self, told: &str) {
        let pid = self.seen.iter().find_map(|line| line.strip_prefix(told)).unwrap();
        kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    }

    pub(crate) fn signal(&self, signal: Signal) {
        kill(self.pid(), signal).unwrap();
    }

    pub(crate) fn pid(&self) -> Pid {
        Pid::from_raw(i32::try_from(self.supervisor.id()).unwrap())
    }

    /// Waits for the end, and returns the exit code and every printed line.
    pub(crate) fn end(mut self) -> (Option<i32>, Vec<String>) {
        while let Ok(line) = self.lines.recv_timeout(HANG) {
            self.seen.push(line);
        }
        let code = self.supervisor.wait().unwrap().code();
        (code, std::mem::take(&mut self.seen))
    }
}

/// A stage on which nothing has started.
pub(crate) struct Set {
    pub(crate) directory: PathBuf,
}

impl Set {
    pub(crate) fn start(self, script: &str) -> Stage {
        self.start_with(script, &[])
    }

    /// Starts with more variables of the container.
    pub(crate) fn start_with(self, script: &str, variables: &[(&str, String)]) -> Stage {
        let alone = FORKS.lock().unwrap_or_else(PoisonError::into_inner);
        let mut supervisor = Command::new(self.directory.join("rehearsal"))
            .arg(&self.directory)
            .env("TENANT_ID", script)
            .envs(variables.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(alone);
        let (send, lines) = channel();
        let (out, err) = (supervisor.stdout.take().unwrap(), supervisor.stderr.take().unwrap());
        let other = send.clone();
        std::thread::spawn(move || {
            BufReader::new(out).lines().all(|l| send.send(l.unwrap()).is_ok())
        });
        std::thread::spawn(move || {
            BufReader::new(err).lines().all(|l| other.send(l.unwrap()).is_ok())
        });
        Stage { directory: self.directory, supervisor, lines, seen: Vec::new() }
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        // SIGKILL would let the services outlive the process outside a container.
        let _ = kill(self.pid(), Signal::SIGTERM);
        let _ = self.supervisor.wait();
        let _ = fs::remove_dir_all(&self.directory);
    }
}

fn make_folder(path: &Path, user: Option<u32>, group: Option<u32>, mode: u32) {
    fs::create_dir(path).unwrap();
    chown(path, user, group).unwrap();
    fs::set_permissions(path, Permissions::from_mode(mode)).unwrap();
}

/// Returns the path of the example beside this test's own program. Cargo builds the example for
/// `cargo test`, not for `--test it` alone.
fn rehearsal() -> PathBuf {
    let own = std::env::current_exe().unwrap();
    let profile = own.parent().and_then(Path::parent).unwrap();
    profile.join("examples/rehearsal")
}
