//! `edge`: the public entry of a tenant.

use std::process::ExitCode;

fn main() -> ExitCode {
    service::run("edge", edge::start)
}
