//! `orchestrator [serve]`, `orchestrator healthcheck`.

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
        _ => {
            eprintln!("usage: orchestrator [serve | healthcheck]");
            ExitCode::from(64)
        }
    }
}
