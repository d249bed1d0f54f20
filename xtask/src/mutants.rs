//! `mutants` calls cargo-mutants: it changes one line after the other, and each change must fail a test.
//!
//! The sets are pure cores, whose tests are quick. `.cargo/mutants.toml` has the options of all sets, and argues each
//! exclusion.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::environment::{cargo, make_folder, root};

/// Files of one package, whose own tests (`--lib`) judge their mutants.
struct Set {
    name: &'static str,
    package: &'static str,
    /// Below `src`.
    files: &'static str,
}

const SETS: [Set; 6] = [
    Set { name: "lease", package: "lease", files: "**" },
    Set { name: "classify", package: "router", files: "http/classify.rs" },
    Set { name: "host", package: "router", files: "http/host.rs" },
    Set { name: "routes", package: "router", files: "routes/table.rs" },
    Set { name: "plan", package: "app-api", files: "reconcile/plan.rs" },
    Set { name: "access", package: "app-api", files: "access/**" },
];

#[derive(clap::Args)]
pub struct Args {
    /// Name of a set: lease, classify, host, routes, plan or access; all of them otherwise.
    set: Option<String>,
    /// One of N parts of the mutants, as `K/N`: every Nth mutant from the Kth on.
    #[arg(long)]
    shard: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<ExitCode> {
    let is_chosen = |set: &&Set| args.set.as_ref().is_none_or(|name| name == set.name);
    let mut sets = SETS.iter().filter(is_chosen).peekable();
    ensure!(sets.peek().is_some(), "no such set; cargo xtask mutants --help lists them");
    for Set { name, package, files } in sets {
        let output = root().join("target/mutants").join(name);
        make_folder(&output)?;
        let mut cargo = cargo();
        cargo.args(["mutants", "--package", package, "--output"]).arg(output);
        cargo.args(["--file", &format!("crates/{package}/src/{files}")]);
        if let Some(shard) = &args.shard {
            cargo.args(["--sharding", "round-robin", "--shard", shard]);
        }
        // nextest's profile `mutants` ends a run with the first failure, and runs slow tests last.
        let status = cargo.args(["--", "--lib"]).status().context("cannot run cargo")?;
        ensure!(status.success(), "mutants of {name} survive, or the tests fail: see above");
    }
    Ok(ExitCode::SUCCESS)
}
