//! `orchestrator [serve]`, `orchestrator healthcheck`, `orchestrator report`.

use std::io::Write as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match (arguments.next().as_deref(), arguments.next()) {
        (None | Some("serve"), None) => service::run("orchestrator", orchestrator::serve),
        (Some("healthcheck"), None) => {
            let mut answer = ExitCode::FAILURE;
            let ran = service::run("orchestrator", |env| {
                answer = orchestrator::healthcheck(env)?;
                Ok(())
            });
            if ran == ExitCode::SUCCESS { answer } else { ran }
        }
        (Some("report"), None) => service::run("orchestrator", |env| {
            let report = serde_json::to_string(&orchestrator::report::report(env)?)?;
            Ok(writeln!(std::io::stdout(), "{report}")?)
        }),
        _ => {
            eprintln!("usage: orchestrator [serve | healthcheck | report]");
            ExitCode::from(64)
        }
    }
}
