//! Opening an address in the person's browser.

use std::process::{Command, Stdio};

use crate::context::Context;
use crate::error::CliError;

/// Opens an address with `$BROWSER` or the system's opener, and says so.
pub(super) fn open(context: &Context<'_>, address: &str) -> Result<(), CliError> {
    let opener = context.environment.variable("BROWSER").unwrap_or(DEFAULT_OPENER);
    let mut words = opener.split_whitespace();
    let program = words.next().unwrap_or(DEFAULT_OPENER);
    context.output.note(&format!("opening {address}"));
    let mut command = Command::new(program);
    command.args(words).arg(address);
    // What a browser prints is for nobody.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let status = command.status();
    if status.as_ref().is_ok_and(std::process::ExitStatus::success) {
        return Ok(());
    }
    let why = match status {
        Ok(status) => format!("{program}: {status}"),
        Err(error) => format!("{program}: {error}"),
    };
    Err(CliError::failed("cannot open a browser")
        .because(why)
        .next(format!("open the address yourself: {address}")))
}

const DEFAULT_OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
