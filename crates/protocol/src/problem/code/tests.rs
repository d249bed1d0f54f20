use super::*;
use crate::problem::FieldCode;

const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/problems.md");

/// The tables of the reference are made from the codes. To rewrite the reference:
/// `UPDATE_REFERENCE=1 cargo test -p protocol the_reference`.
#[test]
fn the_reference_is_made_from_the_codes() {
    let text = std::fs::read_to_string(PATH).unwrap();
    let codes: Vec<_> = Code::ALL.iter().map(|code| row(*code)).collect();
    let expected =
        with_rows(&text, "| code | status | means | what to do |\n|---|---|---|---|\n", &codes);
    let fields = FieldCode::MEANINGS.iter().map(|(code, means)| format!("| `{code}` | {means} |"));
    let fields: Vec<_> = fields.collect();
    let expected = with_rows(&expected, "| field's code | means |\n|---|---|\n", &fields);
    if option_env!("UPDATE_REFERENCE").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    assert!(text == expected, "the reference is outdated: set UPDATE_REFERENCE=1 and run again");
}

/// Replaces the rows of the table with this head.
fn with_rows(text: &str, head: &str, rows: &[String]) -> String {
    let (before, rest) = text.split_once(head).expect("the head of the table");
    let (_, after) = rest.split_once("\n\n").expect("the end of the table");
    format!("{before}{head}{}\n\n{after}", rows.join("\n"))
}

fn row(code: Code) -> String {
    let statuses: Vec<_> = code.statuses().iter().map(u16::to_string).collect();
    format!("| `{code}` | {} | {} | {} |", statuses.join(", "), code.meaning(), code.remedy())
}

#[test]
fn programs_show_meanings_and_remedies_without_markdown() {
    for code in Code::ALL {
        for text in [Some(code.plain_meaning()), code.plain_remedy()].into_iter().flatten() {
            assert!(!text.contains("](") && !text.contains('`'), "{code}: {text}");
            assert!(text.chars().any(char::is_alphabetic), "{code}: {text}");
        }
    }
    assert_eq!(
        Code::BackupsOff.plain_remedy().as_deref(),
        Some("set CIAL_BACKUP_URL; see backups")
    );
}

#[test]
fn codes_are_unique_words_in_order_with_error_statuses_and_titles() {
    for pair in Code::ALL.windows(2) {
        assert!(pair[0].as_str() < pair[1].as_str(), "{} before {}", pair[0], pair[1]);
    }
    for code in Code::ALL {
        assert!(code.as_str().bytes().all(|b| b.is_ascii_lowercase() || b == b'_'), "{code}");
        assert!(code.statuses().iter().all(|status| (400..600).contains(status)), "{code}");
        assert!(code.title().starts_with(|c: char| c.is_ascii_uppercase()), "{code}");
        assert_eq!(Code::parse(code.as_str()), Some(*code));
    }
}
