//! Compose in the version of this machine: the plugin `docker compose` (2), or `docker-compose`
//! (1.29 and newer).

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result};

use crate::{ActionableError, version_number};

/// A compose command that works.
pub struct Compose {
    program: Program,
    version: String,
    /// The folder in which the docker command finds its plugins, in place of the default one.
    config: Option<PathBuf>,
}

type Program = &'static [&'static str];

const PROGRAMS: [Program; 2] = [&["docker", "compose"], &["docker-compose"]];
const MIN_VERSION: (u32, u32) = (1, 29);

impl Compose {
    /// Finds the first command that is new enough.
    ///
    /// # Errors
    /// An [`ActionableError`]: there is none.
    pub fn find() -> Result<Self> {
        let versions = PROGRAMS.map(|program| (program, version(program, None)));
        let (program, version) = choose(versions)?;
        Ok(Self { program, version, config: None })
    }

    /// Finds the plugin only, as the literal `docker compose`.
    ///
    /// # Errors
    /// There is no plugin.
    pub fn plugin(config: Option<&Path>) -> Result<Self> {
        let version = version(PROGRAMS[0], config).context("`docker compose` does not answer")?;
        Ok(Self { program: PROGRAMS[0], version, config: config.map(Path::to_owned) })
    }

    pub fn describe(&self) -> String {
        format!("{} {}", self.program.join(" "), self.version)
    }

    /// Begins a call; its arguments are to follow.
    pub fn command(&self) -> Command {
        command(self.program, self.config.as_deref())
    }
}

/// Chooses the first program whose version is new enough.
fn choose(programs: [(Program, Option<String>); 2]) -> Result<(Program, String), ActionableError> {
    let fix =
        "Debian: sudo apt-get install docker-compose; elsewhere the package docker-compose-plugin";
    let mut cause =
        "Compose is missing: neither `docker compose` nor docker-compose answers".to_owned();
    for (program, version) in programs {
        let Some(version) = version else { continue };
        if version_number(&version) >= MIN_VERSION {
            return Ok((program, version));
        }
        cause = format!("{} is {version}; at least 1.29 is needed", program.join(" "));
    }
    Err(ActionableError::new(cause, fix))
}

fn command(program: Program, config: Option<&Path>) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).envs(config.map(|folder| ("DOCKER_CONFIG", folder)));
    command
}

/// The version that the program reports; `None` where there is no such program.
fn version(program: Program, config: Option<&Path>) -> Option<String> {
    let output = command(program, config).args(["version", "--short"]).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().trim_start_matches('v').to_owned();
    (output.status.success() && text.starts_with(|c: char| c.is_ascii_digit())).then_some(text)
}

#[test]
fn the_first_program_that_is_new_enough_is_chosen() {
    let chosen = |plugin: Option<&str>, other: Option<&str>| {
        let [plugin, other] = [plugin, other].map(|version| version.map(str::to_owned));
        match choose([(PROGRAMS[0], plugin), (PROGRAMS[1], other)]) {
            Ok((program, version)) => format!("{} {version}", program.join(" ")),
            Err(fault) => fault.cause,
        }
    };
    assert_eq!(chosen(Some("2.26.1"), Some("1.29.2")), "docker compose 2.26.1");
    assert_eq!(chosen(None, Some("1.29.2")), "docker-compose 1.29.2");
    assert_eq!(chosen(Some("1.0.0"), Some("1.29.2")), "docker-compose 1.29.2");
    assert_eq!(chosen(None, Some("1.25.0")), "docker-compose is 1.25.0; at least 1.29 is needed");
    assert!(chosen(None, None).starts_with("Compose is missing"));
}
