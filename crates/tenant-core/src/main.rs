//! `core back` and `core front`: one file for the trusted half of a tenant.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("back") => service::run("core back", tenant_core::back::start),
        Some("front") => service::run("core front", tenant_core::front::start),
        Some(_) | None => {
            eprintln!("core: say which half: `core back` or `core front`");
            ExitCode::from(64)
        }
    }
}
