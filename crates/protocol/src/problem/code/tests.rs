use super::*;

/// The table of the reference is the table of this file. To rewrite the reference:
/// `UPDATE_REFERENCE=1 cargo test -p protocol the_reference`.
#[test]
fn the_reference_is_made_from_the_codes() {
    const PATH: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/reference/problems.md");
    const HEAD: &str = "| code | status | means | what to do |\n|---|---|---|---|\n";
    let text = std::fs::read_to_string(PATH).unwrap();
    let (before, rest) = text.split_once(HEAD).expect("the head of the table");
    let (_, after) = rest.split_once("\n\n").expect("the end of the table");
    let rows: Vec<_> = Code::ALL.iter().map(|code| row(*code)).collect();
    let expected = format!("{before}{HEAD}{}\n\n{after}", rows.join("\n"));
    if option_env!("UPDATE_REFERENCE").is_some() {
        std::fs::write(PATH, &expected).unwrap();
    }
    assert!(text == expected, "the reference is outdated: set UPDATE_REFERENCE=1 and run again");
}

fn row(code: Code) -> String {
    let statuses: Vec<_> = code.statuses().iter().map(u16::to_string).collect();
    format!("| `{code}` | {} | {} | {} |", statuses.join(", "), code.meaning(), code.remedy())
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
        assert_eq!(Code::from_word(code.as_str()), Some(*code));
    }
}
