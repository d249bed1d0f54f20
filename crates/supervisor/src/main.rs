//! `supervisor`: PID 1 of a tenant's container.

use std::process::ExitCode;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if arguments.first().is_some_and(|word| word == supervisor::app::PROBE) {
        return supervisor::probe::run(&arguments[1..]);
    }
    // Not `service`, which reads the variables of every other program, because that crate brings a
    // runtime along.
    supervisor::run(&supervisor::Layout::tenant(), std::env::vars_os().collect())
}
