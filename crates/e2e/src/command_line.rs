//! The command line `cial`, with the configuration of the installation.

use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::installation::required;

/// The output of a command, and its exit code.
pub struct Printed {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// Runs `cial`, with a key where one is given.
///
/// # Errors
/// The program cannot be run.
pub fn cial(words: &[&str], key: Option<&str>) -> Result<Printed> {
    let mut command = Command::new(required("CIAL_E2E_CIAL")?);
    command.args(words).env("CIAL_CONFIG", required("CIAL_E2E_CONFIG")?);
    for name in ["CIAL_SERVER", "CIAL_API_KEY", "CIAL_PROFILE", "CIAL_TENANT"] {
        command.env_remove(name);
    }
    // Keys are secrets, so commands name a variable.
    if let Some(key) = key {
        command.env("ONE_OFF_KEY", key);
    }
    let output =
        command.output().with_context(|| format!("cannot run cial {}", words.join(" ")))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Printed {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// Returns the standard error of a command that must fail.
///
/// # Errors
/// The command succeeds or cannot be run.
pub fn fails(words: &[&str], key: Option<&str>) -> Result<String> {
    let Printed { code, stdout, stderr } = cial(words, key)?;
    ensure!(code == Some(1), "cial {}: {code:?}\n{stdout}{stderr}", words.join(" "));
    Ok(stderr)
}

/// Returns the standard output of a command that must succeed.
///
/// # Errors
/// The command fails or cannot be run.
pub fn succeed(words: &[&str], key: Option<&str>) -> Result<String> {
    let printed = cial(words, key)?;
    let Printed { code, stdout, stderr } = &printed;
    ensure!(*code == Some(0), "cial {}: {code:?}\n{stdout}{stderr}", words.join(" "));
    Ok(printed.stdout)
}
