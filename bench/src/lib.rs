//! Figures that have a bar, each beside its bar, with the facts that they depend on.
//!
//! `cargo xtask bench` runs this: the command brings up the installation that `create`, `executions`,
//! `export`, `wake` and `density` need, builds the tenant image, and removes the installation
//! afterwards.

mod auth;
mod baseline;
mod cargo;
mod cli;
mod create;
mod density;
mod edge;
mod engine_events;
mod executions;
mod export;
pub(crate) mod figure;
mod fixture;
mod history;
mod program;
mod request;
mod rollout;
mod router;
mod routes;
mod tenant;
pub mod tools;
mod triggers;
pub(crate) mod wake;

use std::fmt::Display;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context as _, Result};
use clap::Parser;
use figure::{Environment, Figure};
use testkit::Installation;
use testkit::clock::now;

#[derive(Parser)]
#[command(name = "cargo xtask bench", about, disable_help_subcommand = true)]
pub struct Command {
    #[command(subcommand)]
    bench: Bench,
    /// Print one JSON object per line instead of a table.
    #[arg(long, global = true)]
    json: bool,
    /// How often a varying figure is measured.
    #[arg(long, global = true, default_value_t = 20)]
    times: usize,
}

#[derive(clap::Subcommand)]
enum Bench {
    /// One tenant: memory at rest, size of its image, time to readiness.
    Tenant,
    /// From the create call to the first response of the URL, beside the engine alone.
    Create {
        /// How many other tenants run meanwhile.
        #[arg(long, default_value_t = 0)]
        beside: usize,
        /// Print the steps of one create with their times instead, and those of the engine alone.
        #[arg(long)]
        explain: bool,
    },
    /// Executions of a task that does nothing, beside the engine's exec and a bare fork and exec.
    Executions {
        /// How many executions, one after the other.
        #[arg(long, default_value_t = 1_000)]
        count: usize,
    },
    /// The export of a tenant, beside `tar | zstd` of the same files.
    Export {
        /// The size of the tenant's files.
        #[arg(long, default_value_t = 1_000)]
        megabytes: usize,
    },
    /// Triggers that are not due, and triggers of many tenants that are due in one second.
    Triggers,
    /// The router beside nginx and haproxy: CPU time, instructions, memory, latency.
    Router(RouterArgs),
    /// A change of one route in the router's table, beside a table made anew.
    Routes,
    /// The cost of authentication, the end of access, sign-ins at once, long lists.
    Auth,
    /// From the start of `cial` to its first output, beside `true`.
    Cli,
    /// A request through a tenant's edge, with the assertion of its person and without.
    Edge,
    /// Appends and pages of a tenant's history with a million entries, beside a bare SQLite file.
    History,
    /// From asleep to the first byte, beside the engine alone; crowds; races against the idle
    /// deadline.
    Wake(WakeArgs),
    /// Hundreds of tenants: memory of each, and all of them woken at once.
    Density {
        #[arg(long, default_value_t = 300)]
        tenants: usize,
        /// Measure instead how fast a rollout moves them while they sleep.
        #[arg(long)]
        rollout: bool,
    },
    /// One part of a bench, run as a separate process.
    #[command(hide = true)]
    Tool(tools::Args),
}

#[derive(clap::Args)]
struct RouterArgs {
    /// Measure this binary instead of the one that cargo builds.
    #[arg(long)]
    router: Option<PathBuf>,
    /// Take the backend and the load from this bench binary instead of an optimised one that cargo
    /// builds.
    #[arg(long)]
    tools: Option<PathBuf>,
    /// Measure this row only; may be given more than once.
    #[arg(long)]
    row: Vec<router::Row>,
    /// Check instead that the harness distinguishes a bad proxy from a good one.
    #[arg(long)]
    self_test: bool,
}

#[derive(clap::Args)]
struct WakeArgs {
    /// How many requests are sent around the idle deadline.
    #[arg(long, default_value_t = 2_000)]
    rounds: usize,
    /// How many other tenants run meanwhile.
    #[arg(long, default_value_t = 0)]
    beside: usize,
    /// Only the crowds and the race, at the size for every push; a missed bar is a failure.
    #[arg(long)]
    ci: bool,
}

impl Command {
    /// Measures and prints. A missed bar is a finding and no failure, except with `--ci`.
    ///
    /// # Errors
    /// A figure cannot be measured.
    pub fn run(self) -> Result<ExitCode> {
        let times = self.times;
        let (name, measured) = match self.bench {
            Bench::Tool(args) => return tools::run(args),
            Bench::Router(RouterArgs { self_test: true, .. }) => {
                return router::self_test().map(|()| ExitCode::SUCCESS);
            }
            Bench::Wake(WakeArgs { ci: true, .. }) => {
                block_on(wake::ci(&Installation::from_env()?))?;
                return Ok(ExitCode::SUCCESS);
            }
            Bench::Tenant => ("tenant", block_on(tenant::measure(times))?),
            Bench::Create { explain: true, .. } => {
                block_on(create::explain(&Installation::from_env()?))?;
                return Ok(ExitCode::SUCCESS);
            }
            Bench::Create { beside, .. } => {
                ("create", block_on(create::measure(&Installation::from_env()?, times, beside))?)
            }
            Bench::Executions { count } => {
                ("executions", block_on(executions::measure(&Installation::from_env()?, count))?)
            }
            Bench::Export { megabytes } => {
                let installation = Installation::from_env()?;
                ("export", block_on(export::measure(&installation, times, megabytes))?)
            }
            Bench::Triggers => ("triggers", triggers::measure()?),
            Bench::Router(args) => {
                let options = router::Options {
                    rounds: times,
                    router: args.router.as_deref(),
                    tools: args.tools.as_deref(),
                    rows: &args.row,
                };
                ("router", router::measure(&options)?)
            }
            Bench::Routes => ("routes", routes::measure()?),
            Bench::Auth => ("auth", auth::measure()?),
            Bench::Cli => ("cli", cli::measure(times)?),
            Bench::Edge => ("edge", edge::measure()?),
            Bench::History => ("history", history::measure()?),
            Bench::Wake(args) => {
                let size = wake::Size {
                    pairs: times,
                    crowds: times,
                    races: args.rounds,
                    beside: args.beside,
                };
                ("wake", block_on(wake::measure(&Installation::from_env()?, size))?)
            }
            Bench::Density { tenants, rollout: true } => {
                ("density", block_on(rollout::measure(&Installation::from_env()?, tenants))?)
            }
            Bench::Density { tenants, .. } => {
                ("density", block_on(density::measure(&Installation::from_env()?, tenants))?)
            }
        };
        print(name, &measured, self.json);
        Ok(ExitCode::SUCCESS)
    }
}

/// Prints figures, each on a line.
fn print(name: &str, (environment, figures): &Measured, as_json: bool) {
    if !as_json {
        print_line(format_args!("{name} on {environment}"));
    }
    for figure in figures {
        match as_json {
            true => print_line(figure.json(name, environment)),
            false => print_line(figure),
        }
    }
}

/// Prints a line of result on stdout; progress goes to stderr. A closed pipe is no failure.
fn print_line(line: impl Display) {
    let _ = writeln!(std::io::stdout(), "{line}");
}

/// Runs a future to its end, on this thread.
fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.context("cannot start the runtime")?.block_on(work)
}

type Measured = (Environment, Vec<Figure>);
