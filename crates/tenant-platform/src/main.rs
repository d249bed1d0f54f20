//! `platform front` and `platform back`: one binary for the tenant's own half.

use std::process::ExitCode;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        Some("front") => service::run("platform front", tenant_platform::front::start),
        Some("back") => service::run("platform back", tenant_platform::back::start),
        Some(_) | None => {
            eprintln!("platform: say which half: `platform front` or `platform back`");
            ExitCode::from(64)
        }
    }
}
