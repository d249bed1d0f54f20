//! The source works wherever packages come from: it names no registry's host and no machine's folders.

use super::tree::Tree;

/// Names in halves, so that this file does not hold what it looks for.
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
    ("/work", "/main"),
    ("/root", "/."),
];

/// Written by cargo, which names the index there whatever the machine uses.
const WRITTEN_BY_CARGO: &str = "Cargo.lock";

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|file| file.path != WRITTEN_BY_CARGO) {
        for (number, line) in file.text.lines().enumerate() {
            let names = NAMES.iter().map(|(head, tail)| format!("{head}{tail}"));
            for name in names.filter(|name| line.contains(name.as_str())) {
                faults.push(format!("{}:{} names {name}", file.path, number + 1));
            }
        }
    }
    faults
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted::file;
    use super::*;

    #[test]
    fn a_planted_host_is_found() {
        let planted = format!("FROM {}{}library/debian", NAMES[0].0, NAMES[0].1);
        assert_eq!(check(&file("docker/x.Dockerfile", &planted)).len(), 1);
        assert!(check(&file("docker/x.Dockerfile", "FROM debian:bookworm-slim")).is_empty());
    }
}
