//! The source works with any source of packages: it names no registry's host and no machine's
//! folders.

use xtask::environment::{root, variable};

use crate::assert_none;
use crate::tree::Tree;

/// Names in halves, so that this file does not contain the names that it searches for.
const NAMES: &[(&str, &str)] = &[
    ("docker", ".io/"),
    ("ghcr", ".io"),
    ("quay", ".io"),
    ("gcr", ".io"),
    ("index.crates", ".io"),
    ("registry.npmjs", ".org"),
    ("pypi", ".org"),
    ("pythonhosted", ".org"),
    ("deb.debian", ".org"),
    ("snapshot.debian", ".org"),
    ("arti", "factory"),
];

/// Cargo writes this file and names the default index there, whatever index the machine uses.
const WRITTEN_BY_CARGO: &str = "Cargo.lock";

#[test]
fn no_registry_and_no_machine_is_named() {
    assert_none(&check(&Tree::of_checkout()));
}

fn check(tree: &Tree) -> Vec<String> {
    let registries = NAMES.iter().map(|(head, tail)| format!("{head}{tail}"));
    // Folders of the checking machine: this checkout, and hidden folders of the user's home.
    let home = variable("HOME").filter(|home| home.len() > 1).map(|home| format!("{home}/."));
    let names: Vec<_> = registries.chain(home).chain([root().display().to_string()]).collect();
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|file| file.path != WRITTEN_BY_CARGO) {
        for (number, line) in file.text.lines().enumerate() {
            for name in names.iter().filter(|name| line.contains(name.as_str())) {
                faults.push(format!("{}:{} names {name}", file.path, number + 1));
            }
        }
    }
    faults
}

#[test]
fn a_planted_host_is_found() {
    let cases = [
        (format!("FROM {}{}library/debian", NAMES[0].0, NAMES[0].1), 1),
        ("FROM debian:bookworm-slim".to_owned(), 0),
        (format!("cp {}/Cargo.toml .", root().display()), 1),
    ];
    for (text, faults) in cases {
        assert_eq!(check(&Tree::of_files(&[("scripts/x", &text)])).len(), faults, "{text}");
    }
}
