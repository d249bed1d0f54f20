//! The start of an app with hooks: runs those that are due, and becomes the program. A process of the app's user, so that a
//! hook has its rights and no more. The tenant's files remember which hooks succeeded: a start that was killed in the middle
//! of a hook runs the hook again.

mod files;
mod folder;
mod process;

use std::collections::BTreeMap;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use protocol::files::DiskShare;
use protocol::inside;
use protocol::process::{AppProcess, DEFAULT_HOOK_SECONDS, Hooks};

use self::folder::{StateFolder, Succeeded};
use self::process::Signals;
use crate::privilege_drop;

/// The exit code of a start whose hook failed. The program never ran.
const HOOK_FAILED: u8 = 1;
const STOPS: &str = "the tenant stops before the program runs";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Hook {
    BeforeFirstStart,
    Migrate,
}

impl Hook {
    /// The key of the manifest.
    const fn name(self) -> &'static str {
        match self {
            Self::BeforeFirstStart => "before_first_start",
            Self::Migrate => "migrate",
        }
    }

    fn command(self, hooks: &Hooks) -> Option<&[String]> {
        let command = match self {
            Self::BeforeFirstStart => &hooks.before_first_start,
            Self::Migrate => &hooks.migrate,
        };
        command.as_deref().filter(|args| !args.is_empty())
    }

    fn has_succeeded(self, release: &str, known: &Succeeded) -> bool {
        match self {
            Self::BeforeFirstStart => known.first_start,
            Self::Migrate => known.release.as_deref() == Some(release),
        }
    }
}

/// The hooks to run before the program, in order. Pure.
fn due(app: &AppProcess, known: &Succeeded) -> Vec<Hook> {
    let is_due = |hook: &Hook| {
        hook.command(&app.hooks).is_some() && !hook.has_succeeded(&app.release, known)
    };
    [Hook::BeforeFirstStart, Hook::Migrate].into_iter().filter(is_due).collect()
}

/// The value of [`inside::START_APP`]. The variables of the app are those of the process itself.
pub fn describe(app: &AppProcess) -> String {
    let app = AppProcess { env: BTreeMap::new(), ..app.clone() };
    serde_json::to_string(&app).unwrap_or_default()
}

/// Runs the hooks that are due by the state in the files `arguments[0]`, and becomes the program of `app`, as [`describe`]
/// wrote it. `arguments[1]` is the tenant's share of the disk as JSON, where it is known. Returns only when that fails.
pub fn start(arguments: &[String], app: Option<&str>) -> ExitCode {
    let app = app.and_then(|json| serde_json::from_str::<AppProcess>(json).ok());
    let app = app.filter(|app| !app.command.is_empty());
    let (Some(files), Some(app)) = (arguments.first(), app) else {
        return fail("start-app takes the folder of the files, and the app from its variable");
    };
    let share = arguments.get(1).and_then(|json| serde_json::from_str(json).ok());
    if let Err(why) = prepare(Path::new(files), &app, share) {
        return fail(&why);
    }
    let error = command(&app, &app.command).exec();
    fail(&format!("{} cannot be started in {}: {error}", app.command[0], app.working_dir))
}

fn fail(why: &str) -> ExitCode {
    log(why);
    ExitCode::from(HOOK_FAILED)
}

/// Writes to the log of the tenant, beside the output of the hooks.
fn log(line: &str) {
    eprintln!("cial: {line}");
}

/// A command in the environment and the working folder of the app, without the signal mask of this process.
fn command(app: &AppProcess, args: &[String]) -> Command {
    let mut command = Command::new(&args[0]);
    command.args(&args[1..]).env_remove(inside::START_APP).current_dir(&app.working_dir);
    privilege_drop::unblock_signals_of(&mut command);
    command
}

fn prepare(files: &Path, app: &AppProcess, share: Option<DiskShare>) -> Result<(), String> {
    let place = files.join(inside::HOOK_STATE_DIR);
    let unusable =
        |error| format!("the state of the hooks in {} is unusable: {error}", place.display());
    let folder = StateFolder::open(files).map_err(unusable)?;
    if folder.restore_files().map_err(unusable)? {
        log("the hook migrate was interrupted; the files are again as they were before it");
    }
    folder.empty_discarded();
    let known = folder.succeeded().map_err(unusable)?;
    if app.hooks.migrate.is_none() {
        // The way back to the earlier release is another move.
        folder.forget(Hook::Migrate).map_err(unusable)?;
    }
    let due = due(app, &known);
    if due.is_empty() {
        return Ok(());
    }
    let signals = Signals::block().map_err(|error| format!("cannot watch signals: {error}"))?;
    for hook in due {
        run(hook, app, (&folder, share), &signals)?;
        folder.remember(hook, &app.release).map_err(unusable)?;
    }
    folder.empty_discarded();
    if signals.is_stop_requested() { Err(STOPS.to_owned()) } else { Ok(()) }
}

/// Runs a hook. The files are as before where `migrate` fails, as long as they could be copied.
fn run(
    hook: Hook,
    app: &AppProcess,
    (folder, share): (&StateFolder, Option<DiskShare>),
    signals: &Signals,
) -> Result<(), String> {
    let name = hook.name();
    let Some(args) = hook.command(&app.hooks) else { return Ok(()) };
    if hook == Hook::Migrate
        && let Err(error) = folder.copy_files(share)
    {
        log(&format!("the files are not restored if the hook {name} fails: {error}"));
    }
    let discard_copy = || {
        folder.discard_copy().map_err(|error| format!("the copy of the files cannot go: {error}"))
    };
    if signals.is_stop_requested() {
        discard_copy()?;
        return Err(STOPS.to_owned());
    }
    log(&format!("the hook {name} runs"));
    let seconds = app.hooks.timeout_seconds.unwrap_or(DEFAULT_HOOK_SECONDS);
    let Err(why) = process::run(command(app, args), seconds, signals) else {
        // Before that is remembered: otherwise the next start could take back what succeeded.
        return discard_copy();
    };
    let files = match folder.restore_files() {
        Ok(true) => "; the files are again as they were before it".to_owned(),
        Ok(false) => String::new(),
        Err(error) => format!("; the next start restores the files, because now {error}"),
    };
    folder.empty_discarded();
    Err(format!("the hook {name} {why}{files}"))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn app(first: bool, migrate: bool, release: &str) -> AppProcess {
        let args = |exists: bool| exists.then(|| vec!["true".to_owned()]);
        let hooks = Hooks {
            before_first_start: args(first),
            migrate: args(migrate),
            timeout_seconds: None,
        };
        AppProcess {
            command: vec!["true".to_owned()],
            working_dir: "/".to_owned(),
            env: BTreeMap::new(),
            port: 3000,
            health_path: None,
            chat: None,
            hooks,
            release: release.to_owned(),
        }
    }

    #[test]
    fn what_is_due_follows_from_the_release_and_from_what_succeeded() {
        let mut table = String::new();
        for (name, app) in [
            ("none", app(false, false, "v2")),
            ("first", app(true, false, "v2")),
            ("migrate", app(false, true, "v2")),
            ("both", app(true, true, "v2")),
        ] {
            for first_start in [false, true] {
                for release in [None, Some("v1"), Some("v2")] {
                    let known = Succeeded { first_start, release: release.map(str::to_owned) };
                    let due: Vec<_> = due(&app, &known).into_iter().map(Hook::name).collect();
                    let started = if first_start { "started" } else { "new" };
                    let release = release.unwrap_or("-");
                    table
                        .push_str(&format!("{name} · {started} {release} · {}.\n", due.join(", ")));
                }
            }
        }
        insta::assert_snapshot!(table, @"
        none · new - · .
        none · new v1 · .
        none · new v2 · .
        none · started - · .
        none · started v1 · .
        none · started v2 · .
        first · new - · before_first_start.
        first · new v1 · before_first_start.
        first · new v2 · before_first_start.
        first · started - · .
        first · started v1 · .
        first · started v2 · .
        migrate · new - · migrate.
        migrate · new v1 · migrate.
        migrate · new v2 · .
        migrate · started - · migrate.
        migrate · started v1 · migrate.
        migrate · started v2 · .
        both · new - · before_first_start, migrate.
        both · new v1 · before_first_start, migrate.
        both · new v2 · before_first_start.
        both · started - · migrate.
        both · started v1 · migrate.
        both · started v2 · .
        ");
    }

    #[test]
    fn a_hook_without_words_is_none() {
        let mut app = app(true, true, "v1");
        (app.hooks.before_first_start, app.hooks.migrate) = (Some(Vec::new()), Some(Vec::new()));
        assert_eq!(due(&app, &Succeeded::default()), []);
    }

    proptest! {
        // Each case waits for the disk.
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Starts on any releases, of which some have no `migrate`, and hooks that fail or are interrupted.
        #[test]
        fn no_program_runs_before_its_hooks_and_none_runs_twice(
            starts in prop::collection::vec((0..3_usize, any::<bool>()), 1..20)
        ) {
            let kept = testkit::TempDir::new("hooks-due").unwrap();
            let releases = [app(true, true, "v1"), app(true, true, "v2"), app(true, false, "v3")];
            let (mut first_runs, mut migrated, mut last) = (0, None, None);
            for (release, succeeds) in starts {
                let app = &releases[release];
                let folder = StateFolder::open(kept.path()).unwrap();
                if app.hooks.migrate.is_none() {
                    folder.forget(Hook::Migrate).unwrap();
                    migrated = None;
                }
                let due = due(app, &folder.succeeded().unwrap());
                if last == Some(release) {
                    prop_assert!(due.is_empty(), "the program ran already: {:?}", due);
                }
                last = succeeds.then_some(release);
                for hook in due.into_iter().filter(|_| succeeds) {
                    folder.remember(hook, &app.release).unwrap();
                    match hook {
                        Hook::BeforeFirstStart => first_runs += 1,
                        Hook::Migrate => migrated = Some(release),
                    }
                }
                if succeeds {
                    prop_assert_eq!(first_runs, 1);
                    prop_assert_eq!(migrated, app.hooks.migrate.is_some().then_some(release));
                }
            }
        }
    }
}
