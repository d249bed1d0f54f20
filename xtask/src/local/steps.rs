//! The steps of a command: numbered, timed and logged. A state file shows the next run that this
//! one was interrupted.

use std::fs::{File, Permissions};
use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context as _, Result};
use docker_command::ActionableError;
use serde_json::{Map, Value, json};

use super::installation::Installation;
use crate::environment::{make_folder, now};

const READY: &str = "ready";

pub(super) struct Steps {
    total: usize,
    done: usize,
    log: PathBuf,
    state: PathBuf,
    /// The duration of each step in seconds, from this run or the previous one.
    durations: Map<String, Value>,
    began: Instant,
}

impl Steps {
    /// Makes the folder (0700), empties the log, and prints the step of an interrupted run.
    pub(super) fn begin(installation: &Installation, command: &str, total: usize) -> Result<Self> {
        let folder = installation.folder();
        let logs = folder.join("log");
        make_folder(&logs)?;
        std::fs::set_permissions(&folder, Permissions::from_mode(0o700))?;
        let log = logs.join(format!("{command}.log"));
        File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let state = folder.join("state.json");
        let last = std::fs::read_to_string(&state).unwrap_or_default();
        let last: Value = serde_json::from_str(&last).unwrap_or_default();
        if let Some(step) = last["step"].as_str().filter(|step| *step != READY) {
            eprintln!("the last run ended in step {step:?}: going on from there");
        }
        let durations = last["seconds"].as_object().cloned().unwrap_or_default();
        Ok(Self { total, done: 0, log, state, durations, began: now() })
    }

    pub(super) fn log(&self) -> &Path {
        &self.log
    }

    /// Runs one step. Its failure names the step, the cause, the fix and the log.
    pub(super) fn step<T>(&mut self, title: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        crate::interrupt::check()?;
        let number = self.done + 1;
        self.remember(title);
        let last = self.durations.get(title).and_then(Value::as_f64);
        let last = last.map(|seconds| format!(" (last time {seconds:.0} s)")).unwrap_or_default();
        eprintln!("{number}/{} {title}{last}", self.total);
        let start = now();
        let value = work().map_err(|error| {
            self.log_line(&format!("{number}/{} {title}: {error:?}", self.total));
            self.explain(number, title, &error)
        })?;
        let seconds = start.elapsed().as_secs_f64();
        self.log_line(&format!("{number}/{} {title}: done in {seconds:.1} s", self.total));
        eprintln!("    done in {seconds:.1} s");
        self.durations.insert(title.to_owned(), json!(seconds.round()));
        self.done = number;
        Ok(value)
    }

    /// Records that every step is done, so that the next run has nothing to resume.
    pub(super) fn finish(&self) {
        self.remember(READY);
        let seconds = self.began.elapsed().as_secs_f32();
        self.log_line(&format!("ready in {seconds:.1} s"));
    }

    fn explain(&self, number: usize, title: &str, error: &anyhow::Error) -> anyhow::Error {
        let fix = "remove the cause, then run the same command again: it goes on from here";
        let known = error.downcast_ref::<ActionableError>();
        let (cause, fix) =
            known.map_or((format!("{error:#}"), fix), |error| (error.cause.clone(), &error.fix));
        let log = self.log.display();
        anyhow::anyhow!(
            "step {number}/{} failed: {title}\n  cause: {cause}\n  fix:   {fix}\n  log:   {log}",
            self.total
        )
    }

    /// Appends to the log. The terminal shows the same line, so a failed write is no error.
    fn log_line(&self, line: &str) {
        if let Ok(mut file) = File::options().append(true).open(&self.log) {
            let _ = writeln!(file, "{line}");
        }
    }

    /// Writes the state by a rename: an interruption leaves the old state or the new one, never
    /// half of it.
    fn remember(&self, step: &str) {
        let state = json!({ "step": step, "seconds": self.durations });
        let new = self.state.with_extension("new");
        let _ = std::fs::write(&new, format!("{state:#}\n"))
            .and_then(|()| std::fs::rename(&new, &self.state));
    }
}
