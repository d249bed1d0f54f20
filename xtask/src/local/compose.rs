//! Compose in the version of this machine: the plugin `docker compose` (2), or `docker-compose`
//! (1.29 and newer).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};
use docker_command::{ActionableError, last_lines, version_number};

use super::installation::Installation;
use crate::environment::root;

/// A compose command that works.
pub(crate) struct Compose {
    program: Program,
    version: String,
    /// The folder in which the docker command finds its plugins, in place of the default one.
    config: Option<PathBuf>,
}

const PROGRAMS: [Program; 2] = [&["docker", "compose"], &["docker-compose"]];
const MIN_VERSION: (u32, u32) = (1, 29);

impl Compose {
    /// Finds the first command that is new enough. The error is an [`ActionableError`].
    pub(crate) fn find() -> Result<Self> {
        let versions = PROGRAMS.map(|program| (program, version(program, None)));
        let (program, version) = choose(versions)?;
        Ok(Self { program, version, config: None })
    }

    /// Finds the plugin only, for the step that proves the literal `docker compose`.
    pub(crate) fn plugin(config: Option<&Path>) -> Result<Self> {
        let version = version(PROGRAMS[0], config).context("`docker compose` does not answer")?;
        Ok(Self { program: PROGRAMS[0], version, config: config.map(Path::to_owned) })
    }

    pub(crate) fn describe(&self) -> String {
        format!("{} {}", self.program.join(" "), self.version)
    }

    /// Builds a call of compose for this installation, independent of the current folder.
    pub(crate) fn command(&self, installation: &Installation) -> Command {
        let root = root();
        let mut command = command_of(self.program, self.config.as_deref());
        command.arg("--file").arg(root.join("compose.yml"));
        command.arg("--project-directory").arg(&root);
        command.args(["--project-name", &installation.project()]);
        command.envs(installation.variables()).stdin(Stdio::null());
        command
    }

    pub(crate) fn run(&self, installation: &Installation, args: &[&str], log: &Path) -> Result<()> {
        let mut command = self.command(installation);
        command.args(args);
        log_output(command, log).with_context(|| format!("compose {}", args.join(" ")))
    }
}

/// Runs a program and appends its output to the log; an error contains the last lines of the output.
pub(super) fn log_output(mut command: Command, log: &Path) -> Result<()> {
    let program = command.get_program().to_string_lossy().into_owned();
    let open = || std::fs::OpenOptions::new().create(true).append(true).open(log);
    let file = open().with_context(|| format!("cannot write {}", log.display()))?;
    let before = file.metadata()?.len();
    command.stdout(file.try_clone()?).stderr(file);
    let status = command.status().with_context(|| format!("cannot run {program}"))?;
    if status.success() {
        return Ok(());
    }
    let output = std::fs::read(log).unwrap_or_default();
    let output = String::from_utf8_lossy(output.get(before as usize..).unwrap_or_default());
    anyhow::bail!("{program} failed:\n{}", last_lines(&output, 8))
}

type Program = &'static [&'static str];

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

fn command_of(program: Program, config: Option<&Path>) -> Command {
    let mut command = Command::new(program[0]);
    command.args(&program[1..]).envs(config.map(|folder| ("DOCKER_CONFIG", folder)));
    command
}

/// The version that the program reports; `None` where there is no such program.
fn version(program: Program, config: Option<&Path>) -> Option<String> {
    let output = command_of(program, config).args(["version", "--short"]).output().ok()?;
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
