//! A `main.rs` stays short; a file of more than five hundred lines deserves a second look.

use crate::assert_none;
use crate::tree::Tree;

const MAIN: usize = 40;
const WORTH_A_LOOK: usize = 500;

#[test]
fn files_are_of_a_readable_size() {
    let tree = Tree::of_checkout();
    for (path, lines) in longer(&tree, "", WORTH_A_LOOK) {
        println!("note: {path} has {lines} lines: is the cut right?");
    }
    let message = |(path, lines)| format!("{path} has {lines} lines; a main has at most {MAIN}");
    assert_none(&longer(&tree, "/src/main.rs", MAIN).into_iter().map(message).collect::<Vec<_>>());
}

/// Returns files of Rust with their numbers of lines.
fn longer<'a>(tree: &'a Tree, ending: &str, limit: usize) -> Vec<(&'a str, usize)> {
    let files = tree.rust().filter(|file| file.path.ends_with(ending));
    let counted = files.map(|file| (file.path.as_str(), file.text.lines().count()));
    counted.filter(|(_, lines)| *lines > limit).collect()
}

#[test]
fn a_planted_long_file_is_found() {
    let lines = "\n".repeat(MAIN + 1);
    let tree = Tree::of_files(&[("crates/a/src/main.rs", &lines), ("crates/a/src/lib.rs", &lines)]);
    assert_eq!(longer(&tree, "/src/main.rs", MAIN), [("crates/a/src/main.rs", MAIN + 1)]);
    assert_eq!(longer(&tree, "", WORTH_A_LOOK), []);
}
