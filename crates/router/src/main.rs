//! `router [serve | parent | healthcheck]`

use std::process::ExitCode;

use router::parent;
use router::settings::{self, Settings};

/// What is idle costs its own bytes: the C library's blocks around them would be a third more. docs/benchmarks.md
#[global_allocator]
static MEMORY: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    match std::env::args().nth(1).as_deref() {
        None | Some("serve") => service::run("router", |env| {
            router::Server::new(Settings::begin(env)?)?.run(service::stop_requested)
        }),
        Some("parent") => service::run("router", |env| parent::run(Settings::begin(env)?)),
        Some(word @ (parent::FIRST | parent::NEXT)) => service::run("router", |env| {
            parent::handed(Settings::begin(env)?, word == parent::NEXT)
        }),
        Some("healthcheck") => {
            let mut code = ExitCode::FAILURE;
            let asked = service::run("router", |env| {
                code = service::probe::healthcheck(settings::own_health(env)?, "/readyz");
                Ok(())
            });
            if asked == ExitCode::SUCCESS { code } else { asked }
        }
        Some(other) => {
            eprintln!("router: unknown command {other:?}; use `serve`, `parent` or `healthcheck`");
            ExitCode::from(64)
        }
    }
}
