//! Every setting that compose.yml, a service, xtask or a script reads is in the reference, and
//! every setting of the reference is read.

use super::tree::{SourceFile, Tree};

const REFERENCE: &str = "docs/reference/settings.md";
/// The readers whose settings the reference describes. Inside a tenant, names belong to the
/// contract with PID 1.
const READERS: &[&str] = &[
    ".ci/",
    "compose.yml",
    "crates/app-api/src/",
    "crates/orchestrator/src/",
    "crates/router/src/",
    "crates/service/src/",
    "scripts/",
    "xtask/src/",
];
/// These files name settings in order to find them, or to pass them to the browser's test.
const ABOUT_SETTINGS: &[&str] = &["xtask/src/tidy/", "xtask/src/test.rs"];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let Some(reference) = tree.files.iter().find(|file| file.path == REFERENCE) else {
        return Vec::new();
    };
    let known = names(&reference.text);
    let (mut faults, mut read) = (Vec::new(), Vec::new());
    for file in tree.files.iter().filter(|file| is_reader(file)) {
        for name in settings(file) {
            let secret = format!("{name}_FILE");
            if !known.contains(&name) && !known.contains(&secret.as_str()) {
                faults.push(format!("{} reads {name}, which {REFERENCE} lacks", file.path));
            }
            read.extend([name.to_owned(), secret]);
        }
    }
    let unread = known.into_iter().filter(|name| !read.iter().any(|read| read == name));
    faults.extend(unread.map(|name| format!("{REFERENCE} has {name}, which nobody reads")));
    faults.sort();
    faults.dedup();
    faults
}

fn is_reader(file: &SourceFile) -> bool {
    let is_below = |places: &[&str]| places.iter().any(|place| file.path.starts_with(place));
    is_below(READERS) && !is_below(ABOUT_SETTINGS) && !file.path.ends_with(".snap")
}

/// Returns the settings that a file reads. In Rust, these are complete string literals outside of
/// tests.
fn settings(file: &SourceFile) -> Vec<&str> {
    if !file.path.ends_with(".rs") {
        return names(&file.text);
    }
    let tests = file.text.find("#[cfg(test)]").unwrap_or(file.text.len());
    let text = &file.text[..tests];
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_planted_setting_is_found() {
        let cases = [
            ("crates/router/src/settings.rs", "vars.or_default(\"CIAL_PLANTED\", 1)", 1),
            ("crates/router/src/settings.rs", "#[cfg(test)]\n\"CIAL_PLANTED\"", 0),
            ("xtask/src/images/build.rs", "world::var(\"CIAL_PLANTED\")", 1),
            ("scripts/plant", "${CIAL_PLANTED:-x}", 1),
            ("compose.yml", "A: ${CIAL_PLANTED:-x}", 1),
            ("crates/edge/src/lib.rs", "\"CIAL_PLANTED\"", 0),
            ("crates/router/src/settings.rs", "vars.secret(\"CIAL_KNOWN\")", 0),
        ];
        for (path, text, faults) in cases {
            let file = |path: &str, text: &str| SourceFile {
                path: path.to_owned(),
                text: text.to_owned(),
            };
            let reader = file("scripts/reader", "$CIAL_KNOWN_FILE");
            let reference = file(REFERENCE, "`CIAL_KNOWN_FILE`");
            let files = vec![file(path, text), reader, reference];
            let tree = Tree { files };
            assert_eq!(check(&tree).len(), faults, "{path}: {text}");
        }
    }

    #[test]
    fn a_planted_row_is_found() {
        let reference =
            SourceFile { path: REFERENCE.to_owned(), text: "| `CIAL_PLANTED` |".to_owned() };
        let tree = Tree { files: vec![reference] };
        assert_eq!(check(&tree), [format!("{REFERENCE} has CIAL_PLANTED, which nobody reads")]);
    }
}
