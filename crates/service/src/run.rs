//! From `main` to a running service and back to a true exit code.

use std::process::ExitCode;

use crate::settings::SettingsErrors;

/// Exit code for settings that are missing or wrong: `EX_USAGE` of `sysexits.h`.
const EXIT_USAGE: u8 = 64;

/// Looks up one environment variable by name. Tests pass a map.
pub type Env = dyn Fn(&str) -> Option<String>;

/// Why a service ended without a request to stop.
#[derive(Debug)]
pub enum ServiceError {
    /// Settings are missing or wrong; holds every error of this start. Exit code 64.
    Settings(SettingsErrors),
    /// Any other error. Exit code 1.
    Other(anyhow::Error),
}

impl From<SettingsErrors> for ServiceError {
    fn from(errors: SettingsErrors) -> Self {
        Self::Settings(errors)
    }
}

impl<E: Into<anyhow::Error>> From<E> for ServiceError {
    fn from(error: E) -> Self {
        Self::Other(error.into())
    }
}

/// Runs `serve` with the environment of the process: exit code 0 after a requested stop, 64 for bad settings, 1 for
/// any other error.
///
/// `serve` is synchronous, so that each service builds its own runtime after the steps that need a single thread.
pub fn run(name: &str, serve: impl FnOnce(&Env) -> Result<(), ServiceError>) -> ExitCode {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the environment")]
    let env = |key: &str| std::env::var(key).ok();
    match serve(&env) {
        Ok(()) => ExitCode::SUCCESS,
        Err(ServiceError::Settings(errors)) => {
            for error in &errors.0 {
                eprintln!("{name}: {error}");
            }
            ExitCode::from(EXIT_USAGE)
        }
        Err(ServiceError::Other(error)) => {
            eprintln!("{name}: {error:#}");
            ExitCode::FAILURE
        }
    }
}
