//! `fuzz` runs targets of the package `fuzz` under libFuzzer, for longer than its test does.
//!
//! The flags are those of cargo-fuzz without a sanitizer: they need a C++ compiler, and no nightly Rust.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, Result, ensure};

use crate::environment::{exit_code, make_folder, print_line, root};
use crate::images::binaries::executables;

/// libFuzzer reads which branches the bytes reach, and what the code compares them with.
const FLAGS: &str = "--cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 \
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table \
    -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks";
/// Bounds one input, in seconds.
const INPUT_TIMEOUT: &str = "-timeout=5";
const CORPORA: &str = "fuzz/corpus";

#[derive(clap::Args)]
pub struct Args {
    /// A target, such as `head`; all of them otherwise, one after the other.
    target: Option<String>,
    /// How long each target looks for new bytes.
    #[arg(long, default_value_t = 60)]
    seconds: u64,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let all = targets()?;
    let is_chosen = |name: &&String| args.target.as_ref().is_none_or(|target| target == *name);
    let chosen: Vec<_> = all.iter().filter(is_chosen).collect();
    let wanted = args.target.as_deref().unwrap_or_default();
    ensure!(!chosen.is_empty(), "there is no target {wanted:?}; there are {}", all.join(", "));
    let mut is_clean = true;
    for (target, program) in chosen.iter().zip(build(&chosen)?) {
        is_clean &= fuzz(target, &program, args.seconds)?;
    }
    Ok(exit_code(is_clean))
}

fn targets() -> Result<Vec<String>> {
    let mut names = Vec::new();
    for folder in std::fs::read_dir(root().join(CORPORA)).context(CORPORA)? {
        names.push(folder?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}

/// Returns the program of each target.
fn build(targets: &[&String]) -> Result<Vec<PathBuf>> {
    let names: Vec<_> = targets.iter().map(|target| format!("fuzz-{target}")).collect();
    let mut args = vec!["--locked", "--package", "fuzz", "--profile", "control"];
    args.extend(names.iter().flat_map(|name| ["--bin", name]));
    let built = executables(&args, FLAGS).context("cannot compile the targets")?;
    let program = |name: &String| {
        let found = built.iter().find(|(_, path)| path.ends_with(name));
        found.map(|(_, path)| path.clone()).with_context(|| format!("cargo built no {name}"))
    };
    names.iter().map(program).collect()
}

/// Returns whether nothing was found.
fn fuzz(target: &str, program: &Path, seconds: u64) -> Result<bool> {
    // New bytes stay out of the checkout until a person takes them over.
    let (found, corpus) =
        (root().join("target/fuzz").join(target), root().join(CORPORA).join(target));
    make_folder(&found)?;
    let mut fuzzer = Command::new(program);
    fuzzer.args([&format!("-max_total_time={seconds}"), INPUT_TIMEOUT, "-print_final_stats=1"]);
    fuzzer.arg(format!("-artifact_prefix={}/", found.display())).args([&found, &corpus]);
    let is_clean = fuzzer.status().context("cannot run the fuzzer")?.success();
    match is_clean {
        true => print_line(format_args!("ok     {target}: nothing found in {seconds} s")),
        false => print_line(format_args!(
            "FAILED {target}: copy the file that is named above to {}, where the test runs it too",
            corpus.display()
        )),
    }
    Ok(is_clean)
}
