//! `orchestrator [serve]`, `orchestrator healthcheck`, `orchestrator report`, `orchestrator firewall [check]`,
//! `orchestrator quota [check]`.

use std::io::Write as _;
use std::process::ExitCode;

use service::{Env, ServiceError};

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next().as_deref()) {
        (None | Some("serve"), None) => service::run("orchestrator", orchestrator::serve),
        (Some("healthcheck"), None) => exit_code_of(orchestrator::healthcheck),
        (Some("report"), None) => service::run("orchestrator", |env| {
            let report = serde_json::to_string(&orchestrator::report::report(env)?)?;
            Ok(writeln!(std::io::stdout(), "{report}")?)
        }),
        (Some("firewall"), None) => service::run("orchestrator", orchestrator::firewall::serve),
        (Some("firewall"), Some("check")) => exit_code_of(orchestrator::firewall::check),
        (Some("quota"), None) => service::run("orchestrator", orchestrator::quota::serve),
        (Some("quota"), Some("check")) => exit_code_of(orchestrator::quota::check),
        _ => {
            eprintln!(
                "usage: orchestrator [serve | healthcheck | report | firewall [check] | quota [check]]"
            );
            ExitCode::from(64)
        }
    }
}

/// Runs a check whose result is the exit code.
fn exit_code_of(check: impl FnOnce(&Env) -> Result<ExitCode, ServiceError>) -> ExitCode {
    let mut exit_code = ExitCode::FAILURE;
    let ran = service::run("orchestrator", |env| {
        exit_code = check(env)?;
        Ok(())
    });
    if ran == ExitCode::SUCCESS { exit_code } else { ran }
}
