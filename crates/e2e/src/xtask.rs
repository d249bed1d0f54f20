//! `cargo xtask …` as a person calls it, on the installation under test.

use std::process::{Command, Output};

use anyhow::{Context as _, Result, ensure};

/// Runs a command of xtask to its end. Both outputs are captured.
///
/// # Errors
/// Cargo cannot be run.
pub fn run(args: &[&str], variables: &[(&str, &str)]) -> Result<Output> {
    let mut cargo = Command::new(env!("CARGO"));
    cargo.current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."));
    cargo.arg("xtask").args(args).envs(variables.iter().copied());
    cargo.output().with_context(|| format!("cannot run xtask {}", args.join(" ")))
}

/// # Errors
/// The command fails; the message holds its outputs.
pub fn succeed(args: &[&str], variables: &[(&str, &str)]) -> Result<()> {
    let output = run(args, variables)?;
    let text = text_of(&output);
    ensure!(output.status.success(), "xtask {}: {}\n{text}", args.join(" "), output.status);
    Ok(())
}

/// # Errors
/// The command succeeds.
pub fn refuse(args: &[&str], variables: &[(&str, &str)]) -> Result<String> {
    let output = run(args, variables)?;
    let text = text_of(&output);
    ensure!(!output.status.success(), "xtask {} succeeded:\n{text}", args.join(" "));
    Ok(text)
}

fn text_of(output: &Output) -> String {
    let [out, err] = [&output.stdout, &output.stderr].map(|text| String::from_utf8_lossy(text));
    format!("{out}{err}")
}
