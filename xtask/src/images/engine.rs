//! The container engine: a connection to it, or why there is none and what to do about that.

use std::io::ErrorKind;
use std::time::Duration;

use anyhow::Result;
use bollard::Docker;
use bollard::errors::Error as EngineError;

use crate::fault::Fault;
use crate::world;

/// The oldest engine that is known to work: 20.10.
const OLDEST_API: &str = "1.41";
/// Building and importing may take long; a request that takes longer than this hangs.
const PATIENCE: Duration = Duration::from_secs(1_800);
/// An engine that says nothing for so long when it is asked for its version hangs.
const GREETING: Duration = Duration::from_secs(20);
const USUAL_HOST: &str = "unix:///var/run/docker.sock";

/// Why there is no engine to work with.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Trouble {
    /// The address is none that can be connected to.
    Address,
    /// Nothing is there.
    Absent,
    /// Something is there, and does not let this user in.
    Forbidden,
    /// It takes the connection, and says nothing.
    Silent,
    /// What answers is no engine, or an ailing one; in its words.
    Strange(String),
    /// The version of its API.
    TooOld(String),
}

/// A connection to the engine that `DOCKER_HOST` names, or to the local one. The error is a [`Fault`].
pub async fn engine() -> Result<Docker> {
    let host = world::var("DOCKER_HOST").unwrap_or_else(|| USUAL_HOST.to_owned());
    Ok(connect(&host).await.map_err(|trouble| trouble.at(&host))?)
}

async fn connect(host: &str) -> Result<Docker, Trouble> {
    let docker = Docker::connect_with_host(host).map_err(|error| Trouble::of(&error))?;
    let greeting = tokio::time::timeout(GREETING, docker.negotiate_version()).await;
    let docker = greeting.map_err(|_| Trouble::Silent)?.map_err(|error| Trouble::of(&error))?;
    let version = docker.version().await.map_err(|error| Trouble::of(&error))?;
    let api = version.api_version.unwrap_or_default();
    if number(&api) < number(OLDEST_API) {
        Err(Trouble::TooOld(api))
    } else {
        Ok(docker.with_timeout(PATIENCE))
    }
}

impl Trouble {
    fn of(error: &EngineError) -> Self {
        if let EngineError::DockerResponseServerError { message, .. } = error
            && let Some((_, newest)) = message.split_once("Maximum supported API version is ")
        {
            return Self::TooOld(newest.trim().to_owned());
        }
        if let EngineError::IOError { err } = error {
            return Self::of_io(err.kind(), error);
        }
        if matches!(error, EngineError::UnsupportedURISchemeError { .. }) {
            return Self::Address;
        }
        if matches!(error, EngineError::SocketNotFoundError(_)) {
            return Self::Absent;
        }
        if matches!(error, EngineError::RequestTimeoutError) {
            return Self::Silent;
        }
        let mut chain = anyhow::Chain::new(error);
        let io = chain.find_map(|cause| cause.downcast_ref::<std::io::Error>());
        io.map_or_else(|| Self::Strange(error.to_string()), |io| Self::of_io(io.kind(), error))
    }

    fn of_io(kind: ErrorKind, error: &EngineError) -> Self {
        use ErrorKind::{
            ConnectionRefused, HostUnreachable, NetworkUnreachable, NotFound, PermissionDenied,
            TimedOut,
        };
        if matches!(kind, NotFound | ConnectionRefused) {
            Self::Absent
        } else if kind == PermissionDenied {
            Self::Forbidden
        } else if matches!(kind, TimedOut | HostUnreachable | NetworkUnreachable) {
            Self::Silent
        } else {
            Self::Strange(error.to_string())
        }
    }

    fn at(&self, host: &str) -> Fault {
        let is_usual = host == USUAL_HOST;
        let start = "start it: sudo systemctl start docker, or Docker Desktop";
        match self {
            Self::Address => Fault::new(
                format!("DOCKER_HOST is {host:?}, which is no address of a container engine"),
                format!(
                    "unset DOCKER_HOST, or set it to one like {USUAL_HOST} or tcp://127.0.0.1:2375"
                ),
            ),
            Self::Absent if is_usual => Fault::new(
                format!("no container engine runs at {host}"),
                format!("install Docker, or {start}"),
            ),
            Self::Absent => Fault::new(
                format!("no container engine runs at {host}, which DOCKER_HOST names"),
                "start it there, or unset DOCKER_HOST to use the local one",
            ),
            Self::Forbidden => Fault::new(
                format!("you may not use the container engine's socket {host}"),
                "sudo usermod -aG docker $USER, then log in again",
            ),
            Self::Silent => Fault::new(
                format!("the container engine at {host} does not answer"),
                "look at what it says (sudo journalctl -u docker), and restart it",
            ),
            Self::Strange(words) => Fault::new(
                format!("what answers at {host} is no container engine, or an ailing one: {words}"),
                "look at what it says (sudo journalctl -u docker), or correct DOCKER_HOST",
            ),
            Self::TooOld(api) => Fault::new(
                format!(
                    "the container engine at {host} speaks API {api}; at least {OLDEST_API} is needed"
                ),
                "upgrade it to Docker 20.10 or newer",
            ),
        }
    }
}

fn number(api: &str) -> (u32, u32) {
    let (major, minor) = api.split_once('.').unwrap_or((api, "0"));
    (major.parse().unwrap_or(0), minor.parse().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};
    use std::os::unix::net::UnixListener;
    use std::path::PathBuf;

    use super::*;

    fn socket(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("cial-engine-{name}-{}", std::process::id()));
        let _ = std::fs::remove_file(&path);
        path
    }

    async fn trouble(host: &str) -> Trouble {
        connect(host).await.expect_err("nothing here is an engine that will do")
    }

    /// What is told of an engine that gives this answer to whatever it is asked.
    async fn trouble_with(name: &str, answer: String) -> Trouble {
        let path = socket(name);
        let listener = UnixListener::bind(&path).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let _ = stream.read(&mut [0; 4096]).unwrap();
                let _ = stream.write_all(answer.as_bytes());
            }
        });
        let trouble = trouble(&format!("unix://{}", path.display())).await;
        std::fs::remove_file(&path).unwrap();
        trouble
    }

    fn http(status: &str, body: &str) -> String {
        let length = body.len();
        format!(
            "HTTP/1.1 {status}\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: {length}\r\n\r\n{body}"
        )
    }

    #[test]
    fn versions_compare_as_numbers() {
        let cases = [
            ("1.9", true),
            ("1.40", true),
            ("", true),
            ("1.41", false),
            ("1.50", false),
            ("2.0", false),
        ];
        for (api, is_old) in cases {
            assert_eq!(number(api) < number(OLDEST_API), is_old, "{api}");
        }
    }

    #[tokio::test]
    async fn each_trouble_is_told_apart_from_the_others() {
        assert_eq!(trouble("gopher://here").await, Trouble::Address);
        let path = socket("gone");
        let host = format!("unix://{}", path.display());
        assert_eq!(trouble(&host).await, Trouble::Absent);
        drop(UnixListener::bind(&path).unwrap());
        assert_eq!(trouble(&host).await, Trouble::Absent, "a socket that nobody listens on");
        std::fs::remove_file(&path).unwrap();

        let old = r#"{"Version":"19.03.15","ApiVersion":"1.40"}"#;
        assert_eq!(
            trouble_with("old", http("200 OK", old)).await,
            Trouble::TooOld("1.40".to_owned())
        );
        let older = r#"{"message":"client version 1.52 is too new. Maximum supported API version is 1.24"}"#;
        let answer = http("400 Bad Request", older);
        assert_eq!(trouble_with("older", answer).await, Trouble::TooOld("1.24".to_owned()));
        for (name, answer) in [
            ("web", http("200 OK", "<html>")),
            ("ssh", "SSH-2.0-OpenSSH\r\n".to_owned()),
            ("mute", String::new()),
        ] {
            let trouble = trouble_with(name, answer).await;
            assert!(matches!(trouble, Trouble::Strange(_)), "{name}: {trouble:?}");
        }
        let forbidden = EngineError::IOError { err: ErrorKind::PermissionDenied.into() };
        assert_eq!(Trouble::of(&forbidden), Trouble::Forbidden);
    }

    #[test]
    fn each_trouble_has_a_fix_of_its_own() {
        let troubles = [
            Trouble::Address,
            Trouble::Absent,
            Trouble::Forbidden,
            Trouble::Silent,
            Trouble::Strange("<html>".to_owned()),
            Trouble::TooOld("1.40".to_owned()),
        ];
        let told: Vec<_> =
            troubles.iter().map(|trouble| trouble.at(USUAL_HOST).to_string()).collect();
        insta::assert_snapshot!(told.join("\n"));
    }
}
