//! Every problem code has a user, and the reference has every code of a field. The codes of problems stand in the
//! reference already: a test of `protocol` makes that part from the enum.

use super::tree::{SourceFile, Tree};

const REFERENCE: &str = "docs/reference/problems.md";
/// Names every code, so that a name there does not show that a service uses the code.
const DEFINITION: &str = "crates/protocol/src/problem/code.rs";
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
/// The text before the code of a field; in a call, a sentence follows.
const BEFORE: [&str; 4] = [" code: \"", " error(\"", "(error(\"", "(field(\""];

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let text =
        |path| tree.files.iter().find(|file| file.path == path).map_or("", |file| &file.text);
    let is_source = |file: &&SourceFile| {
        file.path.starts_with("crates/") && file.path.contains("/src/") && file.path != DEFINITION
    };
    let sources: Vec<_> = tree.rust().filter(is_source).collect();
    let is_used = |name: &str| sources.iter().any(|file| shipped(file).contains(name));
    let mut faults = Vec::new();
    for (variant, word) in text(DEFINITION).lines().filter_map(variant) {
        if !RESERVED.contains(&word)
            && !is_used(&format!("Code::{variant}"))
            && !is_used(&format!("\"{word}\""))
        {
            faults.push(format!("nobody answers {word}: remove Code::{variant}"));
        }
    }
    let (_, fields) = text(REFERENCE).split_once("\n## Fields").unwrap_or_default();
    let fields = rows(fields);
    let unused = fields.iter().filter(|code| !is_used(&format!("\"{code}\"")));
    faults.extend(unused.map(|code| format!("{REFERENCE} has {code}, which no field has")));
    for file in &sources {
        let unknown = field_codes(shipped(file)).filter(|code| !fields.contains(code));
        faults.extend(
            unknown.map(|code| format!("{} has {code}, which {REFERENCE} lacks", file.path)),
        );
    }
    faults
}

/// Reads a line of the enum, such as `    SlugTaken = "slug_taken" [409] …`.
fn variant(line: &str) -> Option<(&str, &str)> {
    let (name, rest) = line.strip_prefix("    ")?.split_once(" = \"")?;
    let is_name = name.starts_with(|c: char| c.is_ascii_uppercase());
    is_name.then(|| Some((name, rest.split_once("\" [")?.0)))?
}

/// Returns the codes in the first column of a table.
fn rows(table: &str) -> Vec<&str> {
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// Returns a file without its tests.
fn shipped(file: &SourceFile) -> &str {
    file.text.split("#[cfg(test)]").next().unwrap_or_default()
}

fn field_codes(text: &str) -> impl Iterator<Item = &str> {
    BEFORE
        .iter()
        .flat_map(|before| text.split(before).skip(1).map(move |rest| (before, rest)))
        .filter_map(|(before, rest)| {
            let (word, rest) = rest.split_once('"')?;
            let sentence = rest.trim_start_matches([',', ' ', '\n']).strip_prefix('"');
            let has_sentence = sentence.is_some_and(|text| text.starts_with(char::is_uppercase));
            let is_word = word.bytes().all(|b| b.is_ascii_lowercase() || b == b'_');
            (is_word && (has_sentence || !before.contains('('))).then_some(word)
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(reference: &str, user: &str) -> usize {
        let file =
            |path: &str, text: &str| SourceFile { path: path.to_owned(), text: text.to_owned() };
        let files = vec![
            file(DEFINITION, "codes! {\n    SlugTaken = \"slug_taken\" [409]\n}"),
            file(REFERENCE, &format!("\n## Fields\n\n| code | means |\n|---|---|\n{reference}")),
            file("crates/a/src/lib.rs", user),
        ];
        check(&Tree { files }).len()
    }

    #[test]
    fn a_code_that_nobody_answers_is_found() {
        assert_eq!(faults("", "Problem::new(Code::SlugTaken)"), 0);
        assert_eq!(faults("", "struct Nothing;"), 1);
        assert_eq!(faults("", "#[cfg(test)]\nmod tests { Code::SlugTaken }"), 1);
    }

    #[test]
    fn each_code_of_a_field_has_one_row_with_a_user() {
        let row = "| `too_short`, `too_long` | the length |\n";
        let both = "Code::SlugTaken; error(\"too_short\", \"Use more.\"); FieldError { code: \"too_long\" }";
        assert_eq!(faults(row, both), 0);
        assert_eq!(faults(row, "Code::SlugTaken; error(\"too_short\", \"Use more.\")"), 1);
        assert_eq!(faults("", both), 2);
        assert_eq!(faults("", "Code::SlugTaken; error(\"name\", \"must be text\")"), 0);
    }
}
