//! `supervisor`: PID 1 of a tenant's container.

use std::process::ExitCode;

use protocol::inside::{START_APP, supervisor_commands};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let (subcommand, rest) = match arguments.split_first() {
        Some((subcommand, rest)) => (subcommand.as_str(), rest),
        None => ("", [].as_slice()),
    };
    // Not `service`, which reads the variables of every other program, because that crate brings a
    // runtime along.
    let variables = || std::env::vars_os().collect();
    match subcommand {
        supervisor::app::PROBE => supervisor::probe::run(rest),
        supervisor::files::FILES => supervisor::files::run(rest),
        supervisor_commands::START => {
            let app = std::env::vars_os().find(|(name, _)| name == START_APP);
            supervisor::hooks::start(rest, app.as_ref().and_then(|(_, app)| app.to_str()))
        }
        supervisor_commands::RUN => supervisor::commands::run(rest, &variables()),
        supervisor_commands::TASK => supervisor::task::run(&variables()),
        supervisor_commands::END => {
            supervisor::commands::end(rest.first().map_or("", String::as_str))
        }
        _ => supervisor::run(&supervisor::Layout::tenant(), variables()),
    }
}
