//! The file `.env`: a person's lines stay unchanged, and missing settings are added below.

use std::path::Path;

use anyhow::{Context as _, Result};

/// Returns the value of a variable as compose reads it.
pub(super) fn get<'a>(text: &'a str, name: &str) -> Option<&'a str> {
    text.lines().rev().find_map(|line| {
        let (key, value) = line.trim_start().split_once('=')?;
        let value = value.trim().trim_matches(['"', '\'']);
        (key.trim_end() == name && !value.is_empty()).then_some(value)
    })
}

/// Returns `text` with every missing variable added; existing lines stay, whatever they contain.
fn completed(text: &str, wanted: &[(&str, String)]) -> String {
    let missing: Vec<_> = wanted.iter().filter(|(name, _)| get(text, name).is_none()).collect();
    if missing.is_empty() {
        return text.to_owned();
    }
    const HEAD: &str =
        "# Added to by `cargo xtask local-up`, which keeps every line that is here.\n";
    let mut completed = if text.is_empty() { HEAD.to_owned() } else { text.to_owned() };
    if !completed.ends_with('\n') {
        completed.push('\n');
    }
    for (name, value) in missing {
        completed.push_str(&format!("{name}={value}\n"));
    }
    completed
}

pub(super) fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_default()
}

/// Adds missing variables to the file at `path`; does not touch a complete file.
pub(super) fn complete(path: &Path, wanted: &[(&str, String)]) -> Result<()> {
    let before = read(path);
    let after = completed(&before, wanted);
    if after != before {
        std::fs::write(path, after).with_context(|| format!("cannot write {}", path.display()))?;
    }
    Ok(())
}

#[test]
fn lines_of_a_person_are_kept_and_read_as_compose_reads_them() {
    let wanted = [("CIAL_INSTALL", "local".to_owned()), ("CIAL_ADMIN_PORT", "3100".to_owned())];
    let mine = "# mine\nCIAL_ADMIN_PORT=\"4000\"\nOTHER=x";
    assert_eq!(completed(mine, &wanted), format!("{mine}\nCIAL_INSTALL=local\n"));
    let once = completed("", &wanted);
    assert_eq!(completed(&once, &wanted), once);
    let text = "A=1\n A = '2'\n# B=3\nC=\n";
    assert_eq!([get(text, "A"), get(text, "B"), get(text, "C")], [Some("2"), None, None]);
}
