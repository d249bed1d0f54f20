//! The command line `cial`, with the configuration of the installation.

use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use serde_json::Value;
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
pub fn command(args: &[&str]) -> Result<Command> {
    let mut command = Command::new(required("CIAL_E2E_CIAL")?);
    command.args(args).env("CIAL_CONFIG", required("CIAL_E2E_CONFIG")?);
    for name in ["CIAL_SERVER", "CIAL_API_KEY", "CIAL_PROFILE", "CIAL_TENANT"] {
        command.env_remove(name);
    }
    Ok(command)
}

/// Runs `cial`, with a key where one is given.
///
/// # Errors
/// The program cannot be run.
pub fn cial(args: &[&str], key: Option<&str>) -> Result<Printed> {
    let mut command = command(args)?;
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

impl Printed {
    /// Fails unless the command ended with this code.
    ///
    /// # Errors
    /// The code is another one; the message holds both outputs.
    pub fn expect_code(self, expected: i32, args: &[&str]) -> Result<Self> {
        let Self { code, stdout, stderr } = &self;
        ensure!(*code == Some(expected), "cial {}: {code:?}\n{stdout}{stderr}", args.join(" "));
        Ok(self)
    }
}

/// Returns the standard output of a command that must succeed, with `input` as its standard input.
///
/// # Errors
/// The command fails or cannot be run.
pub fn succeed_with_input(args: &[&str], input: &str) -> Result<String> {
    let mut child = command(args)?
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?;
    child.stdin.take().context("it has an input")?.write_all(input.as_bytes())?;
    let output = child.wait_with_output()?;
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let stderr = text(&output.stderr);
    ensure!(output.status.success(), "cial {}: {}\n{stderr}", args.join(" "), output.status);
    Ok(text(&output.stdout))
}

/// Returns the standard error of a command that must fail.
///
/// # Errors
/// The command succeeds or cannot be run.
pub fn fails(args: &[&str], key: Option<&str>) -> Result<String> {
    Ok(cial(args, key)?.expect_code(1, args)?.stderr)
}

/// Returns the standard output of a command that must succeed.
///
/// # Errors
/// The command fails or cannot be run.
pub fn succeed(args: &[&str], key: Option<&str>) -> Result<String> {
    Ok(cial(args, key)?.expect_code(0, args)?.stdout)
}

/// Creates an app with a release for each image, all with the manifest in a file if one is given.
///
/// # Errors
/// A command fails.
pub fn create_app(app: &str, images: &[String], manifest: Option<&str>) -> Result<()> {
    succeed(&["apps", "create", app], None)?;
    for image in images {
        let mut create = vec!["apps", "release", "create", app, "--image", image];
        create.extend(manifest.into_iter().flat_map(|file| ["--manifest", file]));
        succeed(&create, None)?;
    }
    Ok(())
}

/// Deletes these tenants, then the app that they run.
///
/// # Errors
/// A command fails.
pub fn delete_app(app: &str, tenants: &[&str]) -> Result<()> {
    for slug in tenants {
        succeed(&["tenants", "delete", slug, "--yes"], None)?;
    }
    succeed(&["apps", "delete", app, "--yes"], None).map(drop)
}

/// Like [`succeed`], with JSON for its output.
///
/// # Errors
/// The command fails or cannot be run, or prints no JSON.
pub fn json(args: &[&str]) -> Result<Value> {
    parsed(args, &succeed(&[args, &["--output", "json"]].concat(), None)?)
}

/// Parses what a command printed.
///
/// # Errors
/// It is no JSON.
pub fn parsed(args: &[&str], text: &str) -> Result<Value> {
    serde_json::from_str(text).with_context(|| format!("cial {}: {text}", args.join(" ")))
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
