//! `mutants` calls cargo-mutants: it changes one line after the other, and each change must fail a test.
//!
//! The sets are pure cores, whose tests are quick. `.cargo/mutants.toml` has the options of all sets, and argues each
//! exclusion.

use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};

use crate::environment;

struct Set {
    name: &'static str,
    package: &'static str,
    files: &'static str,
    /// Arguments of nextest, whose profile `mutants` ends a run with the first failure, and runs slow tests last.
    tests: &'static [&'static str],
}

const fn set(
    name: &'static str,
    package: &'static str,
    files: &'static str,
    tests: &'static [&'static str],
) -> Set {
    Set { name, package, files, tests }
}

const SETS: &[Set] = &[
    set("lease", "lease", "crates/lease/src/**", &[]),
    set("classify", "router", "crates/router/src/http/classify.rs", &["--lib"]),
    set("host", "router", "crates/router/src/http/host.rs", &["--lib"]),
    set("routes", "router", "crates/router/src/routes/table.rs", &["--lib"]),
    set("plan", "app-api", "crates/app-api/src/reconcile/plan.rs", &["--lib"]),
    set("access", "app-api", "crates/app-api/src/access/**", &["--lib"]),
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
    for Set { name, package, files, tests } in sets {
        let output = environment::root().join("target/mutants").join(name);
        std::fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
        let mut cargo = environment::cargo();
        cargo.args(["mutants", "--package", package, "--file", files]).arg("--output").arg(output);
        if let Some(shard) = &args.shard {
            cargo.args(["--sharding", "round-robin", "--shard", shard]);
        }
        let status = cargo.arg("--").args(*tests).status().context("cannot run cargo")?;
        ensure!(status.success(), "mutants of {name} survive, or the tests fail: see above");
    }
    Ok(ExitCode::SUCCESS)
}
