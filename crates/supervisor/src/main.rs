//! `supervisor`: PID 1 of a tenant's container.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Not `service`, which reads the variables of every other program, because that crate brings a
    // runtime along.
    supervisor::run(&supervisor::Layout::tenant(), std::env::vars_os().collect())
}
