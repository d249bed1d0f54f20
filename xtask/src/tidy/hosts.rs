//! The source works with any source of packages: it names no registry's host and no machine's
//! folders.

use super::tree::Tree;
use crate::environment::{root, variable};

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

pub(super) fn check(tree: &Tree) -> Vec<String> {
    check_names(tree, &[registries(), folders()].concat())
}

fn registries() -> Vec<String> {
    NAMES.iter().map(|(head, tail)| format!("{head}{tail}")).collect()
}

/// Folders of the checking machine: this checkout, and hidden folders of the user's home.
fn folders() -> Vec<String> {
    let home = variable("HOME").filter(|home| home.len() > 1);
    home.map(|home| format!("{home}/.")).into_iter().chain([root().display().to_string()]).collect()
}

fn check_names(tree: &Tree, names: &[String]) -> Vec<String> {
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

#[cfg(test)]
mod tests {
    use super::super::tree::planted_file as file;
    use super::*;

    #[test]
    fn a_planted_host_is_found() {
        let planted = format!("FROM {}{}library/debian", NAMES[0].0, NAMES[0].1);
        assert_eq!(check(&file("docker/x.Dockerfile", &planted)).len(), 1);
        assert!(check(&file("docker/x.Dockerfile", "FROM debian:bookworm-slim")).is_empty());
        let planted = format!("cp {}/Cargo.toml .", root().display());
        assert_eq!(check(&file("scripts/x", &planted)).len(), 1);
    }
}
