//! Settings: parsed once at the start of a service, with every error reported together.

use std::fmt;
use std::str::FromStr;

use crate::Secret;
use crate::run::Env;

/// Every error of one reading, one text each: the name of the variable and the rule that its value breaks.
#[derive(Debug, PartialEq, Eq)]
pub struct SettingsErrors(pub Vec<String>);

/// Reads environment variables and collects the errors.
///
/// Each method returns `None` for an error that is already collected, so that one start reports all of them.
pub struct SettingsReader<'a> {
    lookup: &'a Env,
    errors: Vec<String>,
}

const MIN_SECRET_CHARS: usize = 32;
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

impl<'a> SettingsReader<'a> {
    pub fn new(lookup: &'a Env) -> Self {
        Self { lookup, errors: Vec::new() }
    }

    /// Reads a variable that must be set.
    pub fn required<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<T> {
        match self.text(name) {
            Some(text) => self.parse(name, &text),
            None => self.reject(name, "must be set"),
        }
    }

    /// Reads a variable with a default. A variable that is set but empty counts as unset.
    pub fn or_default<T: FromStr<Err: fmt::Display>>(
        &mut self,
        name: &str,
        default: T,
    ) -> Option<T> {
        match self.text(name) {
            Some(text) => self.parse(name, &text),
            None => Some(default),
        }
    }

    /// Reads a variable that may be absent: `Some(None)` when it is.
    pub fn optional<T: FromStr<Err: fmt::Display>>(&mut self, name: &str) -> Option<Option<T>> {
        match self.text(name) {
            Some(text) => self.parse(name, &text).map(Some),
            None => Some(None),
        }
    }

    /// Reads a secret from the file that `<NAME>_FILE` names: at least 32 characters, no placeholder.
    pub fn secret(&mut self, name: &str) -> Option<Secret> {
        let variable = format!("{name}_FILE");
        let Some(path) = self.text(&variable) else {
            return self.reject(&variable, "must name the file that holds the secret");
        };
        let text = match std::fs::read_to_string(&path) {
            Ok(text) => text.trim_end_matches(['\r', '\n']).to_owned(),
            Err(error) => return self.reject(&variable, &format!("cannot read {path}: {error}")),
        };
        match find_weakness(&text) {
            Some(rule) => self.reject(&variable, &format!("{path} {rule}")),
            None => Some(Secret::new(text)),
        }
    }

    /// Collects an error of the variable `name` that only the caller can detect.
    pub fn reject<T>(&mut self, name: &str, rule: &str) -> Option<T> {
        self.errors.push(format!("{name} {rule}"));
        None
    }

    /// Builds the settings.
    ///
    /// # Errors
    /// Every collected error, when there is any.
    pub fn finish<T>(self, build: impl FnOnce() -> Option<T>) -> Result<T, SettingsErrors> {
        if !self.errors.is_empty() {
            return Err(SettingsErrors(self.errors));
        }
        build().ok_or_else(|| SettingsErrors(vec!["settings are incomplete".to_owned()]))
    }

    fn text(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|text| !text.is_empty())
    }

    fn parse<T: FromStr<Err: fmt::Display>>(&mut self, name: &str, text: &str) -> Option<T> {
        match text.parse() {
            Ok(value) => Some(value),
            Err(rule) => self.reject(name, &format!("{rule} (is {text:?})")),
        }
    }
}

/// The rule that makes a secret unusable, if it breaks any.
fn find_weakness(text: &str) -> Option<String> {
    if text.is_empty() {
        return Some("is empty".to_owned());
    }
    if text.len() < MIN_SECRET_CHARS {
        return Some(format!("is too short: at least {MIN_SECRET_CHARS} characters"));
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
    fn every_error_is_reported_at_once() {
        let lookup = |name: &str| match name {
            "PORT" => Some("eighty".to_owned()),
            _ => None,
        };
        let mut settings = SettingsReader::new(&lookup);
        let port = settings.required::<u16>("PORT");
        let url = settings.required::<String>("URL");
        let token = settings.secret("TOKEN");
        let errors = settings.finish(|| Some((port?, url?, token?))).err().unwrap();
        insta::assert_snapshot!(errors.0.join("\n"), @r#"
        PORT invalid digit found in string (is "eighty")
        URL must be set
        TOKEN_FILE must name the file that holds the secret
        "#);
    }

    #[test]
    fn weak_secrets_are_refused() {
        assert!(find_weakness("").is_some());
        assert!(find_weakness("short").is_some());
        assert!(find_weakness("changeme-changeme-changeme-changeme").is_some());
        assert!(find_weakness(&"a".repeat(64)).is_some());
        assert_eq!(find_weakness("8vY2m0Qz5hYt1rKp7sXw3uBn6cEd9fGa"), None);
    }
}
