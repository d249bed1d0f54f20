//! `bench`: figures that DESIGN.md sets a bar for, each beside its bar, with what they depend on.

mod create;
mod density;
mod events;
pub(crate) mod figure;
mod floor;
mod router;
mod scene;
mod tenant;
pub mod tools;
mod visit;
pub(crate) mod wake;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Result;

use crate::local::Installation;
use crate::world;
use figure::{Figure, Setting};

#[derive(clap::Args)]
pub struct Args {
    /// Only this one.
    name: Option<Name>,
    /// One JSON object a line instead of a table.
    #[arg(long)]
    json: bool,
    /// How often what varies is measured.
    #[arg(long, default_value_t = 20)]
    times: usize,
    /// wake: requests around the idle deadline.
    #[arg(long, default_value_t = 2_000)]
    rounds: usize,
    /// create and wake: tenants that run meanwhile.
    #[arg(long, default_value_t = 0)]
    beside: usize,
    /// wake: only the race and the stampede, at the size for every push; a missed bar is a failure.
    #[arg(long)]
    ci: bool,
    /// wake, with --ci: in the installation of this checkout, which is up and has no owner yet.
    #[arg(long, requires = "ci")]
    here: bool,
    /// density: how many tenants.
    #[arg(long, default_value_t = 300)]
    tenants: usize,
    /// router: this binary, instead of the one that cargo builds.
    #[arg(long)]
    router: Option<PathBuf>,
    /// router: the backend and the load from this xtask, instead of an optimised one that cargo builds.
    #[arg(long)]
    tools: Option<PathBuf>,
    /// router: only this; may be given more than once.
    #[arg(long)]
    row: Vec<router::Row>,
    /// router: instead, whether the harness tells a bad proxy from a good one.
    #[arg(long)]
    self_test: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Name {
    /// One tenant: memory at rest, size of its image, time to readiness.
    Tenant,
    /// From the create call to the URL's first answer, beside the engine by itself.
    Create,
    /// The router beside nginx and haproxy: CPU time, instructions, memory, latency.
    Router,
    /// From asleep to the first byte, beside the engine by itself; crowds; races against the idle deadline.
    Wake,
    /// Hundreds of tenants: memory of each, and all of them woken at once.
    Density,
}

impl Name {
    const ALL: [Self; 5] = [Self::Tenant, Self::Create, Self::Router, Self::Wake, Self::Density];

    const fn text(self) -> &'static str {
        match self {
            Self::Tenant => "tenant",
            Self::Create => "create",
            Self::Router => "router",
            Self::Wake => "wake",
            Self::Density => "density",
        }
    }

    fn measure(self, args: &Args) -> Result<(Setting, Vec<Figure>)> {
        match self {
            Self::Tenant => world::block_on(tenant::measure(args.times)),
            Self::Create => world::block_on(create::measure(args.times, args.beside)),
            Self::Router => router::measure(&router::Wish {
                rounds: args.times,
                router: args.router.as_deref(),
                tools: args.tools.as_deref(),
                rows: &args.row,
            }),
            Self::Wake => world::block_on(wake::measure(wake::Size {
                pairs: args.times,
                crowds: args.times,
                races: args.rounds,
                beside: args.beside,
            })),
            Self::Density => world::block_on(density::measure(args.tenants)),
        }
    }
}

/// Ends well also where a bar is missed: a figure is a finding, not a failure.
pub fn run(args: Args) -> Result<ExitCode> {
    if args.self_test {
        router::self_test()?;
        return Ok(ExitCode::SUCCESS);
    }
    if args.ci {
        match args.here {
            true => world::block_on(wake::ci(&Installation::of_checkout()?))?,
            false => world::block_on(wake::ci_alone())?,
        }
        return Ok(ExitCode::SUCCESS);
    }
    let names = args.name.map_or(Name::ALL.to_vec(), |name| vec![name]);
    for name in names {
        let (setting, figures) = name.measure(&args)?;
        if !args.json {
            world::say(format_args!("{} on {setting}", name.text()));
        }
        for figure in figures {
            match args.json {
                true => world::say(figure.json(name.text(), &setting)),
                false => world::say(figure),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}
