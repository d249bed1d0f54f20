//! Every code of a problem and of a field has a user. A test of `protocol` makes the reference from the codes.

use crate::assert_none;
use crate::tree::Tree;

/// The definitions of the codes, with the names of the enums.
const DEFINITIONS: [(&str, &str); 2] = [
    ("crates/protocol/src/problem/code.rs", "Code"),
    ("crates/protocol/src/problem/field_code.rs", "FieldCode"),
];
/// Codes of the programmatic API, which are promised before the calls that answer them.
const RESERVED: &[&str] = &[
    "already_member",
    "forbidden",
    "insufficient_role",
    "invalid_key",
    "invitation_ended",
    "invitation_mismatch",
    "key_not_found",
    "last_owner",
    "resource_not_found",
    "unsupported_filter",
];

#[test]
fn every_code_has_a_user() {
    assert_none(&check(&Tree::of_checkout()));
}

fn check(tree: &Tree) -> Vec<String> {
    let is_definition = |path: &str| DEFINITIONS.iter().any(|(definition, _)| *definition == path);
    let sources =
        tree.rust().filter(|file| file.path.contains("/src/") && !is_definition(&file.path));
    let sources: Vec<_> = sources.map(|file| file.shipped()).collect();
    let is_used = |name: &str| sources.iter().any(|source| source.contains(name));
    let mut faults = Vec::new();
    for (path, code) in DEFINITIONS {
        for (variant, word) in tree.text(path).lines().filter_map(variant) {
            let name = format!("{code}::{variant}");
            if !RESERVED.contains(&word) && !is_used(&name) && !is_used(&format!("\"{word}\"")) {
                faults.push(format!("nobody answers {word}: remove {name}"));
            }
        }
    }
    faults
}

/// Reads a line of an enum, such as `    SlugTaken = "slug_taken" [409] …`.
fn variant(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("    ")?.split_once(" = \"")?;
    let is_name = name.starts_with(|c: char| c.is_ascii_uppercase());
    is_name.then(|| Some((name, rest.split_once('"')?.0)))?
}

#[test]
fn a_code_that_nobody_answers_is_found() {
    let cases = [
        ("Problem::new(Code::SlugTaken); FieldCode::TooLong", 0),
        ("struct Nothing;", 2),
        ("FieldCode::TooLong", 1),
        ("Code::SlugTaken", 1),
        ("#[cfg(test)]\nmod tests { Code::SlugTaken FieldCode::TooLong }", 2),
    ];
    for (user, faults) in cases {
        let files = [
            (DEFINITIONS[0].0, "codes! {\n    SlugTaken = \"slug_taken\" [409]\n}"),
            (DEFINITIONS[1].0, "field_codes! {\n    TooLong = \"too_long\" \"long\",\n}"),
            ("crates/a/src/lib.rs", user),
        ];
        assert_eq!(check(&Tree::of_files(&files)).len(), faults, "{user}");
    }
}
