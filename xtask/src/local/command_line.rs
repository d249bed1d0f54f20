//! The command line of an installation: the program `.cial/bin/cial`, the first API key, and a profile that names both.

use std::fs::OpenOptions;
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use docker_command::output_within;
use duct::cmd;

use super::installation::Installation;
use crate::environment::root;
use crate::images::binaries::{self, BinarySource};

/// Where app-api keeps the key that it made at its first start.
const KEY_IN_CONTAINER: &str = "/var/lib/cial/bootstrap-key";
const CALL_TIMEOUT: Duration = Duration::from_secs(20);

/// Compiles the program of this checkout, together with the images' binaries where those are compiled here.
pub(super) fn compile(installation: &Installation) -> Result<()> {
    let source = installation.images.binaries.unwrap_or(BinarySource::Built);
    binaries::compile_command_line(source, &folder())
}

/// Fetches the first key, and writes the profile. A key that its operator removed stays away.
pub(super) fn connect(installation: &Installation) -> Result<()> {
    let key = installation.folder().join("bootstrap-key");
    if let Some(text) = key_in_container(installation)? {
        write_private(&key, &text).with_context(|| format!("cannot write {}", key.display()))?;
    }
    let server = ["profile", "set", &installation.name, "--server", &installation.admin_url];
    let key = key.exists().then(|| ["--api-key".to_owned(), format!("file:{}", key.display())]);
    let args = server.map(str::to_owned).into_iter().chain(key.into_iter().flatten());
    let mut set = cmd(program(), args);
    if let Some(config) = installation.command_line_config() {
        set = set.env("CIAL_CONFIG", config);
    }
    let output = output_within("cial", &set, CALL_TIMEOUT)?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

pub(super) fn program() -> PathBuf {
    folder().join("cial")
}

fn folder() -> PathBuf {
    root().join(".cial/bin")
}

/// The key's text; `None` when the container has no such file any more.
fn key_in_container(installation: &Installation) -> Result<Option<String>> {
    let app_api = installation.objects().service("app-api")?;
    match docker_command::run(&["exec", &app_api.id, "cat", KEY_IN_CONTAINER]) {
        Ok(text) => Ok(Some(text)),
        Err(error) if format!("{error:#}").contains("No such file") => Ok(None),
        Err(error) => Err(error).context("cannot read the first API key"),
    }
}

/// Writes a file that only its owner can read, from its first byte on.
fn write_private(path: &Path, text: &str) -> std::io::Result<()> {
    let partial = path.with_extension("new");
    if partial.exists() {
        std::fs::remove_file(&partial)?;
    }
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&partial)?;
    file.write_all(text.as_bytes())?;
    std::fs::rename(&partial, path)
}
