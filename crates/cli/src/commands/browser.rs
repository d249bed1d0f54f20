//! Opening an address in the person's browser.

use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use crate::clock;
use crate::context::Context;
use crate::error::CliError;

/// Opens an address with `$BROWSER` or the system's opener, and says so.
pub(super) fn open(context: &Context<'_>, address: &str) -> Result<(), CliError> {
    let opener = context.environment.variable("BROWSER").unwrap_or(DEFAULT_OPENER);
    let mut args = opener.split_whitespace();
    let program = args.next().unwrap_or(DEFAULT_OPENER);
    context.output.note(&format!("opening {address}"));
    let mut command = Command::new(program);
    command.args(args).arg(address);
    // The output of the browser would mix with the output of `cial`.
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
    let why = match command.spawn().and_then(|child| outcome(child, PATIENCE)) {
        Ok(None) => return Ok(()),
        Ok(Some(status)) if status.success() => return Ok(()),
        Ok(Some(status)) => format!("{program}: {status}"),
        Err(error) => format!("{program}: {error}"),
    };
    Err(CliError::failed("cannot open a browser")
        .because(why)
        .next(format!("open the address yourself: {address}")))
}

/// An opener that fails does so at once; a browser that stays in the foreground has opened.
const PATIENCE: Duration = Duration::from_secs(1);

/// The status of a program that ends in time; `None` while it still runs.
fn outcome(mut child: Child, patience: Duration) -> std::io::Result<Option<ExitStatus>> {
    const PAUSE: Duration = Duration::from_millis(20);
    let begin = clock::instant();
    while begin.elapsed() < patience {
        if let Some(status) = child.try_wait()? {
            return Ok(Some(status));
        }
        std::thread::sleep(PAUSE);
    }
    Ok(None)
}

const DEFAULT_OPENER: &str = if cfg!(target_os = "macos") { "open" } else { "xdg-open" };
