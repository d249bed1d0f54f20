//! One attempt of a task, as `agent`: unpacks the package, runs the program, reports what it writes and how it ends. See
//! [`protocol::tasks`].
//!
//! The process begins and ends with the attempt. It is a process of the app's user: what the app can do to it, the app could
//! report itself. It ends the task when its input ends: then nobody waits for the result.

mod folder;
mod report;

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::Path;
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use protocol::inside;
use protocol::tasks::{MAX_JOB_BYTES, MAX_RESULT_BYTES, TaskJob, TaskOutput, variables};
use serde_json::Value;

use crate::commands::{end, surroundings};
use crate::environment::Variables;
use crate::machine::ExitReason;
use folder::{FrameReader, WorkFolder, read_frame, unpack};
use report::Reporter;

/// Below the tenant's files: large packages must not fill the memory of `/tmp`.
const WORK_FOLDER: &str = ".cial-tasks";
/// How long the rest of the output may take once every known process of the task has ended.
const OUTPUT_TIMEOUT: Duration = Duration::from_secs(2);
/// The longest time before the end of a program is noticed.
const MAX_WAIT_STEP: Duration = Duration::from_millis(50);

/// Runs the attempt that standard input describes.
pub fn run(container: &Variables) -> ExitCode {
    let reporter = Reporter::new(io::stdout());
    let id = own_id(container);
    let place = Place { container, id: &id, files: Path::new(inside::FILES_DIR) };
    let outcome = place.attempt(io::stdin(), &reporter, || end_with_input(id.clone()));
    reporter.send_end(outcome);
    ExitCode::SUCCESS
}

fn own_id(container: &Variables) -> String {
    let id = container.iter().find(|(name, _)| name == inside::COMMAND_ID);
    id.map(|(_, id)| id.to_string_lossy().into_owned()).unwrap_or_default()
}

/// The failure, if any, and what the task left as its result.
type Outcome = (Option<String>, Option<Value>);

/// Where an attempt runs.
struct Place<'a> {
    container: &'a Variables,
    /// Every process of the attempt has this id in its environment.
    id: &'a str,
    /// The tenant's own files.
    files: &'a Path,
}

impl Place<'_> {
    /// Calls `on_start` once the program runs and `input` is read up to the end of the package.
    fn attempt(
        &self,
        mut input: impl Read,
        reporter: &Reporter,
        on_start: impl FnOnce(),
    ) -> io::Result<Outcome> {
        let job: TaskJob = serde_json::from_slice(&read_frame(&mut input, MAX_JOB_BYTES)?)?;
        let folder = WorkFolder::make(&self.files.join(WORK_FOLDER), self.id)?;
        unpack(FrameReader::new(&mut input), &folder.path)?;
        let package = folder.path.join(&job.folder);
        let (given, left) = (folder.path.join("input.json"), folder.path.join("output.json"));
        fs::write(&given, job.input.to_string())?;
        let program = job.command.first().map(|program| package.join(program));
        let program = program.ok_or_else(|| io::Error::other("it names no program"))?;
        let (mut environment, _) = surroundings(self.container)?;
        let texts = [
            (variables::EXECUTION, job.execution.clone()),
            (variables::WORKFLOW, job.workflow.clone()),
            (variables::TASK, job.task.clone()),
            (variables::ATTEMPT, job.attempt.to_string()),
            (variables::INPUT, given.display().to_string()),
            (variables::OUTPUT, left.display().to_string()),
        ];
        environment.extend(texts.into_iter().map(|(name, text)| (name.into(), text.into())));
        let mut command = Command::new(program);
        command
            .args(job.command.iter().skip(1))
            .env_clear()
            .envs(environment)
            .current_dir(&package)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let child = command.spawn()?;
        on_start();
        let failure = wait(child, &job, self.id, reporter)?;
        let result = if failure.is_none() { read_result(&left)? } else { None };
        Ok((failure, result))
    }
}

/// Ends the task and this process once standard input ends.
fn end_with_input(id: String) {
    thread::spawn(move || {
        // An error is an end, too.
        let _ = io::copy(&mut io::stdin().lock(), &mut io::sink());
        end(&id);
        std::process::exit(1);
    });
}

fn wait(
    mut child: Child,
    job: &TaskJob,
    id: &str,
    reporter: &Reporter,
) -> io::Result<Option<String>> {
    let (done, outputs) = mpsc::channel::<()>();
    if let Some(stdout) = child.stdout.take() {
        reporter.report_lines(stdout, TaskOutput::Stdout, done.clone());
    }
    if let Some(stderr) = child.stderr.take() {
        reporter.report_lines(stderr, TaskOutput::Stderr, done);
    }
    let timeout = Duration::from_secs(job.timeout_seconds.into());
    let status = wait_within(&mut child, timeout)?;
    if status.is_none() {
        end(id);
        // Also a program that took the id out of its environment.
        child.kill()?;
        child.wait()?;
    }
    // Background processes of the program end with it.
    end(id);
    // Each reader drops its sender at the end of its pipe. A process that hid from the end may hold the pipe open.
    let _ = outputs.recv_timeout(OUTPUT_TIMEOUT);
    let late = || Some(format!("It did not end within {} seconds.", job.timeout_seconds));
    Ok(status.map_or_else(late, failure_of))
}

/// Waits for the end of the program; `None` when it takes too long.
#[expect(clippy::disallowed_methods, reason = "a shell: a task has no state machine")]
fn wait_within(child: &mut Child, timeout: Duration) -> io::Result<Option<ExitStatus>> {
    let (begin, mut delay) = (Instant::now(), Duration::from_millis(1));
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        if begin.elapsed() >= timeout {
            return Ok(None);
        }
        thread::sleep(delay);
        delay = (delay * 2).min(MAX_WAIT_STEP);
    }
}

fn failure_of(status: ExitStatus) -> Option<String> {
    (!status.success()).then(|| format!("It {}.", ExitReason::from(status)))
}

/// Reads what the task left as its result.
fn read_result(path: &Path) -> io::Result<Option<Value>> {
    match fs::metadata(path) {
        Ok(found) if found.is_file() => {}
        // Opening a pipe could take forever.
        Ok(_) => return Err(io::Error::other("its result is no file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error),
    }
    let mut text = Vec::new();
    let limit = u64::try_from(MAX_RESULT_BYTES).unwrap_or(u64::MAX);
    File::open(path)?.take(limit + 1).read_to_end(&mut text)?;
    if text.len() > MAX_RESULT_BYTES {
        let rule = format!("its result has more than {MAX_RESULT_BYTES} bytes");
        return Err(io::Error::other(rule));
    }
    let result = serde_json::from_slice(&text);
    result.map(Some).map_err(|error| io::Error::other(format!("its result is no JSON: {error}")))
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use protocol::tasks::{MAX_LINE_BYTES, MAX_OUTPUT_BYTES, TaskMessage, frame};
    use serde_json::json;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn package(script: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_path("etl-1/bin/task").unwrap();
        header.set_mode(0o755);
        header.set_size(script.len().try_into().unwrap());
        header.set_cksum();
        builder.append(&header, script.as_bytes()).unwrap();
        builder.into_inner().unwrap()
    }

    /// Runs a script as a task; returns the messages, the last one first.
    fn messages(script: &str, timeout_seconds: u32) -> Vec<TaskMessage> {
        let files = testkit::TempDir::new("task").unwrap();
        let job = json!({
            "execution": "7", "workflow": "nightly", "task": "fetch", "attempt": 2, "folder": "etl-1",
            "command": ["bin/task", "--all"], "timeout_seconds": timeout_seconds,
            "input": { "context": { "day": "monday" }, "outputs": {} },
        });
        let tar = package(&format!("#!/bin/sh\n{script}\n"));
        let mut input = frame(job.to_string().as_bytes());
        tar.chunks(1_000).for_each(|piece| input.extend(frame(piece)));
        input.extend(frame(b""));
        let id = files.path().display().to_string().replace('/', "-");
        let container: Variables = vec![(inside::COMMAND_ID.into(), (&id).into())];
        let (written, mut started) = (Written::default(), false);
        let reporter = Reporter::new(written.clone());
        let place = Place { container: &container, id: &id, files: files.path() };
        reporter.send_end(place.attempt(input.as_slice(), &reporter, || started = true));
        assert!(started, "{:?}", String::from_utf8_lossy(&written.0.lock().unwrap()));
        let left: Vec<_> = fs::read_dir(files.path().join(WORK_FOLDER)).unwrap().collect();
        assert_eq!(left.len(), 1, "the lock alone stays: {left:?}");
        let text = written.0.lock().unwrap().clone();
        let lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
        lines.rev().map(|line| serde_json::from_slice(line).unwrap()).collect()
    }

    fn failure(message: &TaskMessage) -> &str {
        match message {
            TaskMessage::Ended { failure, .. } => failure.as_deref().unwrap_or_default(),
            TaskMessage::Line { .. } => panic!("{message:?}"),
        }
    }

    fn line(output: TaskOutput, text: &str) -> TaskMessage {
        TaskMessage::Line { output, text: text.to_owned() }
    }

    #[test]
    fn a_task_reads_its_input_and_leaves_a_result() {
        let script = r#"echo "$CIAL_TASK $CIAL_ATTEMPT $1 $(pwd | grep -o etl-1)"; cp "$CIAL_INPUT" "$CIAL_OUTPUT""#;
        let messages = messages(script, 60);
        let result = json!({ "context": { "day": "monday" }, "outputs": {} });
        assert_eq!(
            messages,
            [
                TaskMessage::Ended { failure: None, result: Some(result) },
                line(TaskOutput::Stdout, "fetch 2 --all etl-1"),
            ]
        );
    }

    #[test]
    fn an_exit_code_a_signal_and_a_bad_result_are_failures() {
        assert_eq!(failure(&messages("exit 3", 60)[0]), "It exited with 3.");
        assert_eq!(failure(&messages("kill -9 $$", 60)[0]), "It was killed by signal 9.");
        let no_json = messages(r#"echo no > "$CIAL_OUTPUT""#, 60);
        assert!(failure(&no_json[0]).contains("its result is no JSON"), "{no_json:?}");
        let pipe = messages(r#"mkfifo "$CIAL_OUTPUT""#, 60);
        assert!(failure(&pipe[0]).contains("its result is no file"), "{pipe:?}");
        let large = messages(r#"head -c 70000 /dev/zero > "$CIAL_OUTPUT""#, 60);
        assert!(failure(&large[0]).contains("more than 65536 bytes"), "{large:?}");
    }

    #[test]
    fn a_task_that_takes_too_long_ends_with_all_its_processes() {
        let late = messages("trap '' HUP; setsid sleep 300 & echo up; sleep 300", 1);
        assert_eq!(failure(&late[0]), "It did not end within 1 seconds.");
        assert_eq!(late[1..], [line(TaskOutput::Stdout, "up")]);
        let hidden = messages("exec env -i /bin/sleep 300", 1);
        assert_eq!(failure(&hidden[0]), "It did not end within 1 seconds.");
    }

    /// The pipe of the output stays open as long as the process in the background lives.
    #[test]
    fn what_a_task_leaves_in_the_background_ends_with_it() {
        let left = messages("mkdir -p shut/in; chmod 500 shut; sleep 300 & echo done >&2", 60);
        assert_eq!(failure(&left[0]), "");
        assert_eq!(left[1..], [line(TaskOutput::Stderr, "done")]);
    }

    #[test]
    fn long_lines_are_cut_and_too_much_output_is_dropped() {
        let long = messages("head -c 5000 /dev/zero | tr '\\0' x", 60);
        let lengths: Vec<_> = long[1..]
            .iter()
            .map(|message| match message {
                TaskMessage::Line { text, .. } => text.len(),
                TaskMessage::Ended { .. } => panic!("{message:?}"),
            })
            .collect();
        assert_eq!(lengths, [5_000 - MAX_LINE_BYTES, MAX_LINE_BYTES]);
        let much = messages("head -c 3000000 /dev/zero | tr '\\0' '\\n'", 60);
        assert_eq!(much[1], line(TaskOutput::Platform, "The rest of the output is not kept."));
        assert!(much.len() < MAX_OUTPUT_BYTES + 3);
    }

    #[test]
    fn an_input_that_breaks_off_runs_nothing() {
        let files = testkit::TempDir::new("task").unwrap();
        let container = Variables::new();
        let place = Place { container: &container, id: "x", files: files.path() };
        let reporter = Reporter::new(io::sink());
        for input in [&b""[..], b"\0\0", b"\xff\xff\xff\xff", b"\0\0\0\x02{}"] {
            let outcome = place.attempt(input, &reporter, || panic!("started"));
            assert!(outcome.is_err(), "{input:?}");
        }
    }
}
