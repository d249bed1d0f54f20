//! From `main` to a running service and back to a true exit code.

use std::process::ExitCode;

use crate::settings::Faults;

/// Looks a variable up. Tests pass a map.
pub type Env = dyn Fn(&str) -> Option<String>;

/// Why a service ended before it was asked to.
#[derive(Debug)]
pub enum Failed {
    /// Settings are unset or wrong: all faults of one start together. Exit code 64.
    Settings(Faults),
    /// Anything else. Exit code 1.
    Other(anyhow::Error),
}

impl From<Faults> for Failed {
    fn from(faults: Faults) -> Self {
        Self::Settings(faults)
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Runs `serve` with the process's environment: 0 stopped on request · 64 bad settings · 1 anything else.
///
/// `serve` is synchronous so that each service makes the runtime it needs, after whatever must happen before
/// the first thread exists.
pub fn run(name: &str, serve: impl FnOnce(&Env) -> Result<(), Failed>) -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let env = |key: &str| std::env::var(key).ok();
    match serve(&env) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failed::Settings(faults)) => {
            for fault in &faults.0 {
                eprintln!("{name}: {fault}");
            }
            ExitCode::from(64)
        }
        Err(Failed::Other(error)) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
