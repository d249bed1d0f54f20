//! `supervisor`: PID 1 of a tenant's container.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Not by `service`, which reads the variables of every other program: it brings a runtime along.
    supervisor::run(&supervisor::Layout::tenant(), std::env::vars_os().collect())
}
