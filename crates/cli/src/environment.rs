//! The process's surroundings, read once: arguments, variables, terminals.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::IsTerminal as _;
use std::path::PathBuf;

/// The arguments, the variables, and which standard streams are terminals.
#[derive(Debug, Default)]
pub struct Environment {
    pub args: Vec<OsString>,
    variables: BTreeMap<String, String>,
    pub is_stdin_terminal: bool,
    pub is_stdout_terminal: bool,
    pub is_stderr_terminal: bool,
}

impl Environment {
    /// The arguments, variables and terminals of this process.
    pub fn of_process() -> Self {
        Self::new(std::env::args_os(), std::env::vars_os())
    }

    /// Variables that are not UTF-8 are left out: no setting has such a value.
    pub fn new(
        args: impl IntoIterator<Item = OsString>,
        variables: impl IntoIterator<Item = (OsString, OsString)>,
    ) -> Self {
        let text = |(name, value): (OsString, OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self {
            args: args.into_iter().collect(),
            variables: variables.into_iter().filter_map(text).collect(),
            is_stdin_terminal: std::io::stdin().is_terminal(),
            is_stdout_terminal: std::io::stdout().is_terminal(),
            is_stderr_terminal: std::io::stderr().is_terminal(),
        }
    }

    /// The value of a variable; an empty value counts as unset.
    pub fn variable(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    pub fn home(&self) -> Option<PathBuf> {
        self.variable("HOME").map(PathBuf::from)
    }

    /// The configuration file: `CIAL_CONFIG`, else `~/.cial/config.toml`.
    pub fn config_file(&self) -> Option<PathBuf> {
        let chosen = self.variable("CIAL_CONFIG").map(PathBuf::from);
        chosen.or_else(|| Some(self.home()?.join(".cial").join("config.toml")))
    }
}
