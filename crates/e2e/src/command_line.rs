//! The command line `cial`, with the configuration of the installation.

use std::path::Path;
use std::process::Command;

use anyhow::{Context as _, Result, ensure};
use testkit::installation::required;

/// The output of a command, and its exit code.
pub struct Printed {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

/// `cial` with the configuration of the installation.
///
/// # Errors
/// The installation names no program.
pub fn command(words: &[&str]) -> Result<Command> {
    let mut command = Command::new(required("CIAL_E2E_CIAL")?);
    command.args(words).env("CIAL_CONFIG", required("CIAL_E2E_CONFIG")?);
    for name in ["CIAL_SERVER", "CIAL_API_KEY", "CIAL_PROFILE", "CIAL_TENANT"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Runs `cial`, with a key where one is given.
///
/// # Errors
/// The program cannot be run.
pub fn cial(words: &[&str], key: Option<&str>) -> Result<Printed> {
    let mut command = command(words)?;
    // Keys are secrets, so commands name a variable.
    if let Some(key) = key {
        command.env("ONE_OFF_KEY", key);
    }
    run(&mut command)
}

/// Runs a command to its end.
///
/// # Errors
/// The program cannot be run.
pub fn run(command: &mut Command) -> Result<Printed> {
    let output = command.output().with_context(|| format!("cannot run {command:?}"))?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    Ok(Printed {
        code: output.status.code(),
        stdout: text(&output.stdout),
        stderr: text(&output.stderr),
    })
}

/// Whether a program of 64-bit ELF names an interpreter, and so needs libraries of the machine that runs it.
///
/// # Errors
/// The file cannot be read, or is no such program.
pub fn names_interpreter(program: &Path) -> Result<bool> {
    const PT_INTERP: u64 = 3;
    let bytes = std::fs::read(program).with_context(|| program.display().to_string())?;
    ensure!(bytes.starts_with(b"\x7fELF\x02\x01"), "{} is no 64-bit ELF", program.display());
    let number = |at: usize, length: usize| -> Result<u64> {
        let field = bytes.get(at..at + length).context("a header beyond the end")?;
        Ok(field.iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte)))
    };
    // Offset, size and number of the program headers; each begins with its type.
    let (offset, size, count) = (number(0x20, 8)?, number(0x36, 2)?, number(0x38, 2)?);
    for header in 0..count {
        if number(usize::try_from(offset + header * size)?, 4)? == PT_INTERP {
            return Ok(true);
        }
    }
    Ok(false)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_found_in_a_dynamic_program() {
        assert!(names_interpreter(Path::new("/bin/sh")).unwrap());
        assert!(names_interpreter(Path::new("/etc/passwd")).is_err());
    }
}
