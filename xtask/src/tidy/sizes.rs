//! A `main.rs` stays short; a file of more than five hundred lines deserves a second look.

use super::tree::Tree;

const MAIN: usize = 40;
const WORTH_A_LOOK: usize = 500;

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let mains = tree.rust().filter(|file| file.path.ends_with("/src/main.rs"));
    let long =
        mains.map(|file| (file, file.text.lines().count())).filter(|(_, lines)| *lines > MAIN);
    long.map(|(file, lines)| format!("{} has {lines} lines; a main has at most {MAIN}", file.path))
        .collect()
}

/// Returns notes that are no faults.
pub(super) fn warnings(tree: &Tree) -> Vec<String> {
    let counted = tree.rust().map(|file| (file, file.text.lines().count()));
    let long = counted.filter(|(_, lines)| *lines > WORTH_A_LOOK);
    long.map(|(file, lines)| format!("{} has {lines} lines: is the cut right?", file.path))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted_file as file;
    use super::*;

    #[test]
    fn a_planted_long_file_is_found() {
        let tree = file("crates/a/src/main.rs", &"\n".repeat(MAIN + 1));
        assert_eq!(check(&tree).len(), 1);
        assert!(warnings(&tree).is_empty());
        assert!(check(&file("crates/a/src/lib.rs", &"\n".repeat(MAIN + 1))).is_empty());
        assert_eq!(warnings(&file("crates/a/src/lib.rs", &"\n".repeat(WORTH_A_LOOK + 1))).len(), 1);
    }
}
