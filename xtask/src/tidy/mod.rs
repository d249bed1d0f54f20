//! `tidy` checks the promises of ARCHITECTURE.md about the source itself. `deny.toml` holds those about dependencies.

mod commands;
mod hosts;
mod manifests;
mod problems;
mod settings;
mod sizes;
mod tree;
mod words;

use std::process::ExitCode;

use anyhow::Result;

use crate::environment::{print_line, root};
use tree::Tree;

#[derive(clap::Args)]
pub struct Args {}

/// A check inspects the tree and names each fault with its file.
type Check = fn(&Tree) -> Vec<String>;

const CHECKS: &[(&str, Check)] = &[
    ("what must be absent is absent", words::absences),
    ("the rooms of the router have no circle", words::one_way),
    ("every crate is under the house lints", manifests::check),
    ("files are of a readable size", sizes::check),
    ("commands in the documents exist", commands::check),
    ("every problem code has a user and a row", problems::check),
    ("every setting is in the reference", settings::check),
    ("no registry and no machine is named", hosts::check),
    ("replaced names stay away", words::replaced),
];

pub fn run(_args: Args) -> Result<ExitCode> {
    let tree = Tree::load(&root())?;
    let mut is_tidy = true;
    for (title, check) in CHECKS {
        let faults = check(&tree);
        print_line(format_args!("{} {title}", if faults.is_empty() { "ok    " } else { "FAILED" }));
        for fault in &faults {
            print_line(format_args!("         {fault}"));
        }
        is_tidy &= faults.is_empty();
    }
    for warning in sizes::warnings(&tree) {
        print_line(format_args!("note     {warning}"));
    }
    Ok(if is_tidy { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
