//! The tables in `docs/` that are made from the code.

/// Compares the table below `heading` in a page of the repository with `table`, or writes it there when this crate
/// is built with `UPDATE_REFERENCE` in the environment.
///
/// # Panics
/// When the page differs, or has no such heading.
pub fn check_table(page: &str, heading: &str, table: &str) {
    let path = format!("{}/../../{page}", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(&path).unwrap_or_else(|e| panic!("{path}: {e}"));
    let start = text.find(&format!("{heading}\n\n")).map(|at| at + heading.len() + 2);
    let start = start.unwrap_or_else(|| panic!("{page} has no heading {heading:?}"));
    let length = text[start..].find("\n\n").unwrap_or(text.len() - start);
    let expected = format!("{}{table}{}", &text[..start], &text[start + length..]);
    if option_env!("UPDATE_REFERENCE").is_some() {
        std::fs::write(&path, &expected).unwrap_or_else(|e| panic!("{path}: {e}"));
    }
    assert!(
        text == expected,
        "{page} differs from the code: set UPDATE_REFERENCE=1 and run again\n{table}"
    );
}
