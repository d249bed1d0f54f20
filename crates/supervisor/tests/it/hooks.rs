//! Hooks of an app: real processes of the app's user, on files that outlive a start.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt as _, chown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::sys::signal::{Signal, kill, killpg};
use nix::unistd::Pid;
use protocol::inside::{AGENT_UID, DISK_SHARE, HOOK_STATE_DIR};
use protocol::process::{AppProcess, Hooks};
use testkit::TempDir;

use crate::app::app;
use crate::stage::Stage;

/// The files of one tenant.
struct Files(TempDir);

impl Files {
    fn new() -> Self {
        let kept = TempDir::new("hooks").unwrap();
        fs::set_permissions(kept.path(), Permissions::from_mode(0o755)).unwrap();
        let files = Self(kept);
        fs::create_dir(files.path()).unwrap();
        own(&files.path());
        files
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("files")
    }

    fn state(&self, name: &str) -> PathBuf {
        self.path().join(HOOK_STATE_DIR).join(name)
    }

    fn write(&self, name: &str, content: &str) {
        let path = self.path().join(name);
        fs::write(&path, content).unwrap();
        own(&path);
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.path().join(name)).unwrap_or_else(|error| error.kind().to_string())
    }

    /// Starts a tenant of these files on `release`, which `change` may change.
    fn start(&self, release: &str, hooks: Hooks, change: impl FnOnce(&mut AppProcess)) -> Stage {
        let set = Stage::prepare();
        fs::remove_dir(set.directory.join("files")).unwrap();
        symlink(self.path(), set.directory.join("files")).unwrap();
        let share = self.0.path().join(DISK_SHARE);
        if share.exists() {
            let secrets = set.directory.join("secrets");
            fs::create_dir_all(&secrets).unwrap();
            fs::copy(share, secrets.join(DISK_SHARE)).unwrap();
        }
        let (name, json) = app(&set, None);
        let mut process: AppProcess = serde_json::from_str(&json).unwrap();
        process.env.insert("FILES".to_owned(), self.path().display().to_string());
        (process.hooks, process.release) = (hooks, release.to_owned());
        change(&mut process);
        set.start_with("", &[(name, serde_json::to_string(&process).unwrap())])
    }

    /// The lines of hooks until the program runs.
    fn up(&self, release: &str, hooks: Hooks) -> Vec<String> {
        until_program(self.start(release, hooks, |_| ()))
    }

    /// All lines of a start that fails.
    fn fails(&self, release: &str, hooks: Hooks) -> Vec<String> {
        let (code, lines) = self.start(release, hooks, |_| ()).end();
        assert_eq!(code, Some(1), "{lines:#?}");
        assert!(!lines.iter().any(|line| line.contains("Uid:")), "the program ran: {lines:#?}");
        lines
    }
}

fn own(path: &Path) {
    lchown(path, Some(AGENT_UID), Some(AGENT_UID)).unwrap();
}

fn until_program(mut stage: Stage) -> Vec<String> {
    stage.lines([&|line| line.starts_with("[platform-front] fds")]);
    stage.signal(Signal::SIGTERM);
    let (code, lines) = stage.end();
    assert_eq!(code, Some(0), "{lines:#?}");
    let is_mask = |line: &String| line == "[platform-front] SigBlk: 0000000000000000";
    assert!(lines.iter().any(is_mask), "{lines:#?}");
    of_hooks(&lines)
}

/// Selects the lines that hooks print.
fn of_hooks(lines: &[String]) -> Vec<String> {
    let hook = |line: &String| line.strip_prefix("[platform-front] hook ").map(str::to_owned);
    lines.iter().filter_map(hook).collect()
}

fn shell(script: &str) -> Option<Vec<String>> {
    Some(["sh", "-c", script].map(str::to_owned).to_vec())
}

fn migrate(script: &str) -> Hooks {
    Hooks { migrate: shell(script), timeout_seconds: Some(1), ..Hooks::default() }
}

fn both(first: &str, migrate_: &str) -> Hooks {
    Hooks { before_first_start: shell(first), ..migrate(migrate_) }
}

fn assert_line(lines: &[String], expected: &str) {
    let line = format!("[platform-front] cial: {expected}");
    assert!(lines.contains(&line), "{line}: {lines:#?}");
}

/// A process that was killed may wait for PID 1 to take its end.
fn until_gone(pid: &str) {
    let pid = Pid::from_raw(pid.parse().unwrap());
    testkit::wait_until("the end of a process", || kill(pid, None) == Err(Errno::ESRCH));
}

#[test]
fn hooks_run_before_the_program_once_for_the_tenant_and_once_for_a_release() {
    let files = Files::new();
    let start = |release: &str| {
        let migrate = format!("echo hook migrate $GREETING to {release} $CIAL_START_APP");
        files.up(release, both("echo hook first as $(id -u) in $PWD", &migrate))
    };
    assert_eq!(start("v1"), ["first as 1001 in /", "migrate hello to v1"]);
    assert_eq!(start("v1"), Vec::<String>::new());
    assert_eq!(start("v2"), ["migrate hello to v2"]);
    assert_eq!(start("v1"), ["migrate hello to v1"], "back is a move too");
    assert_eq!(files.up("", Hooks::default()), Vec::<String>::new());
    assert_eq!(start("v1"), ["migrate hello to v1"], "also from a release without hooks");
}

#[test]
fn a_hook_that_fails_is_a_failed_start_and_runs_again_on_the_same_files() {
    let files = Files::new();
    let damage =
        "echo new > $FILES/new; chmod 700 $FILES/kept; rm -r $FILES/kept; echo hook migrate";
    let first = "cd $FILES; mkdir kept; echo 1 > kept/a; ln -s kept/a link; chmod 500 kept; echo hook first";
    for (end, why) in [
        ("exit 3", "exited with 3"),
        ("kill -9 $$", "was killed by signal 9"),
        ("sleep 300", "took longer than 1 s"),
        ("trap '' TERM; while :; do sleep 1; done", "took longer than 1 s"),
    ] {
        let lines = files.fails("v1", both(first, &format!("{damage}; {end}")));
        let restored = "the files are again as they were before it";
        assert_line(&lines, &format!("the hook migrate {why}; {restored}"));
        assert_eq!(
            (files.read("link").as_str(), files.read("new").as_str()),
            ("1\n", "entity not found")
        );
        let mode = fs::metadata(files.path().join("kept")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o500);
        assert!(of_hooks(&lines).contains(&"migrate".to_owned()));
    }
    let lines = files
        .fails("v1", Hooks { migrate: Some(vec!["/nowhere/up".to_owned()]), ..both(first, "") });
    let missing = "the hook migrate cannot be started: /nowhere/up: ";
    assert!(lines.iter().any(|line| line.contains(missing)), "{lines:#?}");
    let started = files.up("v1", both(first, "echo hook migrate"));
    assert_eq!(started, ["migrate"], "what succeeded is not repeated");
}

#[test]
fn a_copy_stays_below_the_disk_limit_that_is_measured() {
    let files = Files::new();
    files.write("large", &"x".repeat(1_000));
    let share = files.0.path().join(DISK_SHARE);
    fs::write(&share, r#"{"limit_bytes":2000,"used_bytes":1000}"#).unwrap();
    let lines = files.fails("v1", migrate("exit 3"));
    let why = "a copy needs too much of the disk limit of 2000 bytes";
    assert_line(&lines, &format!("the files are not restored if the hook migrate fails: {why}"));
    assert_line(&lines, "the hook migrate exited with 3");
    fs::write(&share, r#"{"limit_bytes":3000,"used_bytes":1000}"#).unwrap();
    let lines = files.fails("v1", migrate("exit 3"));
    assert_line(
        &lines,
        "the hook migrate exited with 3; the files are again as they were before it",
    );
}

#[test]
fn a_first_hook_that_fails_is_named_and_the_second_waits_for_it() {
    let files = Files::new();
    let lines = files.fails("v1", both("exit 4", "echo hook migrate"));
    assert_line(&lines, "the hook before_first_start exited with 4");
    assert_eq!(of_hooks(&lines), Vec::<String>::new());
    assert_eq!(files.up("v1", both("echo hook first", "echo hook migrate")), ["first", "migrate"]);
}

#[test]
fn nothing_that_a_hook_leaves_behind_runs_beside_the_program() {
    let files = Files::new();
    let leave = "sh -c 'trap \"\" TERM; echo hook $$; exec sleep 300' & sleep 0.3";
    let started = files.up("v1", migrate(leave));
    assert_eq!(started.len(), 1, "{started:?}");
    until_gone(&started[0]);
}

#[test]
fn all_that_a_hook_prints_is_in_the_log() {
    let files = Files::new();
    let print = "yes 'hook line' | head -n 200000; echo hook end >&2";
    let hooks = Hooks { timeout_seconds: Some(60), ..migrate(print) };
    let lines = files.up("v1", hooks);
    assert_eq!(lines.iter().filter(|line| *line == "line").count(), 200_000);
    assert!(lines.contains(&"end".to_owned()));
}

#[test]
fn files_of_a_hook_that_was_interrupted_come_back_on_any_release() {
    for next in [migrate("echo hook again"), Hooks::default()] {
        let files = Files::new();
        files.write("data", "whole");
        let cut = "rm $FILES/data; echo half > $FILES/new; echo hook $PPID $$; sleep 300";
        let hooks = Hooks { timeout_seconds: Some(60), ..migrate(cut) };
        let mut stage = files.start("v2", hooks, |_| ());
        let line = stage.line(|line| line.starts_with("[platform-front] hook "));
        let pids = line.split(' ').skip(2).map(|pid| Pid::from_raw(pid.parse().unwrap()));
        let [start, hook] = pids.collect::<Vec<_>>()[..] else { panic!("{line}") };
        // In a container, both end with PID 1.
        kill(start, Signal::SIGKILL).unwrap();
        killpg(hook, Signal::SIGKILL).unwrap();
        assert_eq!(stage.end().0, Some(1));
        assert_eq!(files.read("data"), "entity not found");
        let expected = if next.is_empty() { Vec::new() } else { vec!["again".to_owned()] };
        assert_eq!(files.up("v1", next), expected);
        assert_eq!(
            (files.read("data").as_str(), files.read("new").as_str()),
            ("whole", "entity not found")
        );
    }
}

#[test]
fn a_stop_ends_a_hook_and_takes_its_work_back() {
    let files = Files::new();
    files.write("data", "whole");
    let slow = "echo half > $FILES/data; trap 'echo hook stops; exit 1' TERM; echo hook began; sleep 300 & wait";
    let hooks = Hooks { timeout_seconds: Some(60), ..migrate(slow) };
    let mut stage = files.start("v1", hooks, |_| ());
    stage.line(|line| line.ends_with("hook began"));
    stage.signal(Signal::SIGTERM);
    let (code, lines) = stage.end();
    assert_eq!((code, of_hooks(&lines).last().unwrap().as_str()), (Some(0), "stops"), "{lines:#?}");
    assert_eq!(files.read("data"), "whole");
    assert_eq!(files.up("v1", migrate("echo hook again")), ["again"]);
}

/// The app owns the folder of the state, and may do anything to it.
#[test]
fn whatever_the_app_did_to_the_state_the_next_start_succeeds() {
    type Tamper = fn(&Files);
    let cases: [(&str, Tamper); 7] = [
        ("the folder is a link to another", |files| {
            let other = files.path().join("other");
            fs::create_dir(&other).unwrap();
            fs::write(other.join("release"), "v1").unwrap();
            fs::remove_dir_all(files.path().join(HOOK_STATE_DIR)).unwrap();
            symlink(&other, files.path().join(HOOK_STATE_DIR)).unwrap();
        }),
        ("the folder is a link to nothing", |files| {
            fs::remove_dir_all(files.path().join(HOOK_STATE_DIR)).unwrap();
            symlink("/nowhere", files.path().join(HOOK_STATE_DIR)).unwrap();
        }),
        ("the folder is a file", |files| {
            fs::remove_dir_all(files.path().join(HOOK_STATE_DIR)).unwrap();
            files.write(HOOK_STATE_DIR, "x");
        }),
        ("the release is a folder that is not empty", |files| {
            fs::remove_file(files.state("release")).unwrap();
            fs::create_dir_all(files.state("release/x")).unwrap();
        }),
        ("the release is a pipe", |files| {
            fs::remove_file(files.state("release")).unwrap();
            nix::unistd::mkfifo(&files.state("release"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        }),
        ("the release is a link", |files| {
            fs::rename(files.state("release"), files.path().join("own")).unwrap();
            symlink(files.path().join("own"), files.state("release")).unwrap();
        }),
        ("names of ours are taken by files, and nobody may enter", |files| {
            fs::remove_file(files.state("release")).unwrap();
            for name in ["discarded", "unfinished", "copying", "before-migrate", "restoring"] {
                let _ = fs::remove_dir_all(files.state(name));
                symlink("/nowhere", files.state(name)).unwrap();
            }
            fs::set_permissions(files.path().join(HOOK_STATE_DIR), Permissions::from_mode(0o0))
                .unwrap();
        }),
    ];
    for (case, tamper) in cases {
        let files = Files::new();
        files.write("data", "whole");
        assert_eq!(files.up("v1", migrate("echo hook ran")), ["ran"], "{case}");
        tamper(&files);
        own_all(&files.path());
        assert_eq!(files.up("v1", migrate("echo hook ran")), ["ran"], "{case}");
        assert_eq!(files.up("v1", migrate("echo hook ran")), Vec::<String>::new(), "{case}");
        assert_eq!(files.read("data"), "whole", "{case}");
    }
}

fn own_all(path: &Path) {
    own(path);
    if path.is_dir() && !path.is_symlink() {
        fs::read_dir(path).unwrap().for_each(|entry| own_all(&entry.unwrap().path()));
    }
}

/// The working folder of a release is one that its interrupted hook took away.
#[test]
fn the_program_starts_in_a_folder_that_comes_back() {
    let files = Files::new();
    fs::create_dir_all(files.state("restoring/work")).unwrap();
    own_all(&files.path());
    let into = |process: &mut AppProcess| {
        process.working_dir = files.path().join("work").display().to_string()
    };
    until_program(files.start("", Hooks::default(), into));
    let (code, lines) = files
        .start("", Hooks::default(), |process| {
            into(process);
            process.command = vec!["./nothing".to_owned()];
        })
        .end();
    assert_eq!(code, Some(1));
    let named = format!("./nothing cannot be started in {}/work", files.path().display());
    assert!(lines.iter().any(|line| line.contains(&named)), "{lines:#?}");
}

#[test]
fn files_that_cannot_be_copied_stay_as_a_failed_hook_left_them() {
    let files = Files::new();
    fs::create_dir(files.path().join("shared")).unwrap();
    own(&files.path().join("shared"));
    fs::write(files.path().join("shared/of-root"), "").unwrap();
    chown(files.path().join("shared/of-root"), Some(0), Some(0)).unwrap();
    let lines = files.fails("v1", migrate("echo half > $FILES/data; exit 3"));
    let why = "/files/shared/of-root: belongs to another user";
    let told = lines.iter().any(|line| line.contains("not restored") && line.ends_with(why));
    assert!(told, "{lines:#?}");
    assert_line(&lines, "the hook migrate exited with 3");
    assert_eq!(files.read("data"), "half\n");
}
