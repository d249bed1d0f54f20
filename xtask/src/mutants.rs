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
    /// Arguments of nextest. Its profile `mutants` ends a run with the first failure, and runs slow tests last.
    tests: &'static [&'static str],
}

const SETS: &[Set] = &[
    Set { name: "lease", package: "lease", files: "crates/lease/src/**", tests: &[] },
    Set {
        name: "classify",
        package: "router",
        files: "crates/router/src/http/classify.rs",
        tests: &["--lib"],
    },
    Set {
        name: "host",
        package: "router",
        files: "crates/router/src/http/host.rs",
        tests: &["--lib"],
    },
    Set {
        name: "routes",
        package: "router",
        files: "crates/router/src/routes/table.rs",
        tests: &["--lib"],
    },
    Set {
        name: "plan",
        package: "app-api",
        files: "crates/app-api/src/reconcile/plan.rs",
        tests: &["--lib"],
    },
    Set {
        name: "access",
        package: "app-api",
        files: "crates/app-api/src/access/**",
        tests: &["--lib"],
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
        let status = set.run(args.shard.as_deref())?;
        ensure!(status.success(), "mutants of {} survive, or the tests fail: see above", set.name);
    }
    Ok(ExitCode::SUCCESS)
}

impl Set {
    fn run(&self, shard: Option<&str>) -> Result<ExitStatus> {
        let output = environment::root().join("target/mutants").join(self.name);
        std::fs::create_dir_all(&output).with_context(|| output.display().to_string())?;
        let mut cargo = environment::cargo();
        cargo.args(["mutants", "--package", self.package, "--file", self.files]);
        cargo.arg("--output").arg(output);
        if let Some(shard) = shard {
            cargo.args(["--sharding", "round-robin", "--shard", shard]);
        }
        cargo.arg("--").args(self.tests).status().context("cannot run cargo")
    }
}
