//! `router [serve | parent | upgrade [PID] | healthcheck]`

use std::process::ExitCode;

use router::parent;
use router::settings::{self, Settings};

/// Idle connections cost a third less memory than with the C library's allocator. docs/benchmarks.md
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    match arguments.next().as_deref() {
        None | Some("serve") => service::run("router", |env| {
            router::Server::new(Settings::begin(env)?)?.run(service::shutdown_token)
        }),
        Some("parent") => service::run("router", |env| parent::run(Settings::begin(env)?)),
        Some(command @ (parent::FIRST_CHILD | parent::NEXT_CHILD)) => {
            service::run("router", |env| {
                parent::run_child(Settings::begin(env)?, command == parent::NEXT_CHILD)
            })
        }
        Some("upgrade") => service::run("router", |_| parent::request_upgrade(arguments.next())),
        Some("healthcheck") => {
            let mut code = ExitCode::FAILURE;
            let run = service::run("router", |env| {
                code = service::healthcheck::healthcheck(settings::own_health(env)?, "/readyz");
                Ok(())
            });
            if run == ExitCode::SUCCESS { code } else { run }
        }
        Some(other) => {
            eprintln!(
                "router: unknown command {other:?}; use `serve`, `parent`, `upgrade` or `healthcheck`"
            );
            ExitCode::from(64)
        }
    }
}
