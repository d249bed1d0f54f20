//! Everything that xtask takes from outside: the checkout, variables, the clock, the terminal,
//! other programs.

use std::fmt::Display;
use std::io::{Read, Write as _};
use std::path::PathBuf;
use std::process::{Command, ExitCode, Output, Stdio};
use std::sync::mpsc::channel;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// The root of the checkout in which `cargo xtask` was called, because a target folder that two
/// checkouts share holds one xtask. Without cargo, the checkout in which xtask was compiled.
pub fn root() -> PathBuf {
    let called =
        variable("CARGO_MANIFEST_DIR").map(PathBuf::from).filter(|here| here.ends_with("xtask"));
    let here = called.unwrap_or_else(|| env!("CARGO_MANIFEST_DIR").into());
    here.parent().unwrap_or(&here).to_owned()
}

/// Returns a variable of the environment; an empty one counts as unset.
#[expect(clippy::disallowed_methods, reason = "the one place in xtask that reads the environment")]
pub fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|text| !text.is_empty())
}

#[expect(clippy::disallowed_methods, reason = "the one place in xtask that reads the clock")]
pub fn now() -> Instant {
    Instant::now()
}

/// Prints a line of result on stdout. Progress goes to stderr by `eprintln!`. A closed pipe is no
/// failure.
pub fn print_line(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Ends xtask: an error is printed in full, and its exit code is 1.
pub fn finish(outcome: Result<ExitCode>) -> ExitCode {
    outcome.unwrap_or_else(|error| {
        eprintln!("error: {error:#}");
        ExitCode::FAILURE
    })
}

/// Returns the path of xtask for a call of it by another program.
///
/// # Errors
/// The system does not tell it.
pub fn program() -> Result<PathBuf> {
    Ok(without_deleted_mark(std::env::current_exe()?))
}

/// Linux appends this mark once a build has replaced the file of a running program; the path without
/// it names the new program.
fn without_deleted_mark(path: PathBuf) -> PathBuf {
    path.to_str()
        .and_then(|text| text.strip_suffix(" (deleted)"))
        .map(PathBuf::from)
        .unwrap_or(path)
}

/// Builds a call of the cargo that runs xtask, in the checkout.
pub fn cargo() -> Command {
    let mut cargo = Command::new(variable("CARGO").unwrap_or_else(|| "cargo".to_owned()));
    cargo.current_dir(root());
    cargo
}

/// Runs a program to its end with its output captured; kills it after `timeout`.
///
/// # Errors
/// The program cannot be run, or does not end in time.
pub fn output_within(command: &mut Command, timeout: Duration) -> Result<Output> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let name = command.get_program().to_string_lossy().into_owned();
    let mut child = command.spawn().with_context(|| format!("cannot run {name}"))?;
    let (sender, receiver) = channel();
    let streams: [Option<Box<dyn Read + Send>>; 2] = [
        child.stdout.take().map(|stream| Box::new(stream) as _),
        child.stderr.take().map(|stream| Box::new(stream) as _),
    ];
    for (index, stream) in streams.into_iter().flatten().enumerate() {
        let sender = sender.clone();
        std::thread::spawn(move || {
            let (mut stream, mut bytes) = (stream, Vec::new());
            let _ = stream.read_to_end(&mut bytes);
            let _ = sender.send((index, bytes));
        });
    }
    let mut outputs = [Vec::new(), Vec::new()];
    let deadline = now() + timeout;
    for _ in 0..2 {
        let left = deadline.saturating_duration_since(now());
        let Ok((index, bytes)) = receiver.recv_timeout(left) else {
            let _ = child.kill();
            let _ = child.wait();
            bail!("{name} did not end within {} s", timeout.as_secs());
        };
        outputs[index] = bytes;
    }
    let [stdout, stderr] = outputs;
    Ok(Output { status: child.wait()?, stdout, stderr })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replaced_program_is_called_by_its_path() {
        let cases =
            [("/target/xtask (deleted)", "/target/xtask"), ("/target/xtask", "/target/xtask")];
        for (system, path) in cases {
            assert_eq!(without_deleted_mark(system.into()), PathBuf::from(path));
        }
    }
}
