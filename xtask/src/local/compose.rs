//! Compose in the version of this machine: the plugin `docker compose` (2), or `docker-compose`
//! (1.29 and newer).

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result};

use super::installation::Installation;
use crate::environment::root;
use crate::error::ActionableError;

/// A compose command that works.
pub struct Compose {
    program: Program,
    version: String,
    /// The folder in which the docker command finds its plugins, in place of the default one.
    config: Option<PathBuf>,
}

const PROGRAMS: [Program; 2] = [&["docker", "compose"], &["docker-compose"]];
const MIN_VERSION: (u32, u32) = (1, 29);

impl Compose {
    /// Finds the first command that is new enough. The error is an [`ActionableError`].
    pub fn find() -> Result<Self> {
        let (program, version) = choose(PROGRAMS.map(|program| (program, version_of(program))))?;
        Ok(Self { program, version, config: None })
    }

    /// Finds the plugin only, for the step that proves the literal `docker compose`.
    pub fn plugin(config: Option<&Path>) -> Result<Self> {
        let config = config.map(Path::to_owned);
        let plugin = Self { program: PROGRAMS[0], version: String::new(), config };
        let version = read_version(plugin.program().args(["version", "--short"]));
        Ok(Self { version: version.context("`docker compose` does not answer")?, ..plugin })
    }

    fn program(&self) -> Command {
        let mut command = Command::new(self.program[0]);
        command.args(&self.program[1..]);
        command.envs(self.config.iter().map(|folder| ("DOCKER_CONFIG", folder)));
        command
    }

    pub fn describe(&self) -> String {
        format!("{} {}", self.program.join(" "), self.version)
    }

    /// Builds a call of compose for this installation, independent of the current folder.
    pub fn command(&self, installation: &Installation) -> Command {
        let root = root();
        let mut command = self.program();
        command.arg("--file").arg(root.join("compose.yml"));
        command.arg("--project-directory").arg(&root);
        command.args(["--project-name", &installation.project()]);
        command.envs(installation.variables()).stdin(Stdio::null());
        command
    }

    pub fn run(&self, installation: &Installation, args: &[&str], log: &Path) -> Result<()> {
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
    let lines: Vec<_> = output.lines().filter(|line| !line.trim().is_empty()).collect();
    let tail = lines[lines.len().saturating_sub(8)..].join("\n");
    anyhow::bail!("{program} failed:\n{tail}")
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
        if number(&version) >= MIN_VERSION {
            return Ok((program, version));
        }
        cause = format!("{} is {version}; at least 1.29 is needed", program.join(" "));
    }
    Err(ActionableError::new(cause, fix))
}

fn version_of(program: &[&str]) -> Option<String> {
    read_version(Command::new(program[0]).args(&program[1..]).args(["version", "--short"]))
}

fn read_version(command: &mut Command) -> Option<String> {
    let output = command.output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().trim_start_matches('v').to_owned();
    (output.status.success() && text.starts_with(|c: char| c.is_ascii_digit())).then_some(text)
}

fn number(version: &str) -> (u32, u32) {
    let mut parts = version.split(['.', '-', '+']).map(|part| part.parse().unwrap_or(0));
    (parts.next().unwrap_or(0), parts.next().unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_program_that_is_new_enough_is_chosen() {
        let chosen = |plugin: Option<&str>, other: Option<&str>| {
            let versions = [plugin, other].map(|version| version.map(str::to_owned));
            let [plugin, other] = versions;
            match choose([(PROGRAMS[0], plugin), (PROGRAMS[1], other)]) {
                Ok((program, version)) => format!("{} {version}", program.join(" ")),
                Err(fault) => fault.cause,
            }
        };
        assert_eq!(chosen(Some("2.26.1"), Some("1.29.2")), "docker compose 2.26.1");
        assert_eq!(chosen(None, Some("1.29.2")), "docker-compose 1.29.2");
        assert_eq!(chosen(Some("1.0.0"), Some("1.29.2")), "docker-compose 1.29.2");
        assert_eq!(
            chosen(None, Some("1.25.0")),
            "docker-compose is 1.25.0; at least 1.29 is needed"
        );
        assert!(chosen(None, None).starts_with("Compose is missing"));
    }

    #[test]
    fn versions_compare_as_numbers() {
        assert!(number("1.25.0") < MIN_VERSION);
        assert!(number("1.29.2") >= MIN_VERSION);
        assert!(number("2.26.1-4") >= MIN_VERSION);
        assert!(number("2.3.3") >= MIN_VERSION);
    }
}
