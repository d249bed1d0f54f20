//! Ctrl-C during a wait: a sentence about what goes on without the command, then exit code 130.
//!
//! Other commands keep the default of the signal, which ends the process with the same code in a shell.

use std::io::Write as _;

use signal_hook::consts::SIGINT;
use signal_hook::iterator::Signals;

use crate::error::Exit;

/// From now on Ctrl-C ends the process without a message: it is the way to end a followed log.
pub(crate) fn quietly() {
    handle(None);
}

/// From now on Ctrl-C prints `message` and ends the process.
pub(crate) fn explain(message: String) {
    handle(Some(message));
}

fn handle(message: Option<String>) {
    // Without the handler the default stays: the process ends without the message.
    let Ok(mut signals) = Signals::new([SIGINT]) else { return };
    std::thread::spawn(move || {
        if signals.forever().next().is_some() {
            if let Some(message) = message {
                let _ = writeln!(std::io::stderr().lock(), "{message}");
            }
            std::process::exit(Exit::Interrupted as i32);
        }
    });
}
