//! Finds the engine, or reports why there is none and how to fix that.

use std::time::Duration;

use anyhow::Result;
use duct::cmd;
use serde_json::Value;

use crate::{ActionableError, Docker, output_within, version_number};

/// The API version of the oldest engine that is known to work: 20.10.
const MIN_API_VERSION: (u32, u32) = (1, 41);
/// An engine that does not report its version within this time hangs.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// A reason why no engine is usable.
struct EngineProblem {
    /// Parts of the command's message by which the failure is recognised.
    parts: &'static [&'static str],
    cause: &'static str,
    fix: &'static str,
}

const NO_COMMAND: EngineProblem = EngineProblem {
    parts: &[],
    cause: "there is no `docker` command",
    fix: "install Docker (Debian: sudo apt-get install docker.io)",
};
const TOO_OLD: EngineProblem = EngineProblem {
    parts: &["Maximum supported API version is "],
    cause: "the container engine is too old: its API must be 1.41 or newer",
    fix: "upgrade it to Docker 20.10 or newer",
};
const INVALID_ADDRESS: EngineProblem = EngineProblem {
    parts: &["unable to parse docker host", "no such host", "invalid bind address"],
    cause: "DOCKER_HOST is no address",
    fix: "unset DOCKER_HOST, or set it to one like unix:///var/run/docker.sock",
};
const PERMISSION_DENIED: EngineProblem = EngineProblem {
    parts: &["permission denied"],
    cause: "you may not use the container engine's socket",
    fix: "sudo usermod -aG docker $USER, then log in again",
};
const TIMEOUT: EngineProblem = EngineProblem {
    parts: &["i/o timeout", "deadline exceeded", "no route to host"],
    cause: "the container engine does not answer",
    fix: "read its log (sudo journalctl -u docker), and restart it",
};
const NOT_RUNNING: EngineProblem = EngineProblem {
    parts: &["no such file", "connection refused", "Cannot connect"],
    cause: "no container engine runs",
    fix: "start it (sudo systemctl start docker, or Docker Desktop), or correct DOCKER_HOST",
};
const UNUSABLE: EngineProblem = EngineProblem {
    parts: &[],
    cause: "what answers is no usable container engine",
    fix: "read its log, or correct DOCKER_HOST",
};
/// In the order in which they are tried.
const BY_MESSAGE: [EngineProblem; 5] =
    [TOO_OLD, INVALID_ADDRESS, PERMISSION_DENIED, TIMEOUT, NOT_RUNNING];

/// Requests the engine's version.
pub(crate) fn connect(host: Option<&str>) -> Result<Docker, ActionableError> {
    let mut docker = cmd!("docker", "version", "--format", "{{json .}}");
    if let Some(host) = host {
        docker = docker.env("DOCKER_HOST", host);
    }
    let output = output_within("docker", &docker, VERSION_TIMEOUT).map_err(|error| {
        let is_missing = error.downcast_ref::<std::io::Error>().is_some();
        if is_missing { NO_COMMAND.explain(host, "") } else { TIMEOUT.explain(host, "") }
    })?;
    let printed: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let server = &printed["Server"];
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let api_version = text(&server["ApiVersion"]);
    if !output.status.success() || api_version.is_empty() {
        return Err(explain(host, String::from_utf8_lossy(&output.stderr).trim()));
    }
    if version_number(&api_version) < MIN_API_VERSION {
        return Err(TOO_OLD.explain(host, &format!("it is {api_version}")));
    }
    let version = text(&server["Version"]);
    Ok(Docker { version, api_version, os: text(&server["Os"]), arch: text(&server["Arch"]) })
}

/// Classifies the message that the command prints.
fn explain(host: Option<&str>, message: &str) -> ActionableError {
    let is_it = |problem: &&EngineProblem| problem.parts.iter().any(|part| message.contains(part));
    BY_MESSAGE.iter().find(is_it).unwrap_or(&UNUSABLE).explain(host, message)
}

impl EngineProblem {
    fn explain(&self, host: Option<&str>, message: &str) -> ActionableError {
        let host = host.map(|host| format!("DOCKER_HOST is {host}"));
        let details = host.into_iter().chain([message.to_owned()]).filter(|text| !text.is_empty());
        let details = details.collect::<Vec<_>>().join("; ");
        let details = if details.is_empty() { details } else { format!(" ({details})") };
        ActionableError::new(format!("{}{details}", self.cause), self.fix)
    }
}

#[cfg(test)]
mod tests {
    use testkit::TempDir;
    use testkit::peer::{http_response, scripted_unix};

    use super::*;

    /// Runs the real command against sockets that misbehave in each way.
    #[test]
    fn each_kind_of_broken_engine_has_its_cause_and_its_fix() {
        let check = |host: &str, expected: &EngineProblem| {
            let error = connect(Some(host)).expect_err("nothing here is a usable engine");
            assert!(error.cause.starts_with(expected.cause), "{host}: {error}");
            assert_eq!(error.fix, expected.fix);
        };
        check("gopher://here", &INVALID_ADDRESS);
        let folder = TempDir::new("engine").unwrap();
        let host = |name: &str| format!("unix://{}", folder.path().join(name).display());
        check(&host("gone"), &NOT_RUNNING);
        let older = r#"{"message":"client version 1.52 is too new. Maximum supported API version is 1.24"}"#;
        let failing = http_response("500 Internal Server Error", r#"{"message":"disk"}"#);
        for (name, response, expected) in [
            ("older", http_response("400 Bad Request", older), &TOO_OLD),
            ("ssh", "SSH-2.0-OpenSSH\r\n".to_owned(), &UNUSABLE),
            ("failing", failing, &UNUSABLE),
        ] {
            scripted_unix(&folder.path().join(name), response).unwrap();
            check(&host(name), expected);
        }
        let denied = "permission denied while trying to connect to the Docker daemon socket";
        assert_eq!(explain(None, denied).fix, PERMISSION_DENIED.fix);
    }
}
