//! Lints reach every crate: clippy reads only the nearest clippy.toml, and a manifest without
//! `[lints] workspace = true` gets none of the workspace's.

use crate::assert_none;
use crate::tree::Tree;

#[test]
fn every_crate_is_under_the_house_lints() {
    assert_none(&check(&Tree::of_checkout()));
}

fn check(tree: &Tree) -> Vec<String> {
    let mut faults = Vec::new();
    for file in tree.files.iter().filter(|file| file.path.contains('/')) {
        match file.path.rsplit('/').next() {
            Some("Cargo.toml") if !takes_the_house_lints(&file.text) => {
                faults.push(format!("{} lacks [lints] workspace = true", file.path));
            }
            Some("clippy.toml" | ".clippy.toml") => {
                faults.push(format!("{} hides the clippy.toml of the root", file.path));
            }
            _ => {}
        }
    }
    faults
}

fn takes_the_house_lints(manifest: &str) -> bool {
    let mut lines = manifest.lines().map(str::trim).skip_while(|line| *line != "[lints]").skip(1);
    lines.next() == Some("workspace = true")
}

#[test]
fn a_planted_manifest_is_found() {
    let cases = [
        ("crates/a/Cargo.toml", "[package]\n\n[lints]\nworkspace = true\n", 0),
        ("Cargo.toml", "[workspace]\n", 0),
        ("crates/a/Cargo.toml", "[package]\n", 1),
        ("crates/a/Cargo.toml", "[lints]\n[features]\n", 1),
        ("crates/a/clippy.toml", "", 1),
    ];
    for (path, text, faults) in cases {
        assert_eq!(check(&Tree::of_files(&[(path, text)])).len(), faults, "{path}: {text}");
    }
}
