//! The rules for a file that holds a secret.

use crate::Secret;

const MIN_CHARS: usize = 32;
const PLACEHOLDER_PREFIXES: &[&str] = &[
    "changeme",
    "change-me",
    "change_me",
    "placeholder",
    "secret",
    "password",
    "example",
    "default",
    "xxxx",
];

/// Reads the secret in the file at `path`, without the line break at its end.
///
/// # Errors
/// The rule that the file breaks.
pub(super) fn read(path: &str) -> Result<Secret, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {path}: {error}"))?;
    let text = text.trim_end_matches(['\r', '\n']);
    match find_weakness(text) {
        Some(rule) => Err(format!("{path} {rule}")),
        None => Ok(Secret::new(text.to_owned())),
    }
}

/// The rule that makes a secret unusable, if it breaks any.
fn find_weakness(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".to_owned());
    }
    if text.len() < MIN_CHARS {
        return Some(format!("is too short: at least {MIN_CHARS} characters"));
    }
    let lower = text.to_ascii_lowercase();
    let first = text.chars().next();
    let has_placeholder = PLACEHOLDER_PREFIXES.iter().any(|prefix| lower.starts_with(prefix));
    if has_placeholder || text.chars().all(|c| Some(c) == first) {
        return Some("is a placeholder: put random characters there".to_owned());
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn weak_secrets_are_refused() {
        assert!(find_weakness("").is_some());
        assert!(find_weakness("short").is_some());
        assert!(find_weakness("changeme-changeme-changeme-changeme").is_some());
        assert!(find_weakness(&"a".repeat(64)).is_some());
        assert_eq!(find_weakness("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa"), None);
    }
}
