//! Lints reach every crate: clippy reads only the nearest clippy.toml, and a manifest without
//! `[lints] workspace = true` gets none of the workspace's.

use super::tree::Tree;

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.contains('/')) {
        let name = file.path.rsplit('/').next().unwrap_or_default();
        if name == "Cargo.toml" && !takes_the_house_lints(&file.text) {
            faults.push(format!("{} lacks [lints] workspace = true", file.path));
        }
        if name == "clippy.toml" || name == ".clippy.toml" {
            faults.push(format!("{} hides the clippy.toml of the root", file.path));
        }
    }
    faults
}

fn takes_the_house_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.next() == Some("workspace = true")
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted_file as file;
    use super::*;

    #[test]
    fn a_planted_manifest_is_found() {
        assert!(
            check(&file("crates/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n"))
                .is_empty()
        );
        assert!(check(&file("Cargo.toml", "[workspace]\n")).is_empty());
        assert_eq!(check(&file("crates/a/Cargo.toml", "[package]\n")).len(), 1);
        assert_eq!(check(&file("crates/a/Cargo.toml", "[lints]\n[features]\n")).len(), 1);
        assert_eq!(check(&file("crates/a/clippy.toml", "")).len(), 1);
    }
}
