//! Finds the engine, or reports why there is none and how to fix that.

use std::process::Command;
use std::time::Duration;

use anyhow::Result;
use serde_json::Value;

use super::Docker;
use crate::environment::{output_within, variable};
use crate::error::ActionableError;

/// The API version of the oldest engine that is known to work: 20.10.
const MIN_API_VERSION: &str = "1.41";
/// An engine that does not report its version within this time hangs.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// The reason why no engine is usable.
#[derive(Clone, Debug, PartialEq, Eq)]
enum ConnectError {
    /// There is no `docker` command.
    NoCommand,
    /// `DOCKER_HOST` is no address.
    InvalidAddress,
    /// Nothing listens at the address.
    NotRunning,
    /// The socket refuses this user.
    PermissionDenied,
    /// The engine accepts the connection and does not respond.
    Timeout,
    /// The response is not an engine's, or reports a failure, which this text contains.
    Unusable(String),
    /// The API version of the engine.
    TooOld(String),
}

/// Requests the engine's version; `variables` replace those of xtask.
pub(super) fn connect(variables: &[(&str, &str)]) -> Result<Docker> {
    let found = version(variables).map_err(|error| error.explain());
    Ok(found?)
}

fn version(variables: &[(&str, &str)]) -> Result<Docker, ConnectError> {
    let mut docker = Command::new("docker");
    docker.args(["version", "--format", "{{json .}}"]).envs(variables.iter().copied());
    let output = output_within(&mut docker, VERSION_TIMEOUT).map_err(|error| {
        let is_missing = error.downcast_ref::<std::io::Error>().is_some();
        if is_missing { ConnectError::NoCommand } else { ConnectError::Timeout }
    })?;
    let stderr = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    let told: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let server = &told["Server"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&server["ApiVersion"]);
    if !output.status.success() || api_version.is_empty() {
        return Err(ConnectError::of(&stderr));
    }
    if number(&api_version) < number(MIN_API_VERSION) {
        return Err(ConnectError::TooOld(api_version));
    }
    let version = text(&server["Version"]);
    Ok(Docker { version, api_version, os: text(&server["Os"]), arch: text(&server["Arch"]) })
}

impl ConnectError {
    /// Classifies the message that the command prints.
    fn of(message: &str) -> Self {
        let has = |parts: &[&str]| parts.iter().any(|part| message.contains(part));
        if let Some((_, newest)) = message.split_once("Maximum supported API version is ") {
            Self::TooOld(newest.trim().to_owned())
        } else if has(&["unable to parse docker host", "no such host", "invalid bind address"]) {
            Self::InvalidAddress
        } else if has(&["permission denied"]) {
            Self::PermissionDenied
        } else if has(&["i/o timeout", "deadline exceeded", "no route to host"]) {
            Self::Timeout
        } else if has(&["no such file", "connection refused", "Cannot connect"]) {
            Self::NotRunning
        } else {
            Self::Unusable(message.to_owned())
        }
    }

    fn explain(&self) -> ActionableError {
        let host = variable("DOCKER_HOST");
        let place = host.as_ref().map_or("here".to_owned(), |host| format!("at {host}"));
        let (cause, fix) = match self {
            Self::NoCommand => (
                "there is no `docker` command".to_owned(),
                "install Docker (Debian: sudo apt-get install docker.io)",
            ),
            Self::InvalidAddress => (
                format!("DOCKER_HOST is {:?}, which is no address", host.unwrap_or_default()),
                "unset DOCKER_HOST, or set it to one like unix:///var/run/docker.sock",
            ),
            Self::NotRunning if host.is_some() => (
                format!("no container engine runs {place}, which DOCKER_HOST names"),
                "start it there, or unset DOCKER_HOST to use the local one",
            ),
            Self::NotRunning => (
                "no container engine runs here".to_owned(),
                "install Docker, or start it: sudo systemctl start docker, or Docker Desktop",
            ),
            Self::PermissionDenied => (
                "you may not use the container engine's socket".to_owned(),
                "sudo usermod -aG docker $USER, then log in again",
            ),
            Self::Timeout => (
                format!("the container engine {place} does not answer"),
                "read its log (sudo journalctl -u docker), and restart it",
            ),
            Self::Unusable(words) => (
                format!("what answers {place} is no usable container engine: {words}"),
                "read its log (sudo journalctl -u docker), or correct DOCKER_HOST",
            ),
            Self::TooOld(api) => (
                format!(
                    "the container engine {place} has API {api}; at least {MIN_API_VERSION} is needed"
                ),
                "upgrade it to Docker 20.10 or newer",
            ),
        };
        ActionableError::new(cause, fix)
    }
}

fn number(api: &str) -> (u32, u32) {
    let (major, minor) = api.split_once('.').unwrap_or((api, "0"));
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;
    use testkit::peer::{http_response, scripted_unix};

    use super::*;

    #[test]
    fn api_versions_compare_as_numbers() {
        let cases = [
            ("1.9", true),
            ("1.40", true),
            ("", true),
            ("1.41", false),
            ("1.50", false),
            ("2.0", false),
        ];
        for (api, is_old) in cases {
            assert_eq!(number(api) < number(MIN_API_VERSION), is_old, "{api}");
        }
    }

    /// Runs the real command against sockets that misbehave in each way.
    #[test]
    fn each_kind_of_broken_engine_is_told_apart() {
        let error = |host: &str| version(&[("DOCKER_HOST", host), ("DOCKER_CONTEXT", "")]);
        let error = |host: &str| error(host).expect_err("nothing here is a usable engine");
        assert_eq!(error("gopher://here"), ConnectError::InvalidAddress);
        let folder = TempDir::new("engine").unwrap();
        let path = folder.path().join("gone");
        assert_eq!(error(&format!("unix://{}", path.display())), ConnectError::NotRunning);
        let with_response = |name: &str, response: String| {
            let path = folder.path().join(name);
            scripted_unix(&path, response).unwrap();
            error(&format!("unix://{}", path.display()))
        };
        let older = r#"{"message":"client version 1.52 is too new. Maximum supported API version is 1.24"}"#;
        let refused = http_response("400 Bad Request", older);
        assert_eq!(with_response("older", refused), ConnectError::TooOld("1.24".to_owned()));
        for (name, response) in [
            ("ssh", "SSH-2.0-OpenSSH\r\n".to_owned()),
            ("failing", http_response("500 Internal Server Error", r#"{"message":"disk"}"#)),
        ] {
            let error = with_response(name, response);
            assert!(matches!(error, ConnectError::Unusable(_)), "{name}: {error:?}");
        }
        let denied = "permission denied while trying to connect to the Docker daemon socket";
        assert_eq!(ConnectError::of(denied), ConnectError::PermissionDenied);
    }

    #[test]
    fn each_kind_has_a_fix_of_its_own() {
        let errors = [
            ConnectError::NoCommand,
            ConnectError::InvalidAddress,
            ConnectError::NotRunning,
            ConnectError::PermissionDenied,
            ConnectError::Timeout,
            ConnectError::Unusable("<html>".to_owned()),
            ConnectError::TooOld("1.40".to_owned()),
        ];
        let mut fixes: Vec<_> = errors.iter().map(|error| error.explain().fix).collect();
        fixes.sort();
        fixes.dedup();
        assert_eq!(fixes.len(), errors.len());
    }
}
