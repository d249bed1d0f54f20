//! `mutants` calls cargo-mutants: it changes one line after the other, and each change must fail a test.
//!
//! The sets are pure cores, whose tests are quick. `.cargo/mutants.toml` has the options of all sets, and argues each
//! exclusion.

use std::process::{ExitCode, ExitStatus};

use anyhow::{Context as _, Result, ensure};

use crate::environment;

struct Set {
    name: &'static str,
    package: &'static str,
    files: &'static str,
    /// Arguments of nextest for the quick tests.
    quick: &'static [&'static str],
    /// The slower tests run for the mutants that the quick ones leave.
    has_slow: bool,
}

/// cargo-mutants found mutants that survive, or that hang.
const SURVIVORS: [Option<i32>; 2] = [Some(2), Some(3)];

const SETS: &[Set] = &[
    Set {
        name: "lease",
        package: "lease",
        files: "crates/lease/src/**",
        quick: &["-E", "not test(/^model::/)"],
        has_slow: true,
    },
    Set {
        name: "classify",
        package: "router",
        files: "crates/router/src/http/classify.rs",
        quick: &["--lib"],
        has_slow: false,
    },
    Set {
        name: "host",
        package: "router",
        files: "crates/router/src/http/host.rs",
        quick: &["--lib"],
        has_slow: false,
    },
    Set {
        name: "routes",
        package: "router",
        files: "crates/router/src/routes/table.rs",
        quick: &["--lib"],
        has_slow: false,
    },
    Set {
        name: "plan",
        package: "app-api",
        files: "crates/app-api/src/reconcile/plan.rs",
        quick: &["--lib"],
        has_slow: false,
    },
    Set {
        name: "access",
        package: "app-api",
        files: "crates/app-api/src/access/**",
        quick: &["--lib"],
        has_slow: false,
    },
];

#[derive(clap::Args)]
pub struct Args {
    /// Name of a set: lease, classify, host, routes, plan or access; all of them otherwise.
    set: Option<String>,
    /// One of N parts of the mutants, as `K/N`: every Nth mutant from the Kth on.
    #[arg(long)]
    shard: Option<String>,
}

pub fn run(args: Args) -> Result<ExitCode> {
    let is_chosen = |set: &&Set| args.set.as_ref().is_none_or(|name| name == set.name);
    let sets: Vec<&Set> = SETS.iter().filter(is_chosen).collect();
    ensure!(!sets.is_empty(), "no such set; cargo xtask mutants --help lists them");
    for set in sets {
        let mut status = set.command(args.shard.as_deref(), set.quick, &[])?;
        if set.has_slow && SURVIVORS.contains(&status.code()) {
            // Without a baseline there is no measured time to derive a timeout from.
            let options = ["--iterate", "--baseline", "skip", "--timeout", "600"];
            status = set.command(args.shard.as_deref(), &[], &options)?;
        }
        ensure!(status.success(), "mutants of {} survive, or the tests fail: see above", set.name);
    }
    Ok(ExitCode::SUCCESS)
}

impl Set {
    fn command(&self, shard: Option<&str>, tests: &[&str], options: &[&str]) -> Result<ExitStatus> {
        let output = environment::root().join("target/mutants").join(self.name);
        std::fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
        let mut cargo = environment::cargo();
        cargo.args(["mutants", "--package", self.package, "--file", self.files]).args(options);
        cargo.arg("--output").arg(output);
        if let Some(shard) = shard {
            cargo.args(["--sharding", "round-robin", "--shard", shard]);
        }
        cargo.arg("--").args(tests).status().context("cannot run cargo")
    }
}
