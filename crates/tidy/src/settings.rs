//! The part of the reference that no code generates: the settings of compose.yml, of xtask and of the scripts. Each
//! service compares its own table with the reference in a test.

use crate::assert_none;
use crate::tree::{SourceFile, Tree};

const REFERENCE: &str = "docs/reference/settings.md";
const COMPOSE: &str = "compose.yml";
/// The services' tables, which are made from the code, follow this heading.
const SERVICES: &str = "\n## Services\n";
/// The readers whose settings the reference describes by hand.
const READERS: &[&str] = &[".ci/", COMPOSE, "scripts/", "xtask/src/"];
/// This file names settings in order to pass them to the browser's test.
const ABOUT_SETTINGS: &str = "xtask/src/test.rs";

#[test]
fn every_setting_is_in_the_reference() {
    assert_none(&check(&Tree::of_checkout()));
}

fn check(tree: &Tree) -> Vec<String> {
    let reference = tree.text(REFERENCE);
    let (by_hand, services) = reference.split_once(SERVICES).unwrap_or((reference, ""));
    let known = names(reference);
    let (mut faults, mut read) = (Vec::new(), Vec::new());
    for file in tree.files.iter().filter(|file| is_reader(file)) {
        let settings = settings(file);
        let unknown = settings.iter().filter(|name| !known.contains(name));
        faults.extend(
            unknown.map(|name| format!("{} reads {name}, which {REFERENCE} lacks", file.path)),
        );
        read.extend(settings);
    }
    let unread = names(by_hand).into_iter().filter(|name| !read.contains(name));
    faults.extend(unread.map(|name| format!("{REFERENCE} has {name}, which nobody reads")));
    let compose = tree.text(COMPOSE);
    let misplaced = services.lines().filter(|row| !is_set_as_told(row, compose));
    faults.extend(misplaced.map(|row| format!("{COMPOSE} does not agree with: {row}")));
    faults.sort();
    faults.dedup();
    faults
}

/// Whether compose.yml takes a variable from `.env` exactly where its row says so.
fn is_set_as_told(row: &str, compose: &str) -> bool {
    let Some((name, cells)) = row.strip_prefix("| `").and_then(|row| row.split_once("` | ")) else {
        return true;
    };
    let from_env = compose.contains(&format!("${{{name}:"));
    from_env == cells.contains(" | `.env` | ")
}

fn is_reader(file: &SourceFile) -> bool {
    READERS.iter().any(|place| file.path.starts_with(place))
        && file.path != ABOUT_SETTINGS
        && !file.path.ends_with(".snap")
}

/// Returns the settings that a file reads. In Rust, these are complete string literals outside of
/// tests.
fn settings(file: &SourceFile) -> Vec<&str> {
    if !file.path.ends_with(".rs") {
        return names(&file.text);
    }
    let text = file.shipped();
    let is_quoted = |name: &&str| text.contains(&format!("\"{name}\""));
    names(text).into_iter().filter(is_quoted).collect()
}

fn names(text: &str) -> Vec<&str> {
    let is_name = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    let name = |(at, _)| text[at..].split(|c| !is_name(c)).next().unwrap_or_default();
    // xtask itself sets the inputs of tests, so nobody else has to know them.
    let is_setting = |name: &&str| name.len() > "CIAL_".len() && !name.starts_with("CIAL_E2E_");
    text.match_indices("CIAL_").map(name).filter(is_setting).collect()
}

fn faults(reference: &str, others: &[(&str, &str)]) -> Vec<String> {
    check(&Tree::of_files(&[&[(REFERENCE, reference)], others].concat()))
}

#[test]
fn a_planted_setting_is_found() {
    let cases = [
        ("xtask/src/images/build.rs", "environment::var(\"CIAL_PLANTED\")", 1),
        ("xtask/src/images/build.rs", "#[cfg(test)]\n\"CIAL_PLANTED\"", 0),
        ("scripts/plant", "${CIAL_PLANTED:-x}", 1),
        ("compose.yml", "A: ${CIAL_PLANTED:-x}", 1),
        ("crates/router/src/settings.rs", "\"CIAL_PLANTED\"", 0),
        ("compose.yml", "${CIAL_KNOWN:-x}", 0),
    ];
    for (path, text, count) in cases {
        let found = faults("`CIAL_KNOWN`", &[(path, text), ("scripts/reader", "$CIAL_KNOWN")]);
        assert_eq!(found.len(), count, "{path}: {text}");
    }
}

#[test]
fn a_planted_row_is_found() {
    let unread = format!("{REFERENCE} has CIAL_PLANTED, which nobody reads");
    assert_eq!(faults("| `CIAL_PLANTED` |", &[]), [unread]);
    let service = |set_in: &str| format!("{SERVICES}\n| `CIAL_KNOWN` | `1` | {set_in} | a |\n");
    for (set_in, compose, count) in [
        ("`.env`", "A: ${CIAL_KNOWN:-}", 0),
        ("compose.yml", "CIAL_KNOWN: 1", 0),
        ("`.env`", "CIAL_KNOWN: 1", 1),
        ("compose.yml", "A: ${CIAL_KNOWN:-}", 1),
    ] {
        let found = faults(&service(set_in), &[(COMPOSE, compose)]);
        assert_eq!(found.len(), count, "{set_in} {compose}");
    }
}
