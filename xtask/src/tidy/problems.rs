//! Every problem code in a service's responses has one row in the reference, and every row appears
//! in a response.

use super::tree::{SourceFile, Tree};

const REFERENCE: &str = "docs/reference/problems.md";
/// Names every code, so that a name there does not show that a service uses the code.
const DEFINITION: &str = "protocol/src/problem/code.rs";
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

pub(super) fn check(tree: &Tree) -> Vec<String> {
    let reference =
        tree.files.iter().find(|file| file.path == REFERENCE).map_or("", |file| &file.text);
    // Each section has one table, because a code may belong to a whole response and to a field.
    let tables: Vec<Vec<&str>> = reference.split("\n## ").map(rows).collect();
    let rows: Vec<&str> = tables.concat();
    let is_source =
        |file: &&SourceFile| file.path.starts_with("crates/") && file.path.contains("/src/");
    let sources: Vec<_> = tree.rust().filter(is_source).collect();
    let mut faults = Vec::new();
    for file in &sources {
        let unknown = codes(file).into_iter().filter(|code| !rows.contains(code));
        faults.extend(
            unknown.map(|code| format!("{} answers {code}, which {REFERENCE} lacks", file.path)),
        );
    }
    for table in &tables {
        let again = table.iter().enumerate().filter(|(at, code)| table[..*at].contains(code));
        faults.extend(again.map(|(_, code)| format!("{REFERENCE} explains {code} twice")));
    }
    let is_named = |code: &str| {
        let (word, variant) = (format!("\"{code}\""), format!("Code::{}", variant(code)));
        let mut users = sources.iter().filter(|file| !file.path.ends_with(DEFINITION));
        users.any(|file| shipped(file).contains(&word) || shipped(file).contains(&variant))
    };
    let idle = rows.iter().filter(|code| !RESERVED.contains(code) && !is_named(code));
    faults.extend(idle.map(|code| format!("{REFERENCE} has {code}, which nobody answers")));
    faults.sort();
    faults.dedup();
    faults
}

/// Returns the codes in the first column of a table.
fn rows(table: &str) -> Vec<&str> {
    let cells = table.lines().filter_map(|line| line.strip_prefix("| ")?.split(" | ").next());
    cells.flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect()
}

/// Returns the enum variant of a code: `SlugTaken` of `slug_taken`.
fn variant(code: &str) -> String {
    let capitalised = |part: &str| part[..1].to_ascii_uppercase() + &part[1..];
    code.split('_').filter(|part| !part.is_empty()).map(capitalised).collect()
}

/// Returns a file without its tests.
fn shipped(file: &SourceFile) -> &str {
    &file.text[..file.text.find("#[cfg(test)]").unwrap_or(file.text.len())]
}

/// Finds words in the positions of a code: after a status, before a sentence, as a field `code`, in
/// a table of codes.
fn codes(file: &SourceFile) -> Vec<&str> {
    let text = shipped(file);
    let has_pairs = text.match_indices(" code, ").any(|(at, _)| is_behind_status(&text[..at]));
    let quotes = text.match_indices('"').map(|(at, _)| at);
    let word = |at: usize| {
        let (before, rest) = (text[..at].trim_end(), &text[at + 1..]);
        let (word, after) = rest.split_once('"')?;
        let is_code = is_word(word)
            && (is_behind_status(before)
                || ((is_in_call(before) || has_pairs) && is_before_sentence(before, after))
                || before.ends_with(" code:")
                || (before.ends_with("=>") && is_in_table(before)));
        is_code.then_some(word)
    };
    quotes.filter_map(word).collect()
}

fn is_word(text: &str) -> bool {
    // A metric also stands before a sentence, and its name starts with the product's name.
    let is_metric = text.starts_with("cial_");
    !text.is_empty() && !is_metric && text.chars().all(|c| c.is_ascii_lowercase() || c == '_')
}

/// Recognises `StatusCode::CONFLICT, "slug_taken"` or `404, "not_found"`.
fn is_behind_status(before: &str) -> bool {
    let Some(before) = before.strip_suffix(',') else { return false };
    let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == ':';
    let status = &before[before.trim_end_matches(is_name).len()..];
    status.starts_with("StatusCode::") || (status.len() == 3 && status.parse::<u16>().is_ok())
}

/// Recognises `fault("too_short", "Use at least …")`. Such pairs are codes if a status accompanies
/// a `code` from elsewhere.
fn is_in_call(before: &str) -> bool {
    before.strip_suffix('(').is_some_and(|name| name.ends_with(|c: char| c.is_ascii_lowercase()))
}

/// Recognises `("ambiguous_path", "This path …")` without a third text after it, which the name of
/// a form's field has.
fn is_before_sentence(before: &str, after: &str) -> bool {
    let sentence = after.strip_prefix(',').and_then(|rest| rest.trim_start().strip_prefix('"'));
    let Some((sentence, rest)) = sentence.and_then(|rest| rest.split_once('"')) else {
        return false;
    };
    let third = rest.trim_start().strip_prefix(',').map(str::trim_start);
    let mut letters = sentence.chars();
    before.ends_with('(')
        && letters.next().is_some_and(|c| c.is_ascii_uppercase())
        && letters.next().is_some_and(|c| !c.is_ascii_uppercase())
        && third.is_none_or(|rest| !rest.starts_with('"'))
}

/// Recognises the inside of a function `code`, and an enum `Code`.
fn is_in_table(before: &str) -> bool {
    let item = before.rfind("\n}").map_or(before, |end| &before[end..]);
    let function = item.rfind("fn ").map_or("", |at| &item[at..]);
    function.starts_with("fn code(") || item.contains("impl Code {")
}

#[cfg(test)]
mod tests {
    use super::super::tree::planted_file as file;
    use super::*;

    #[test]
    fn a_planted_code_is_found() {
        let cases = [
            ("ApiError::new(StatusCode::CONFLICT, \"planted\", \"\")", 1),
            ("ApiError::new(\n    StatusCode::CONFLICT,\n    \"planted\",", 1),
            ("Problem::new(404, \"planted\", \"Not found\", \"\")", 1),
            ("answers::problem(&asker, 502, \"planted\", detail)", 1),
            ("(StatusCode::BAD_REQUEST, \"planted\")", 1),
            ("fault(\"planted\", \"Enter a name.\")", 1),
            (
                "Err((\"planted\", \"A path.\"))\n}\nfn refuse() { problem(asker, 400, code, detail)",
                1,
            ),
            ("[(\"planted\", \"What a figure counts.\", 1)]", 0),
            ("unavailable(\n    \"planted\",\n    \"Busy\",\n    detail,\n)", 1),
            ("Fault { code: \"planted\", rule }", 1),
            ("fn code(&self) -> &str {\n    match self { Self::A => \"planted\" }\n}", 1),
            ("impl Code {\n    fn as_str() { Self::A => \"planted\" }\n}", 1),
            ("fn word(&self) -> &str {\n    match self { Self::A => \"planted\" }\n}", 0),
            ("fn code() {}\n\n}\nfn word() { A => \"planted\" }", 0),
            ("Field::new(\"planted\", \"A name\", \"text\")", 0),
            ("(StatusCode::OK, \"Text for people\")", 0),
            ("#[cfg(test)]\nmod tests { Problem::new(404, \"planted\") }", 0),
        ];
        for (text, faults) in cases {
            assert_eq!(check(&file("crates/a/src/lib.rs", text)).len(), faults, "{text}");
        }
    }

    #[test]
    fn the_enum_that_defines_a_code_does_not_count_as_its_use() {
        let unused = |user: &str| {
            let mut tree = file("crates/protocol/src/problem/code.rs", "A = \"planted_code\"");
            tree.files.push(SourceFile { path: "crates/a/src/lib.rs".into(), text: user.into() });
            let row = "| `planted_code` | 404 | a thing | `other` |\n".to_owned();
            tree.files.push(SourceFile { path: REFERENCE.to_owned(), text: row });
            check(&tree).len()
        };
        assert_eq!(unused(""), 1);
        assert_eq!(unused("Code::PlantedCode"), 0);
        assert_eq!(unused("a(\"planted_code\")"), 0);
    }

    #[test]
    fn each_code_has_one_row_that_somebody_answers() {
        let row = |code: &str| format!("| `{code}` | 404 | a thing | `other` |\n");
        let fields = format!("\n## Fields\n\n{}| `one`, `two` | a fault |\n", row("planted"));
        for (reference, told) in [
            (row("planted"), vec![]),
            (row("planted") + &row("planted"), vec!["explains planted twice"]),
            (row("planted") + &row("old"), vec!["has old, which nobody answers"]),
            (row("planted") + &fields, vec!["has one, which", "has two, which"]),
        ] {
            let mut tree = file("crates/a/src/lib.rs", "(404, \"planted\")");
            tree.files.push(SourceFile { path: REFERENCE.to_owned(), text: reference });
            let faults = check(&tree);
            assert_eq!(faults.len(), told.len(), "{faults:?}");
            assert!(
                faults.iter().zip(told).all(|(fault, told)| fault.contains(told)),
                "{faults:?}"
            );
        }
    }
}
