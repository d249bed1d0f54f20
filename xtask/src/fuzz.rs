//! `fuzz` runs targets of the package `fuzz` under libFuzzer, for longer than its test does.
//!
//! The flags are those of cargo-fuzz without a sanitizer: they need a C++ compiler, and no nightly Rust.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};

use anyhow::{Context as _, Result, ensure};

use crate::environment::{cargo, exit_code, print_line, root};
use crate::images::binaries::{executables, host_target};

/// libFuzzer reads which branches the bytes reach, and what the code compares them with.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks";
/// Bounds one input, in seconds.
const INPUT_TIMEOUT: &str = "-timeout=5";

#[derive(clap::Args)]
pub struct Args {
    /// A target, such as `head`; all of them otherwise, one after the other.
    target: Option<String>,
    /// How long each target looks for new bytes.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let targets = match args.target {
        Some(target) => vec![target],
        None => targets()?,
    };
    for target in &targets {
        let all = self::targets()?.join(", ");
        ensure!(corpus(target).is_dir(), "there is no target {target:?}; there are {all}");
    }
    let programs = build(&targets)?;
    let mut is_clean = true;
    for (target, program) in targets.iter().zip(programs) {
        is_clean &= fuzz(target, &program, args.seconds)?;
    }
    Ok(exit_code(is_clean))
}

fn corpus(target: &str) -> PathBuf {
    root().join("fuzz/corpus").join(target)
}

fn targets() -> Result<Vec<String>> {
    let folders = std::fs::read_dir(root().join("fuzz/corpus")).context("fuzz/corpus")?;
    let name = |entry: std::io::Result<std::fs::DirEntry>| {
        anyhow::Ok(entry?.file_name().to_string_lossy().into_owned())
    };
    let mut names = folders.map(name).collect::<Result<Vec<_>>>()?;
    names.sort();
    Ok(names)
}

/// Returns the program of each target.
fn build(targets: &[String]) -> Result<Vec<PathBuf>> {
    let names: Vec<_> = targets.iter().map(|target| format!("fuzz-{target}")).collect();
    let mut cargo = cargo();
    // With an explicit target, the flags reach neither build scripts nor macros.
    cargo.args(["build", "--locked", "--package", "fuzz", "--profile", "control"]);
    cargo.args(["--target", &host_target()?, "--message-format", "json-render-diagnostics"]);
    cargo.args(names.iter().flat_map(|name| ["--bin", name]));
    cargo.env("RUSTFLAGS", FLAGS).stderr(Stdio::inherit());
    let output = cargo.output().context("cannot run cargo")?;
    ensure!(output.status.success(), "cannot compile the targets: cargo says why above");
    let built = executables(&String::from_utf8_lossy(&output.stdout));
    let program = |name: &String| {
        let found = built.iter().find(|(_, path)| path.ends_with(name));
        found.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no {name}"))
    };
    names.iter().map(program).collect()
}

/// Returns whether nothing was found.
fn fuzz(target: &str, program: &Path, seconds: u64) -> Result<bool> {
    // New bytes stay out of the checkout until a person takes them over.
    let found = root().join("target/fuzz").join(target);
    std::fs::create_dir_all(&found).with_context(|| format!("cannot make {}", found.display()))?;
    let mut fuzzer = Command::new(program);
    fuzzer.args([&format!("-max_total_time={seconds}"), INPUT_TIMEOUT, "-print_final_stats=1"]);
    fuzzer.arg(format!("-artifact_prefix={}/", found.display())).arg(&found).arg(corpus(target));
    let is_clean = fuzzer.status().context("cannot run the fuzzer")?.success();
    match is_clean {
        true => print_line(format_args!("ok     {target}: nothing found in {seconds} s")),
        false => print_line(format_args!(
            "FAILED {target}: copy the file that is named above to {}, where the test runs it too",
            corpus(target).display()
        )),
    }
    Ok(is_clean)
}
