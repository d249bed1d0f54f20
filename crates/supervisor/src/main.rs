//! `supervisor`: PID 1 of a tenant's container.

use std::process::ExitCode;

fn main() -> ExitCode {
    // `service::settings`, the reader of everyone else's variables, would bring a runtime along.
    supervisor::run(&supervisor::Layout::tenant(), std::env::vars_os().collect())
}
